// bflow-train on a few MNIST images: what it writes loads and scores, prints what its model says,
// is the same for the same seed, and goes on after an interruption to the same bits.
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/repository.h"
#include "model/data/images.h"
#include "model/scoring/flow_scorer.h"
#include "model/training/options.h"
#include "model/training/train_program.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;

// 50 images, and 20.
const std::string kImages = "tests/model/data/images/mnist-images-idx3-ubyte.gz";
const std::string kColourImages = "tests/model/data/images/cifar10_batch.bin";

class TrainImagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/bflow_images_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Of 50 images 30 train, 5 validate and 15 test.
  std::vector<std::string> Arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"--preset=mnist",
                                          "--data",
                                          data_,
                                          "--device=cpu",
                                          "--out=" + folder_ + "/models",
                                          "--model=m",
                                          "--hidden=8",
                                          "--blocks=1",
                                          "--batch=6",
                                          "--train_fraction=0.6",
                                          "--validation_fraction=0.1",
                                          "--calibration_fraction=0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // stdout and stderr are kept in out_ and err_.
  int Train(const std::vector<std::string>& more, const std::atomic<bool>* stop = nullptr) {
    const std::atomic<bool> never{false};
    const absl::StatusOr<TrainOptions> options = ParseTrainOptions(Arguments(more));
    if (!options.ok()) {
      err_ = std::string(options.status().message());
      return 64;
    }
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int code = RunTrain(*options, stop == nullptr ? never : *stop, *FileSystem::Real());
    std::fflush(stdout);
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return code;
  }
  std::string Version(int64_t version, const std::string& model = "m") const {
    return VersionDirectory(folder_ + "/models", model, version);
  }
  std::string Weights(int64_t version, const std::string& model = "m") const {
    const auto bytes = ReadFile(Version(version, model) + "/model.safetensors", 1 << 24);
    return bytes.ok() ? *bytes : "";
  }
  // A column of the metrics file.
  std::vector<double> Column(const std::string& file, size_t column) const {
    std::vector<double> values;
    std::istringstream lines(*ReadFile(folder_ + "/" + file, 1 << 20));
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

  std::string folder_, out_, err_;
  std::string data_ = kImages;
};

TEST_F(TrainImagesTest, TrainsAndWritesAModelThatScores) {
  ASSERT_EQ(Train({"--steps=40", "--validate_every=10", "--calibration_fraction=0.2",
                   "--metrics_csv=" + folder_ + "/m.csv", "--sample_every=25",
                   "--sample_dir=" + folder_ + "/samples"}),
            0)
      << err_;
  const std::vector<double> bits = Column("m.csv", 10), nats = Column("m.csv", 2);
  ASSERT_EQ(bits.size(), 4u);
  EXPECT_LT(bits[3], bits[0] - 0.1);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(bits[i], (nats[i] + std::log(128)) / std::log(2), 1e-6);
  }
  for (const char* step : {"25", "40"}) {
    EXPECT_TRUE(ReadImages({absl::StrCat(folder_, "/samples/step-000000", step, ".png")}).ok());
  }

  Checkpoint checkpoint = *ReadCheckpoint(Version(1));
  EXPECT_TRUE(checkpoint.spec.is_image());
  EXPECT_EQ(checkpoint.spec.event_shape, (std::vector<int64_t>{1, 28, 28}));
  EXPECT_EQ(checkpoint.spec.sensitivity, Sensitivity::kNone);
  std::map<std::string, std::string>& card = checkpoint.manifest.card;
  EXPECT_EQ(card["trained_on"], "mnist-images-idx3-ubyte.gz");
  EXPECT_EQ(card["images"], "30");
  EXPECT_EQ(card["image_shape"], "1x28x28");
  EXPECT_EQ(card["bits_per_dim_draws"], "8");

  const std::unique_ptr<Scorer> scorer = *MakeFlowScorer(checkpoint);
  // The self-test rows are pixels, and are reproduced.
  const SelfTest& expected = checkpoint.self_test;
  ASSERT_EQ(expected.rows, 10);
  for (const float code : expected.x) ASSERT_EQ(code, std::floor(code));
  const AnomalyResult result = *scorer->Anomaly({expected.rows, expected.x}, {});
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_TRUE(Reproduces(result.log_prob[i], expected.log_prob[i], kSelfTestRtol)) << i;
    EXPECT_TRUE(Reproduces(result.score[i], expected.score[i], kSelfTestRtol)) << i;
  }

  // The bits per dimension that were printed are those of the served model.
  const ImageSet images = *ReadImages({kImages});
  HostBatch test{5, {}};
  for (int64_t i = 45; i < 50; ++i) {
    test.values.insert(test.values.end(), images.Image(i).begin(), images.Image(i).end());
  }
  Noise noise{NoiseKind::kUniform, 0, 8, uint64_t{1} << 62};
  const LogLikelihoodResult likelihood = *scorer->LogLikelihood(test, noise, false);
  double mean = 0, weighted = 0;
  for (size_t i = 0; i < 5; ++i) {
    mean -= likelihood.log_prob_mean[i] / 5;
    weighted -= likelihood.log_prob[i] / 5;
  }
  const auto bits_per_dim = [](double nll) {
    return (nll + std::log(128) * 784) / (784 * std::log(2));
  };
  EXPECT_NEAR(std::stod(card["bits_per_dim"]), bits_per_dim(mean), 1e-5);
  EXPECT_NEAR(std::stod(card["bits_per_dim_importance_weighted"]), bits_per_dim(weighted), 1e-5);
  EXPECT_THAT(out_, HasSubstr(absl::StrFormat("test         %.3f", bits_per_dim(mean))));
}

