// bflow-train as a user runs it, on a small format-16 record: what it writes loads and scores, the
// same seed gives the same weights, and neither Ctrl-C nor a full disk leaves anything broken.
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/repository.h"
#include "model/checkpoint/safetensors.h"
#include "model/scoring/flow_scorer.h"
#include "tests/model/training/tiny_record.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;
constexpr int kFrames = 64 * 400 + 17;

class TrainProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/bflow_train_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    WriteTinyRecord(folder_, kFrames);
  }
  std::string preset_ = "waveform-published";

  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::vector<std::string> Arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {BFLOW_TRAIN,
                                          "--preset=" + preset_,
                                          "--data",
                                          folder_ + "/tiny",
                                          "--signals=A,B",
                                          "--out=" + folder_ + "/models",
                                          "--model=tiny",
                                          "--window=64",
                                          "--batch=16",
                                          "--train_fraction=0.5",
                                          "--validation_fraction=0.1",
                                          "--calibration_fraction=0.2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  // Starts the program; stdout and stderr go to files in folder_.
  pid_t Start(std::vector<std::string> arguments, rlim_t file_size = RLIM_INFINITY) const {
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    std::string out = folder_ + "/stdout", err = folder_ + "/stderr";
    pid_t child = fork();
    if (child == 0) {
      if (freopen(out.c_str(), "w", stdout) == nullptr ||
          freopen(err.c_str(), "w", stderr) == nullptr) {
        _exit(99);
      }
      if (file_size != RLIM_INFINITY) {
        rlimit limit = {file_size, file_size};
        setrlimit(RLIMIT_FSIZE, &limit);
      }
      execv(argv[0], argv.data());
      _exit(98);
    }
    return child;
  }
  static int Wait(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  int Train(const std::vector<std::string>& more, rlim_t file_size = RLIM_INFINITY) const {
    return Wait(Start(Arguments(more), file_size));
  }
  std::string Text(const std::string& name) const {
    absl::StatusOr<std::string> text = ReadFile(folder_ + "/" + name, 1 << 20);
    return text.ok() ? *text : "";
  }
  std::string Version(int64_t version, const std::string& model = "tiny") const {
    return VersionDirectory(folder_ + "/models", model, version);
  }

  std::string folder_;
};

// The self-test rows of a version are reproduced by its scorer.
void ExpectScores(const std::string& version) {
  absl::StatusOr<Checkpoint> checkpoint = ReadCheckpoint(version);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_TRUE(checkpoint->calibration.has_value());
  absl::StatusOr<std::unique_ptr<Scorer>> scorer = MakeFlowScorer(*checkpoint);
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  const SelfTest& expected = checkpoint->self_test;
  ASSERT_EQ(expected.rows, 16);
  absl::StatusOr<AnomalyResult> result = (*scorer)->Anomaly({expected.rows, expected.x}, {});
  ASSERT_TRUE(result.ok()) << result.status();
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(result->log_prob[i], expected.log_prob[i],
                2e-4 * std::max(1.0, std::abs(expected.log_prob[i])));
    EXPECT_NEAR(result->score[i], expected.score[i], 2e-4 * std::max(1.0, expected.score[i]));
  }
}

// Values of a column of the metrics file.
std::vector<double> Column(const std::string& csv, size_t column) {
  std::vector<double> values;
  std::istringstream lines(csv);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string field;
    for (size_t c = 0; c <= column; ++c) std::getline(fields, field, ',');
    values.push_back(std::stod(field));
  }
  return values;
}

