// kill -9 at every fault point of the checkpoint writer, at every hit: what was there still loads,
// nothing half-written is believed, and the next writer gets through.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "gtest/gtest.h"
#include "model/checkpoint/repository.h"
#include "tests/model/checkpoint/small_checkpoint.h"

namespace bflow {
namespace {

class CheckpointFaultTest : public CheckpointFolderTest {
 protected:
  void SetUp() override {
    CheckpointFolderTest::SetUp();
    InstallFaultPlan({});
    ASSERT_TRUE(WriteCheckpoint(Version(1), small_.ToWrite()).ok());
    hits_ = FaultHits();
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  // A child process writes version 2 under the plan. True if it was killed.
  bool WriterDies(const FaultPlan& plan) {
    const pid_t child = fork();
    if (child == 0) {
      InstallFaultPlan(plan);
      _exit(WriteCheckpoint(Version(2), small_.ToWrite()).ok() ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
  }
  void ExpectWholeOrAbsent() {
    const auto models = ListRepository(root_, nullptr);
    ASSERT_TRUE(models.ok());
    ASSERT_EQ(models->size(), 1u);
    for (const int64_t version : models->front().versions) {
      EXPECT_TRUE(ReadCheckpoint(Version(static_cast<int>(version))).ok()) << version;
    }
    EXPECT_EQ(models->front().versions.front(), 1);
  }

  SmallCheckpoint small_;
  std::map<std::string, int64_t> hits_;  // of one write
};

TEST_F(CheckpointFaultTest, KilledAtEveryPoint) {
  for (const char* point :
       {"checkpoint.before_folder", "file.before_write", "file.before_fsync", "file.before_rename",
        "file.after_rename", "checkpoint.before_manifest", "checkpoint.after_manifest"}) {
    EXPECT_GE(hits_[point], 1) << point;
  }
  int kills = 0;
  for (const auto& [point, hits] : hits_) {
    for (int64_t hit = 1; hit <= hits; ++hit) {
      SCOPED_TRACE(absl::StrCat(point, "@", hit));
      ASSERT_TRUE(WriterDies({{{point, hit, hit}}}));
      ++kills;
      ExpectWholeOrAbsent();
      const absl::Status again = WriteCheckpoint(Version(2), small_.ToWrite());
      EXPECT_TRUE(again.ok() || absl::IsAlreadyExists(again)) << again;
      EXPECT_TRUE(ReadCheckpoint(Version(2)).ok());
      std::filesystem::remove_all(Version(2));
    }
  }
  EXPECT_EQ(kills, 4 * 4 + 3);
}

TEST_F(CheckpointFaultTest, KilledAtRandomPlacesOfARun) {
  int kills = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    FaultPlan plan;
    plan.seed = seed;
    plan.activation = 0.5;
    plan.probability = 0.2;
    kills += WriterDies(plan);
    ExpectWholeOrAbsent();
    std::filesystem::remove_all(Version(2));
  }
  EXPECT_GT(kills, 20);
  EXPECT_LT(kills, 95) << "runs must make progress";
}

}  // namespace
}  // namespace bflow
