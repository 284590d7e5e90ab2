// bflow-train with its fault points compiled in, killed and poisoned where a plan says: what was
// written before loads, and the run that goes on gives the same bits.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/repository.h"
#include "tests/model/training/tiny_record.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;

class TrainFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/bflow_faults_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    WriteTinyRecord(folder_, 16 * 80);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Exit code, or the signal as a negative number.
  int Train(const std::string& model, const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {BFLOW_TRAIN_FAULTS,
                                          "--preset=waveform-published",
                                          "--data",
                                          folder_ + "/tiny",
                                          "--signals=A,B",
                                          "--device=cpu",
                                          "--out=" + folder_ + "/models",
                                          "--model=" + model,
                                          "--window=16",
                                          "--batch=4",
                                          "--train_fraction=0.5",
                                          "--validation_fraction=0.1",
                                          "--calibration_fraction=0.2",
                                          "--steps=7",
                                          "--checkpoint_every=2",
                                          "--validate_every=3",
                                          "--ema=0.9",
                                          "--metrics_csv=" + folder_ + "/" + model + ".csv"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    const std::string out = folder_ + "/stdout", err = folder_ + "/stderr";
    const pid_t child = fork();
    if (child == 0) {
      if (freopen(out.c_str(), "w", stdout) == nullptr ||
          freopen(err.c_str(), "w", stderr) == nullptr) {
        _exit(99);
      }
      execv(argv[0], argv.data());
      _exit(98);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string Text(const std::string& name) const {
    const absl::StatusOr<std::string> text = ReadFile(folder_ + "/" + name, 1 << 20);
    return text.ok() ? *text : "";
  }
  // The weights of the newest version of a model, every listed one of which loads.
  std::string Weights(const std::string& model) const {
    const auto models = ListRepository(folder_ + "/models", nullptr);
    EXPECT_TRUE(models.ok());
    std::string weights;
    for (const RepositoryModel& found : *models) {
      for (const int64_t version : found.versions) {
        const auto read =
            ReadCheckpoint(VersionDirectory(folder_ + "/models", found.name, version));
        EXPECT_TRUE(read.ok()) << found.name << " " << version << ": " << read.status();
        if (found.name == model) {
          weights = Text(absl::StrCat("models/", model, "/", version, "/model.safetensors"));
        }
      }
    }
    return weights;
  }
  // The metrics without the columns that are times: steps, losses, gradient norms, counts.
  std::vector<std::string> Metrics(const std::string& model) const {
    std::vector<std::string> lines;
    std::string line;
    int column = 0;
    for (const char c : Text(model + ".csv")) {
      if (c == '\n') {
        lines.push_back(line);
        line.clear();
        column = 0;
      } else {
        column += c == ',';
        if (column != 6 && column != 7) line += c;
      }
    }
    return lines;
  }
  // Runs under the plan, then goes on to the end. True if the first run was killed.
  bool KilledThenSameBits(const std::string& plan, const std::string& whole) {
    const int code = Train("killed", {"--resume", "--fault_plan=" + plan});
    EXPECT_TRUE(code == 0 || code == -SIGKILL) << code << Text("stderr");
    Weights("killed");  // everything listed loads
    // Where the kill came after the model was whole and before the state was removed, the run is
    // done once more.
    EXPECT_EQ(Train("killed", {"--resume"}), 0) << Text("stderr");
    EXPECT_EQ(Weights("killed"), whole);
    EXPECT_EQ(Metrics("killed"), Metrics("whole"));
    EXPECT_FALSE(FileExists(folder_ + "/models/.killed.training"));
    for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/models")) {
      if (absl::StrCat(entry.path().filename().string()).find("killed") == 0) {
        std::filesystem::remove_all(entry.path());
      }
    }
    return code == -SIGKILL;
  }

  std::string folder_;
};

TEST_F(TrainFaultsTest, KilledAtEveryPoint) {
  ASSERT_EQ(Train("whole", {}), 0) << Text("stderr");
  const std::string whole = Weights("whole");
  // In the first file, in the middle, and in the last ones, where the point is hit that often.
  int kills = 0;
  for (const char* point :
       {"trainer.before_step", "trainer.after_step", "train_state.before_write",
        "train_state.after_write", "checkpoint.before_folder", "checkpoint.before_manifest",
        "checkpoint.after_manifest", "file.before_write", "file.before_fsync", "file.before_rename",
        "file.after_rename"}) {
    for (const int hit : {1, 3, 7}) {
      SCOPED_TRACE(absl::StrCat(point, "@", hit));
      kills += KilledThenSameBits(absl::StrCat(point, "@", hit), whole);
    }
  }
  EXPECT_GE(kills, 11 * 2);
}

TEST_F(TrainFaultsTest, KilledAtRandomPlaces) {
  ASSERT_EQ(Train("whole", {}), 0) << Text("stderr");
  const std::string whole = Weights("whole");
  int kills = 0;
  for (int seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    kills +=
        KilledThenSameBits(absl::StrCat("seed=", seed, ",activation=0.5,probability=0.05"), whole);
  }
  EXPECT_GE(kills, 3);
}

TEST_F(TrainFaultsTest, NanBatchesAreSkippedAndCountedEverywhere) {
  ASSERT_EQ(Train("m", {"--fault_plan=trainer.nan_batch@2,trainer.nan_batch@5-6"}), 0)
      << Text("stderr");
  EXPECT_THAT(Text("stdout"), HasSubstr("3 steps skipped"));
  EXPECT_THAT(Text("stderr"), HasSubstr(" 3 skipped "));
  const std::vector<std::string> metrics = Metrics("m");
  ASSERT_EQ(metrics.size(), 4u);
  const auto skipped = [&metrics](size_t line) {
    return std::vector<std::string>(absl::StrSplit(metrics[line], ','))[7];  // two are times
  };
  EXPECT_EQ(skipped(0), "skipped_steps");
  EXPECT_EQ(skipped(1), "1");
  EXPECT_EQ(skipped(3), "3");
  Checkpoint checkpoint = *ReadCheckpoint(folder_ + "/models/m/1");
  EXPECT_EQ(checkpoint.manifest.card["skipped_steps"], "3");
  EXPECT_EQ(checkpoint.manifest.card.count("ended"), 0u);
}

TEST_F(TrainFaultsTest, TenNanBatchesInARowEndTheTraining) {
  ASSERT_EQ(Train("m", {"--checkpoint=last", "--fault_plan=trainer.nan_batch@6-15"}), 70);
  EXPECT_THAT(Text("stderr"), HasSubstr("not finite after step 5"));
  EXPECT_THAT(Text("stderr"), HasSubstr("those of step 4"));
  Checkpoint checkpoint = *ReadCheckpoint(folder_ + "/models/m/1");
  EXPECT_EQ(checkpoint.manifest.card["skipped_steps"], "10");
  EXPECT_THAT(checkpoint.manifest.card["ended"], HasSubstr("not finite after step 5"));
  EXPECT_TRUE(FileExists(folder_ + "/models/.m.training")) << "the last good state is kept";
  // Without the fault the run goes on from it to its end.
  EXPECT_EQ(Train("m", {"--checkpoint=last", "--resume"}), 0) << Text("stderr");

  EXPECT_EQ(Train("none", {"--fault_plan=trainer.nan_batch@1-99"}), 70);
  EXPECT_THAT(Text("stderr"), HasSubstr("no step had a finite loss"));
  EXPECT_FALSE(FileExists(folder_ + "/models/none/1/manifest.json"));
}

TEST_F(TrainFaultsTest, APlanThatIsNoneIsAnError) {
  EXPECT_EQ(Train("m", {"--fault_plan=nonsense"}), 64);
  EXPECT_THAT(Text("stderr"), HasSubstr("--fault_plan"));
}

}  // namespace
}  // namespace bflow