TEST_F(TrainProgramTest, TrainsCalibratesAndWritesAModelThatScores) {
  ASSERT_EQ(Train({"--steps=60", "--validate_every=20", "--metrics_csv=" + folder_ + "/m.csv",
                   "--licence=test data", "--checkpoint_every=30"}),
            0)
      << Text("stderr");
  ExpectScores(Version(1));
  ExpectScores(Version(30, "tiny-v1-steps"));
  std::vector<double> nll = Column(Text("m.csv"), 2), validation = Column(Text("m.csv"), 4);
  ASSERT_EQ(nll.size(), 3u);
  EXPECT_LT(nll[2], nll[0] - 0.1);
  EXPECT_LT(validation[2], validation[0] - 0.05);

  Checkpoint checkpoint = *ReadCheckpoint(Version(1));
  std::map<std::string, std::string>& card = checkpoint.manifest.card;
  EXPECT_EQ(card["trained_on"], "tiny");
  EXPECT_EQ(card["signals"], "A, B");
  EXPECT_EQ(card["windows"], "200");
  EXPECT_EQ(card["licence"], "test data");
  EXPECT_EQ(card["calibration_windows"], "80");
  EXPECT_NEAR(std::stod(card["validation_nats_per_dim"]),
              *std::min_element(validation.begin(), validation.end()), 1e-5);
  EXPECT_THAT(Text("stdout"), HasSubstr("nats/sample (converter step)"));
  EXPECT_THAT(Text("stderr"), HasSubstr("fewer than 200"));
  // Patient data by default: nobody else may read it.
  struct stat info;
  ASSERT_EQ(stat((Version(1) + "/model.safetensors").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);

  // The next run takes the next version; a version that exists is never overwritten.
  ASSERT_EQ(Train({"--steps=2"}), 0) << Text("stderr");
  EXPECT_TRUE(FileExists(Version(2) + "/manifest.json"));
  EXPECT_EQ(Train({"--steps=2", "--version=1"}), 73);
  EXPECT_THAT(Text("stderr"), HasSubstr("never overwritten"));
}

// Trained with the flow behind it, stored and served.
TEST_F(TrainProgramTest, TrainsTheDequantisationWithTheFlow) {
  preset_ = "waveform";
  ASSERT_EQ(Train({"--dequantisation=variational", "--steps=12"}), 0) << Text("stderr");
  ExpectScores(Version(1));
  const Checkpoint checkpoint = *ReadCheckpoint(Version(1));
  ASSERT_EQ(checkpoint.spec.pre.size(), 2u);
  EXPECT_EQ(LayerKind(checkpoint.spec.pre[0]), "variational_dequantisation");
  EXPECT_EQ(WhiteningIndex(checkpoint.spec), 1u);
  EXPECT_EQ(checkpoint.spec.dequantization, SpecDequantization::kUniform);
  for (const char* name : {"pre.0.net.4.weight", "pre.0.log_scale", "pre.1.lags"}) {
    const TensorView* tensor = checkpoint.tensors.Find(name);
    ASSERT_NE(tensor, nullptr);
    std::vector<float> values(tensor->data.size() / sizeof(float));
    std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
    EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float v) { return v != 0; })) << name;
  }
  SampleOptions options;
  options.rows = 2;
  const std::unique_ptr<Scorer> scorer = *MakeFlowScorer(checkpoint);
  const SampleResult sample = *scorer->Sample(options);
  for (const float code : sample.samples) EXPECT_EQ(code, std::floor(code));

  // A spec that has the layer needs no flag, and takes none.
  std::ofstream(folder_ + "/spec.json") << FlowSpecToJson(checkpoint.spec);
  ASSERT_EQ(Train({"--spec=" + folder_ + "/spec.json", "--steps=12"}), 0) << Text("stderr");
  EXPECT_EQ(*ReadFile(Version(2) + "/model.safetensors", 1 << 24),
            *ReadFile(Version(1) + "/model.safetensors", 1 << 24));
  EXPECT_EQ(Train({"--spec=" + folder_ + "/spec.json", "--dequantisation=variational"}), 64);
  EXPECT_THAT(Text("stderr"), HasSubstr("--dequantisation: the flow of --spec has this layer"));
  EXPECT_EQ(Train({"--dequantisation=gauss"}), 64);
  EXPECT_THAT(Text("stderr"), HasSubstr("--dequantisation: expected uniform or variational"));
}

