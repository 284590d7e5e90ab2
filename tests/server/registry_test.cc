#include "server/registry/model_registry.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "server/exec/reason.h"
#include "tests/support/fake_scorer.h"

namespace bflow {
namespace {

// A repository of real model files: one flow of an ActNorm on [4, 2].
class RegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("bflow_registry_test_" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& model, int64_t version) {
    FlowSpec spec;
    spec.event_shape = {4, 2};
    spec.sampling_rate_hz = 125;
    spec.sensitivity = Sensitivity::kNone;
    for (const char* name : {"II", "V"}) {
      spec.channels.push_back({name, "mV", 81, 29, 1, -127, 127, -100, 100});
    }
    LevelSpec level;
    level.squeeze = 1;
    level.blocks = {{ActNormSpec{}}};
    spec.levels = {level};
    if (!ValidateFlowSpec(spec).ok()) spec.levels[0].squeeze = 2;
    CheckpointToWrite checkpoint;
    checkpoint.spec = spec;
    std::vector<std::vector<float>> storage;
    const std::vector<TensorSpec> tensors = ExpectedTensors(spec);
    storage.reserve(tensors.size());
    for (const TensorSpec& tensor : tensors) {
      int64_t size = 1;
      for (int64_t d : tensor.shape) size *= d;
      storage.emplace_back(static_cast<size_t>(size), 0.25f);
      checkpoint.tensors.push_back(
          {tensor.name, DType::kF32, tensor.shape, std::as_bytes(std::span(storage.back()))});
    }
    checkpoint.self_test.rows = 1;
    checkpoint.self_test.x.resize(8);
    checkpoint.self_test.log_prob = {0};
    checkpoint.producer = "test";
    const absl::Status written =
        WriteCheckpoint(VersionDirectory(folder_.string(), model, version), checkpoint);
    ASSERT_TRUE(written.ok()) << written;
  }

  // Flips one bit of a file, near its end.
  void Damage(const std::string& path) {
    std::fstream file(folder_ / path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-3, std::ios::end);
    const char byte = static_cast<char>(file.get() ^ 4);
    file.seekp(-3, std::ios::end);
    file.put(byte);
  }

  std::unique_ptr<ModelRegistry> Make(std::vector<RequestedModel> models = {}) {
    RegistryOptions options;
    options.repository = folder_.string();
    options.models = std::move(models);
    options.warmup_rows = {1, 2};
    return std::make_unique<ModelRegistry>(
        options,
        CheckpointLoader({},
                         [](const Checkpoint&) -> absl::StatusOr<std::unique_ptr<Scorer>> {
                           return std::make_unique<FakeScorer>(FakeScorer::Quantised());
                         }),
        &metrics_, Clock::Real());
  }

  std::filesystem::path folder_;
  Metrics metrics_;
};

TEST_F(RegistryTest, LoadsTheNewestVersionAndPinsIt) {
  Write("ecg", 1);
  Write("ecg", 3);
  auto registry = Make();
  ASSERT_TRUE(registry->Open().ok());
  EXPECT_EQ(ReasonOf(registry->Find("ecg", {}, {}).status()), Reason::kModelLoading);
  EXPECT_FALSE(registry->Ready());
  int changes = 0;
  registry->StartLoading([&] { ++changes; });
  registry->WaitUntilLoaded();
  EXPECT_EQ(changes, 2);
  EXPECT_TRUE(registry->Ready());
  const auto handle = registry->Find("ecg", {}, {});
  ASSERT_TRUE(handle.ok()) << handle.status();
  EXPECT_EQ((*handle)->version, 3);
  EXPECT_EQ((*handle)->manifest_sha256.size(), 64u);
  EXPECT_EQ(ReasonOf(registry->Find("ecg", 1, {}).status()), Reason::kModelNotFound);
  registry.reset();
  EXPECT_EQ((*handle)->scorer->signature().event_size(), 8) << "the handle outlives the registry";
}

TEST_F(RegistryTest, DamagedFilesAreRefusedByName) {
  Write("good", 1);
  Write("weights", 1);
  Write("selftest", 1);
  Damage("weights/1/model.safetensors");
  Damage("selftest/1/selftest.safetensors");
  auto registry = Make();
  ASSERT_TRUE(registry->Open().ok());
  registry->StartLoading({});
  registry->WaitUntilLoaded();
  EXPECT_TRUE(registry->Find("good", {}, {}).ok());
  EXPECT_FALSE(registry->Ready());
  EXPECT_TRUE(registry->AnyFailed());
  for (const ModelSnapshot& model : registry->Snapshot()) {
    if (model.name == "good") continue;
    EXPECT_EQ(ReasonOf(registry->Find(model.name, {}, {}).status()), Reason::kModelFailed);
    EXPECT_NE(model.versions[0].reason.find(".safetensors"), std::string::npos)
        << model.versions[0].reason;
    EXPECT_EQ(model.versions[0].reason.find(folder_.string()), std::string::npos);
  }
}

TEST_F(RegistryTest, AnEmptyRepositoryIsAnErrorUnlessAllowed) {
  std::filesystem::create_directories(folder_);
  EXPECT_EQ(Make()->Open().code(), absl::StatusCode::kInvalidArgument);
  RegistryOptions options;
  options.repository = folder_.string();
  options.allow_empty = true;
  ModelRegistry empty(options, {}, &metrics_, Clock::Real());
  EXPECT_TRUE(empty.Open().ok());
  EXPECT_TRUE(empty.Ready());
}

}  // namespace
}  // namespace bflow
