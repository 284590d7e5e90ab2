// A whole training on a disk that fails: at every operation, for good or once. What was there stays
// whole, the exit code tells, and the run that goes on gives the same bits.
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "model/checkpoint/repository.h"
#include "model/training/options.h"
#include "model/training/train_program.h"
#include "tests/model/training/tiny_record.h"
#include "tests/support/fake_file_system.h"

namespace bflow {
namespace {

class TrainDiskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/bflow_disk_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    models_ = folder_ + "/models";
    WriteTinyRecord(folder_, 16 * 40);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  int Train(FileSystem& files, bool resume) const {
    std::vector<std::string> arguments = {"--preset=waveform-published",
                                          "--data",
                                          folder_ + "/tiny",
                                          "--signals=A,B",
                                          "--device=cpu",
                                          "--out=" + models_,
                                          "--model=m",
                                          "--window=16",
                                          "--batch=2",
                                          "--train_fraction=0.5",
                                          "--validation_fraction=0.1",
                                          "--calibration_fraction=0",
                                          "--steps=3",
                                          "--checkpoint_every=2"};
    if (resume) arguments.push_back("--resume");
    const std::atomic<bool> stop{false};
    return RunTrain(*ParseTrainOptions(arguments), stop, files);
  }
  std::string Weights(int64_t version) const {
    const auto bytes =
        ReadFile(VersionDirectory(models_, "m", version) + "/model.safetensors", 1 << 20);
    return bytes.ok() ? *bytes : "";
  }
  // Everything that is listed loads; version 1 is.
  static void ExpectWhole(const std::string& repository) {
    const auto models = ListRepository(repository, nullptr);
    ASSERT_TRUE(models.ok()) << models.status();
    ASSERT_EQ(models->front().name, "m");
    ASSERT_EQ(models->front().versions.front(), 1);
    for (const RepositoryModel& model : *models) {
      for (const int64_t version : model.versions) {
        const auto read = ReadCheckpoint(VersionDirectory(repository, model.name, version));
        EXPECT_TRUE(read.ok()) << model.name << " " << version << ": " << read.status();
      }
    }
  }
  void Forget(int64_t version) const {
    std::filesystem::remove_all(VersionDirectory(models_, "m", version));
    std::filesystem::remove_all(absl::StrCat(models_, "/m-v", version, "-steps"));
    std::filesystem::remove_all(models_ + "/.m.training");
  }

  std::string folder_, models_;
};

TEST_F(TrainDiskTest, EveryOperationFails) {
  ASSERT_EQ(Train(*FileSystem::Real(), false), 0);
  const std::string whole = Weights(1);
  ASSERT_FALSE(whole.empty());
  int failed = 0, went_on = 0;
  for (const DiskFault fault : {DiskFault::kFull, DiskFault::kIo, DiskFault::kReadOnly}) {
    const bool for_good = fault != DiskFault::kIo;
    bool reached = true;
    for (int64_t k = 1; reached; ++k) {
      SCOPED_TRACE(absl::StrCat("fault ", static_cast<int>(fault), " from operation ", k));
      FakeFileSystem files(models_);
      files.FailFrom(k, fault, for_good ? INT64_MAX : k);
      const int code = Train(files, false);
      reached = files.operations() >= k;
      ExpectWhole(models_);
      const std::string image = folder_ + "/image";
      files.Image(image, Unflushed::kMixed, static_cast<uint64_t>(k));
      ExpectWhole(image);
      std::filesystem::remove_all(image);
      if (code == 0) {
        // Nothing failed, or a state, which only a resumed run would have needed.
        EXPECT_EQ(Weights(2), whole);
        went_on += files.failed() > 0;
      } else {
        EXPECT_EQ(code, 73);
        EXPECT_GT(files.failed(), 0);
        ++failed;
        // The disk has room again.
        Train(*FileSystem::Real(), true);
        const auto models = ListRepository(models_, nullptr);
        ASSERT_TRUE(models.ok());
        const int64_t newest = models->front().versions.back();
        EXPECT_GE(newest, 2);
        EXPECT_EQ(Weights(newest), whole);
        Forget(newest);
      }
      Forget(2);
    }
  }
  EXPECT_GE(failed, 50);
  EXPECT_GE(went_on, 3);
}

}  // namespace
}  // namespace bflow