TEST_F(TrainProgramTest, TheSameSeedGivesTheSameWeights) {
  for (const char* more : {"--seed=4", "--seed=4", "--seed=5"}) {
    ASSERT_EQ(Train({"--steps=8", more, "--ema=0.9"}), 0) << Text("stderr");
  }
  auto weights = [this](int64_t version) {
    return *ReadFile(Version(version) + "/model.safetensors", 1 << 24);
  };
  EXPECT_EQ(weights(1), weights(2));
  EXPECT_NE(weights(1), weights(3));
}

TEST_F(TrainProgramTest, WithoutValidationAndCalibrationTheLastStepIsKept) {
  ASSERT_EQ(Train({"--steps=5", "--train_fraction=0.8", "--validation_fraction=0",
                   "--calibration_fraction=0", "--sensitivity=none"}),
            0)
      << Text("stderr");
  Checkpoint checkpoint = *ReadCheckpoint(Version(1));
  EXPECT_FALSE(checkpoint.calibration.has_value());
  EXPECT_EQ(checkpoint.manifest.card["steps"], "5");
  EXPECT_EQ(checkpoint.spec.sensitivity, Sensitivity::kNone);
  EXPECT_EQ(checkpoint.self_test.rows, 16);
}

TEST_F(TrainProgramTest, CtrlCWritesTheModelAsItIs) {
  pid_t child = Start(Arguments({"--steps=1000000", "--validate_every=5"}));
  // Wait for a first report, 30 s at most.
  for (int i = 0; i < 1500 && Text("stderr").find("step 5/") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_THAT(Text("stderr"), HasSubstr("step 5/"));
  kill(child, SIGINT);
  EXPECT_EQ(Wait(child), 130) << Text("stderr");
  ExpectScores(Version(1));
}

// kill -9 at several places of a run, each gone on from: the weights are those of a run that was
// let be, to the bit; so is the metrics file but for its times.
TEST_F(TrainProgramTest, ResumeAfterKillsGivesTheSameBits) {
  preset_ = "waveform";  // the whitening is no part of the state: it is fitted again
  const std::vector<std::string> settings = {"--steps=300", "--validate_every=50", "--ema=0.99",
                                             "--checkpoint_every=30", "--seed=4"};
  std::vector<std::string> whole = settings, killed = settings;
  whole.insert(whole.end(), {"--model=whole", "--metrics_csv=" + folder_ + "/whole.csv"});
  killed.insert(killed.end(), {"--resume", "--metrics_csv=" + folder_ + "/killed.csv"});
  ASSERT_EQ(Train(whole), 0) << Text("stderr");
  const std::string state = folder_ + "/models/.tiny.training";
  const auto inode = [&] {
    struct stat info;
    return stat(state.c_str(), &info) == 0 ? info.st_ino : 0;
  };
  int kills = 0;
  for (int round = 0; round < 3; ++round) {  // of nine states that the run writes
    const pid_t child = Start(Arguments(killed));
    const ino_t before = inode();
    int status = 0;
    while (inode() == before && waitpid(child, &status, WNOHANG) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(7 * round));  // somewhere after it
    if (kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status)) {
      ++kills;
    }
  }
  EXPECT_EQ(kills, 3);
  ASSERT_EQ(Train(killed), 0) << Text("stderr");
  EXPECT_THAT(Text("stderr"), HasSubstr("going on after step"));
  EXPECT_FALSE(FileExists(state));
  EXPECT_EQ(Text("models/tiny/1/model.safetensors"), Text("models/whole/1/model.safetensors"));
  EXPECT_EQ(Column(Text("killed.csv"), 0), Column(Text("whole.csv"), 0));
  EXPECT_EQ(Column(Text("killed.csv"), 2), Column(Text("whole.csv"), 2));
}