TEST_F(TrainImagesTest, TrainsTheDequantisationWithTheFlow) {
  ASSERT_EQ(Train({"--dequantisation=variational", "--steps=20", "--calibration_fraction=0.2"}), 0)
      << err_;
  const Checkpoint checkpoint = *ReadCheckpoint(Version(1));
  ASSERT_EQ(checkpoint.spec.pre.size(), 1u);
  const auto& layer = std::get<VariationalDequantizationSpec>(checkpoint.spec.pre[0]);
  EXPECT_EQ(layer.kernel, 3);
  const std::unique_ptr<Scorer> scorer = *MakeFlowScorer(checkpoint);
  const SelfTest& expected = checkpoint.self_test;
  const AnomalyResult result = *scorer->Anomaly({expected.rows, expected.x}, {});
  for (size_t i = 0; i < expected.log_prob.size(); ++i) {
    EXPECT_TRUE(Reproduces(result.log_prob[i], expected.log_prob[i], kSelfTestRtol));
    EXPECT_TRUE(Reproduces(result.score[i], expected.score[i], kSelfTestRtol));
  }
  SampleOptions options;
  options.rows = 2;
  const SampleResult sample = *scorer->Sample(options);
  for (const float code : sample.samples) EXPECT_EQ(code, std::floor(code));
}

TEST_F(TrainImagesTest, TheSameSeedGivesTheSameWeights) {
  for (const char* seed : {"--seed=4", "--seed=4", "--seed=5"}) {
    ASSERT_EQ(Train({"--steps=4", "--augmentation=crop", seed}), 0) << err_;
  }
  EXPECT_EQ(Weights(1), Weights(2));
  EXPECT_NE(Weights(1), Weights(3));
}

TEST_F(TrainImagesTest, AnInterruptedRunGoesOnToTheSameBits) {
  const std::vector<std::string> settings = {
      "--preset=cifar10-permuted", "--augmentation=crop",         "--bits=5", "--steps=60",
      "--checkpoint_every=5",      "--dequantisation=variational"};
  data_ = kColourImages;
  std::vector<std::string> whole = settings, cut = settings;
  whole.push_back("--model=whole");
  cut.push_back("--resume");
  ASSERT_EQ(Train(whole), 0) << err_;
  std::atomic<bool> stop{false}, over{false};
  std::thread watcher([&] {
    while (!over && !FileExists(folder_ + "/models/.m.training")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    stop = true;
  });
  const int code = Train(cut, &stop);
  over = true;
  watcher.join();
  ASSERT_EQ(code, 130) << err_;
  cut.push_back("--version=2");
  ASSERT_EQ(Train(cut), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("going on after step"));
  EXPECT_EQ(Weights(2), Weights(1, "whole"));
  const FlowSpec spec = ReadCheckpoint(Version(2))->spec;
  EXPECT_EQ(LayerKind(spec.pre.at(0)), "variational_dequantisation");
  EXPECT_TRUE(std::holds_alternative<PermutationSpec>(spec.pre.at(1)));
  EXPECT_EQ(spec.channels[0].step, 8);
}

TEST_F(TrainImagesTest, ErrorsNameTheFlag) {
  EXPECT_EQ(Train({"--signals=A"}), 64);
  EXPECT_THAT(err_, HasSubstr("--signals: expected no such flag with --preset=mnist"));
  EXPECT_EQ(Train({"--preset=waveform-published", "--signals=A"}), 64);
  EXPECT_THAT(err_, HasSubstr("--blocks: expected no such flag with --preset=waveform-published"));
  EXPECT_EQ(Train({"--bits=9"}), 64);
  EXPECT_EQ(Train({"--sample_every=5"}), 64);
  EXPECT_THAT(err_, HasSubstr("--sample_dir"));
  EXPECT_EQ(Train({"--augmentation=secret"}), 64);
  EXPECT_THAT(err_, HasSubstr("one of crop, crop_flip, none"));
  EXPECT_EQ(Train({"--convolution_precision=tf32"}), 78);
  EXPECT_EQ(Train({"--batch=31", "--steps=2"}), 65);
  EXPECT_THAT(err_, HasSubstr("--batch: 31, the training part has 30 images"));
  EXPECT_EQ(Train({"--preset=cifar10"}), 64);
  EXPECT_THAT(err_, HasSubstr("levels[2].squeeze"));
  EXPECT_EQ(Train({"--calibration_fraction=0.05"}), 65);
  EXPECT_THAT(err_, HasSubstr("the part has 2 images, 4 are the least"));
  EXPECT_EQ(Train({"--data", folder_ + "/absent"}), 65);
  EXPECT_THAT(err_, HasSubstr("absent"));
  EXPECT_EQ(Train({"--sample_every=1", "--steps=2", "--sample_dir=/dev/null/x"}), 73);
  EXPECT_THAT(err_, HasSubstr("--sample_dir"));
}

}  // namespace
}  // namespace bflow
