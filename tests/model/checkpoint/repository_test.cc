#include "model/checkpoint/repository.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>

#include "base/file.h"
#include "base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/small_checkpoint.h"

namespace bflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(RepositoryTest, Versions) {
  EXPECT_EQ(ParseVersion("1"), 1);
  EXPECT_EQ(ParseVersion("9223372036854775807"), INT64_MAX);
  for (const char* bad : {"", "0", "01", "-1", "+1", "1.0", "9223372036854775808", "1 ", "x"}) {
    EXPECT_FALSE(ParseVersion(bad).has_value()) << bad;
  }
  EXPECT_EQ(VersionDirectory("r", "m", 7), "r/m/7");
}

class RepositoryFolderTest : public CheckpointFolderTest {};

TEST_F(RepositoryFolderTest, WritesAndReadsBack) {
  for (bool calibrated : {true, false}) {
    const std::string folder = Version(calibrated ? 1 : 2);
    const SmallCheckpoint small(calibrated);
    ASSERT_TRUE(WriteCheckpoint(folder, small.ToWrite()).ok());
    auto read = ReadCheckpoint(folder);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(FlowSpecToJson(read->spec), FlowSpecToJson(small.spec));
    EXPECT_EQ(read->calibration.has_value(), calibrated);
    EXPECT_EQ(read->self_test.x, small.ToWrite().self_test.x);
    EXPECT_EQ(read->self_test.log_prob, small.ToWrite().self_test.log_prob);
    EXPECT_EQ(read->self_test.score, small.ToWrite().self_test.score);
    EXPECT_EQ(read->manifest.card.at("trained_on"), "synthetic");
    EXPECT_EQ(read->manifest_sha256, Sha256Hex(Slurp(folder + "/manifest.json")));
    for (const TensorToWrite& written : small.ToWrite().tensors) {
      const TensorView* tensor = read->tensors.Find(written.name);
      ASSERT_NE(tensor, nullptr) << written.name;
      EXPECT_TRUE(std::equal(tensor->data.begin(), tensor->data.end(), written.data.begin(),
                             written.data.end()));
    }
  }
}