TEST_F(TrainProgramTest, ResumeAfterCtrlCAndRefusals) {
  const pid_t child = Start(Arguments({"--steps=100000", "--validate_every=5"}));
  for (int i = 0; i < 1500 && Text("stderr").find("step 5/") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  kill(child, SIGINT);
  ASSERT_EQ(Wait(child), 130) << Text("stderr");
  ASSERT_TRUE(FileExists(folder_ + "/models/.tiny.training"));
  EXPECT_EQ(Train({"--steps=100000", "--validate_every=7", "--resume"}), 64);
  EXPECT_THAT(Text("stderr"), HasSubstr("other data, settings"));
  EXPECT_EQ(
      Train({"--steps=100000", "--validate_every=5", "--dequantisation=variational", "--resume"}),
      64);
  EXPECT_THAT(Text("stderr"), HasSubstr("other data, settings"));
  std::ofstream(folder_ + "/models/.tiny.training", std::ios::app) << "x";
  EXPECT_EQ(Train({"--steps=100000", "--validate_every=5", "--resume"}), 65);
  EXPECT_THAT(Text("stderr"), HasSubstr("training state"));
  EXPECT_EQ(Train({"--steps=2"}), 0) << "a run without --resume starts anew";
  EXPECT_FALSE(FileExists(folder_ + "/models/.tiny.training"));
}

TEST_F(TrainProgramTest, AFullDiskLeavesThePreviousVersionIntact) {
  ASSERT_EQ(Train({"--steps=2"}), 0) << Text("stderr");
  EXPECT_EQ(Train({"--steps=2"}, 4096), 73) << Text("stderr");
  EXPECT_FALSE(FileExists(Version(2) + "/manifest.json"));
  ExpectScores(Version(1));
}

TEST_F(TrainProgramTest, ABrokenRecordIsListedAndTheOthersTrain) {
  std::ofstream(folder_ + "/broken.hea") << "broken 1 125 100\nbroken.dat 16 200\n";  // no .dat
  std::vector<std::string> arguments = Arguments({"--steps=2"});
  arguments.insert(arguments.begin() + 3, folder_ + "/broken");
  EXPECT_EQ(Wait(Start(arguments)), 1) << Text("stderr");
  EXPECT_THAT(Text("stderr"), HasSubstr("broken"));
  ExpectScores(Version(1));
}

TEST_F(TrainProgramTest, ADivergedModelIsNotWritten) {
  EXPECT_EQ(Train({"--steps=40", "--warmup_steps=0", "--schedule=constant", "--learning_rate=1",
                   "--checkpoint=last"}),
            70)
      << Text("stderr");
  EXPECT_THAT(Text("stderr"), HasSubstr("model not written"));
  // Also where no later step would have shown it.
  EXPECT_EQ(Train({"--steps=1", "--warmup_steps=0", "--learning_rate=1", "--train_fraction=1",
                   "--validation_fraction=0", "--calibration_fraction=0"}),
            70)
      << Text("stderr");
  EXPECT_FALSE(FileExists(Version(1) + "/manifest.json"));
}

TEST_F(TrainProgramTest, ErrorsHaveTheirExitCodes) {
  EXPECT_EQ(Train({"--preset=nonsense"}), 64);
  EXPECT_THAT(
      Text("stderr"),
      HasSubstr("waveform, waveform-light, waveform-exact, waveform-published, waveform-paper"));
  EXPECT_EQ(Train({"--frobnicate=1"}), 64);
  EXPECT_EQ(Train({"--device=cuda", "--steps=2"}), 78);
  EXPECT_THAT(Text("stderr"), HasSubstr("device: cuda"));
  std::vector<std::string> arguments = Arguments({"--steps=2"});
  arguments[3] = folder_ + "/absent";
  EXPECT_EQ(Wait(Start(arguments)), 65);
  EXPECT_THAT(Text("stderr"), HasSubstr("absent"));
  EXPECT_EQ(Train({"--signals=A,nothing"}), 65);
  EXPECT_THAT(Text("stderr"), HasSubstr("nothing"));
  EXPECT_EQ(Train({"--out=/dev/null/models"}), 73);
}

TEST_F(TrainProgramTest, ImportsAModelFileAndGivesItSelfTestRows) {
  ASSERT_EQ(Train({"--steps=2"}), 0) << Text("stderr");
  const std::vector<std::string> import = {BFLOW_TRAIN, "--out=" + folder_ + "/models",
                                           "--import=" + Version(1) + "/model.safetensors"};
  const auto run = [&](std::vector<std::string> arguments, const std::string& more) {
    arguments.push_back(more);
    return Wait(Start(arguments));
  };
  ASSERT_EQ(run(import, "--model=copy"), 0) << Text("stderr");
  absl::StatusOr<Checkpoint> copy = ReadCheckpoint(Version(1, "copy"));
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_FALSE(copy->calibration.has_value());
  const SelfTest& expected = copy->self_test;
  ASSERT_EQ(expected.rows, 16);
  absl::StatusOr<std::unique_ptr<Scorer>> scorer = MakeFlowScorer(*copy);
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  auto result = (*scorer)->LogLikelihood({expected.rows, expected.x}, {NoiseKind::kCenter}, false);
  ASSERT_TRUE(result.ok()) << result.status();
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_TRUE(Reproduces(result->log_prob[i], expected.log_prob[i], kSelfTestRtol)) << i;
  }

  // The next free version; one that is there is refused, and so is what no server would load.
  ASSERT_EQ(run(import, "--model=copy"), 0);
  EXPECT_TRUE(ReadCheckpoint(Version(2, "copy")).ok());
  std::vector<std::string> again = import;
  again.push_back("--version=2");
  EXPECT_EQ(run(again, "--model=copy"), 73);
  for (const char* name : {"/models/copy/1/selftest.safetensors", "/tiny.hea", "/none"}) {
    EXPECT_EQ(run({BFLOW_TRAIN, "--out=" + folder_ + "/other", "--import=" + folder_ + name},
                  "--model=copy"),
              65)
        << name;
  }
  EXPECT_FALSE(FileExists(folder_ + "/other"));
}

// Weights that float32 cannot undo: samples of the model are of no use as self-test rows, rows from
// the range of its signals are.
TEST_F(TrainProgramTest, ImportsWeightsThatAreTooSteepForSamples) {
  ASSERT_EQ(Train({"--steps=2", "--preset=waveform-published"}), 0) << Text("stderr");
  const auto file =
      SafetensorsFile::Parse(*ReadFile(Version(1) + "/model.safetensors", int64_t{1} << 30));
  ASSERT_TRUE(file.ok()) << file.status();
  std::map<std::string, std::string> metadata = file->metadata();
  FlowSpec spec = *ParseFlowSpec(metadata.at("flow_spec"));
  spec.dequantization = SpecDequantization::kNone;  // codes would be clamped to their range
  metadata["flow_spec"] = FlowSpecToJson(spec);
  const auto import = [&](float steepness, const std::string& model) {
    std::vector<TensorToWrite> tensors;
    std::vector<std::vector<float>> steep;
    for (const TensorView& view : file->tensors()) {
      tensors.push_back({view.name, view.dtype, view.shape, view.data});
      if (!absl::EndsWith(view.name, ".upper")) continue;
      steep.emplace_back(view.data.size() / sizeof(float), steepness);
      tensors.back().data = std::as_bytes(std::span(steep.back()));
    }
    const std::string path = folder_ + "/steep.safetensors";
    EXPECT_TRUE(WriteFileAtomically(path, *SerializeSafetensors(tensors, metadata), 0600).ok());
    return Wait(Start(
        {BFLOW_TRAIN, "--out=" + folder_ + "/models", "--import=" + path, "--model=" + model}));
  };
  ASSERT_EQ(import(3000, "steep"), 0) << Text("stderr");
  const absl::StatusOr<Checkpoint> steep = ReadCheckpoint(Version(1, "steep"));
  ASSERT_TRUE(steep.ok()) << steep.status();
  EXPECT_TRUE(MakeFlowScorer(*steep).ok());
  // Where those cannot be scored either, it is refused.
  EXPECT_EQ(import(1e30f, "hopeless"), 65);
  EXPECT_THAT(Text("stderr"), HasSubstr("x: row 0"));
}

}  // namespace
}  // namespace bflow