TEST_F(RepositoryFolderTest, PatientModelsArePrivateAndVersionsAreWrittenOnce) {
  SmallCheckpoint small;
  ASSERT_TRUE(WriteCheckpoint(Version(1), small.ToWrite()).ok());
  struct stat info;
  ASSERT_EQ(stat(Version(1).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  for (const char* file :
       {"model.safetensors", "calibration.json", "selftest.safetensors", "manifest.json"}) {
    ASSERT_EQ(stat(JoinPath(Version(1), file).c_str(), &info), 0) << file;
    EXPECT_EQ(info.st_mode & 0777, 0600u) << file;
  }
  EXPECT_EQ(WriteCheckpoint(Version(1), small.ToWrite()).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(RepositoryFolderTest, TheWriterRefusesWhatTheReaderWould) {
  SmallCheckpoint broken;
  broken.Set("levels.0.blocks.0.2.factors.1", 0, 0);
  broken.Set("levels.0.blocks.0.2.factors.1", 1, 0);
  EXPECT_EQ(WriteCheckpoint(Version(1), broken.ToWrite()).code(),
            absl::StatusCode::kInvalidArgument);
  const SmallCheckpoint small;
  CheckpointToWrite w = small.ToWrite();
  w.self_test.score.clear();
  EXPECT_THAT(std::string(WriteCheckpoint(Version(1), w).message()), HasSubstr("score"));
  w = small.ToWrite();
  w.tensors.pop_back();
  EXPECT_THAT(std::string(WriteCheckpoint(Version(1), w).message()), HasSubstr("missing"));
  w = small.ToWrite();
  w.calibration->noise = "none";
  EXPECT_THAT(std::string(WriteCheckpoint(Version(1), w).message()), HasSubstr("noise"));
  EXPECT_FALSE(FileExists(Version(1)));
}

TEST_F(RepositoryFolderTest, ListsCompleteVersionsOnly) {
  const SmallCheckpoint small;
  for (int v : {10, 9}) ASSERT_TRUE(WriteCheckpoint(Version(v), small.ToWrite()).ok());
  ASSERT_TRUE(MakeDirectories(Version(11)).ok());               // no manifest: does not exist yet
  ASSERT_TRUE(MakeDirectories(root_ + "/model/temp").ok());     // ignored
  ASSERT_TRUE(MakeDirectories(root_ + "/Not-A-Model/1").ok());  // ignored
  ASSERT_TRUE(MakeDirectories(root_ + "/empty").ok());
  ASSERT_EQ(symlink((root_ + "/model").c_str(), (root_ + "/link").c_str()), 0);  // ignored
  ASSERT_EQ(symlink(Version(9).c_str(), (root_ + "/model/12").c_str()), 0);      // ignored
  Put(root_ + "/readme", "x");                                                   // ignored
  int ignored = 0;
  auto models = ListRepository(root_, &ignored);
  ASSERT_TRUE(models.ok()) << models.status();
  ASSERT_EQ(models->size(), 1u);
  EXPECT_EQ(models->front().name, "model");
  EXPECT_THAT(models->front().versions, ElementsAre(9, 10));
  EXPECT_EQ(ignored, 5);
  EXPECT_EQ(ListRepository(root_ + "/none", nullptr).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RepositoryFolderTest, WhatIsNotARegularFileIsRefused) {
  EXPECT_EQ(ReadCheckpoint(Version(1)).status().code(), absl::StatusCode::kNotFound);
  const SmallCheckpoint small;
  ASSERT_TRUE(WriteCheckpoint(Version(1), small.ToWrite()).ok());
  ASSERT_EQ(symlink(Version(1).c_str(), Version(2).c_str()), 0);
  EXPECT_EQ(ReadCheckpoint(Version(2)).status().code(), absl::StatusCode::kDataLoss);
  for (const char* name :
       {"model.safetensors", "calibration.json", "selftest.safetensors", "manifest.json"}) {
    const std::string file = JoinPath(Version(1), name);
    const std::string aside = root_ + "/aside";
    ASSERT_EQ(rename(file.c_str(), aside.c_str()), 0);
    const auto code = [&] { return ReadCheckpoint(Version(1)).status().code(); };
    const bool manifest = std::string(name) == "manifest.json";
    EXPECT_EQ(code(), manifest ? absl::StatusCode::kNotFound : absl::StatusCode::kDataLoss);
    ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
    EXPECT_EQ(code(), absl::StatusCode::kDataLoss) << name;
    unlink(file.c_str());
    ASSERT_EQ(mkdir(file.c_str(), 0700), 0);
    EXPECT_EQ(code(), absl::StatusCode::kDataLoss) << name;
    rmdir(file.c_str());
    ASSERT_EQ(symlink(aside.c_str(), file.c_str()), 0);
    EXPECT_EQ(code(), absl::StatusCode::kDataLoss) << name;
    unlink(file.c_str());
    ASSERT_EQ(rename(aside.c_str(), file.c_str()), 0);
  }
  EXPECT_TRUE(ReadCheckpoint(Version(1)).ok());
  CheckpointLimits limits;
  limits.max_model_bytes = 100;
  EXPECT_EQ(ReadCheckpoint(Version(1), limits).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// The file-size limit makes write() fail half way, as a full disk does; at several places.
TEST_F(RepositoryFolderTest, AFullDiskLeavesThePreviousVersion) {
  const SmallCheckpoint small;
  ASSERT_TRUE(WriteCheckpoint(Version(1), small.ToWrite()).ok());
  for (rlim_t bytes : {0, 64, 400, 600}) {
    EXPECT_EXIT(
        {
          std::signal(SIGXFSZ, SIG_IGN);
          rlimit limit;
          limit.rlim_cur = limit.rlim_max = bytes;
          setrlimit(RLIMIT_FSIZE, &limit);
          auto status = WriteCheckpoint(Version(2), small.ToWrite());
          std::_Exit(status.code() == absl::StatusCode::kResourceExhausted ? 0 : 1);
        },
        testing::ExitedWithCode(0), "");
    EXPECT_FALSE(FileExists(Version(2))) << "space is given back";
    EXPECT_TRUE(ReadCheckpoint(Version(1)).ok());
  }
  EXPECT_TRUE(WriteCheckpoint(Version(2), small.ToWrite()).ok());
}

}  // namespace
}  // namespace bflow
