// A checkpoint is whole or absent, whatever the disk does and whenever the power fails: every
// operation of the writer fails once, in every way that it can, and what is then on the disk is
// read as a server reads it.
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "model/checkpoint/repository.h"
#include "tests/model/checkpoint/small_checkpoint.h"
#include "tests/support/fake_file_system.h"

namespace bflow {
namespace {

class DurabilityTest : public CheckpointFolderTest {
 protected:
  // A repository in which version 1 is complete, and flushed.
  std::string Repository() {
    const std::string repository = JoinPath(root_, absl::StrCat("repository", ++repositories_));
    EXPECT_TRUE(WriteCheckpoint(VersionDirectory(repository, "model", 1), small_.ToWrite()).ok());
    return repository;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  absl::Status WriteSecond(FileSystem& files, const std::string& repository) const {
    return WriteCheckpoint(files, VersionDirectory(repository, "model", 2), small_.ToWrite());
  }

  // Version 1 loads, and so does version 2 if it is there, as it must be if `complete`.
  static void ExpectWholeOrAbsent(const std::string& repository, bool complete) {
    const auto models = ListRepository(repository, nullptr);
    ASSERT_TRUE(models.ok()) << models.status();
    ASSERT_EQ(models->size(), 1u);
    const std::vector<int64_t>& versions = models->front().versions;
    ASSERT_EQ(versions.front(), 1);
    ASSERT_TRUE(versions.back() == 2 || !complete);
    for (const int64_t version : versions) {
      const auto read = ReadCheckpoint(VersionDirectory(repository, "model", version));
      EXPECT_TRUE(read.ok()) << "version " << version << ": " << read.status();
    }
  }

  // The same of what a power failure now would leave.
  void ExpectImages(const FakeFileSystem& files, bool complete) const {
    for (const Unflushed unflushed : {Unflushed::kDropped, Unflushed::kKept, Unflushed::kNamesOnly,
                                      Unflushed::kContentsOnly, Unflushed::kMixed}) {
      for (uint64_t seed = 1; seed <= (unflushed == Unflushed::kMixed ? 6 : 1); ++seed) {
        SCOPED_TRACE(absl::StrCat("image ", static_cast<int>(unflushed), " seed ", seed));
        const std::string image = JoinPath(root_, "image");
        files.Image(image, unflushed, seed);
        ExpectWholeOrAbsent(image, complete);
        std::filesystem::remove_all(image);
      }
    }
  }

  SmallCheckpoint small_;
  int repositories_ = 0;
};

TEST_F(DurabilityTest, WhatWasWrittenOutlivesThePower) {
  const std::string repository = Repository();
  FakeFileSystem files(repository);
  ASSERT_TRUE(WriteSecond(files, repository).ok());
  EXPECT_GE(files.operations(), 4 * 6);
  ExpectImages(files, true);
}

// Also the folders above the version.
TEST_F(DurabilityTest, TheFirstVersionOfAModelOutlivesThePower) {
  const std::string repository = Repository();
  FakeFileSystem files(repository);
  const std::string deep = JoinPath(repository, "deeper");
  ASSERT_TRUE(WriteCheckpoint(files, VersionDirectory(deep, "model", 1), small_.ToWrite()).ok());
  files.Image(JoinPath(root_, "image"), Unflushed::kDropped);
  EXPECT_TRUE(ReadCheckpoint(JoinPath(root_, "image/deeper/model/1")).ok());
}

TEST_F(DurabilityTest, EveryOperationFailsOnceOrForGood) {
  int struck = 0;
  for (const DiskFault fault : {DiskFault::kFull, DiskFault::kIo, DiskFault::kReadOnly}) {
    for (const bool for_good : {false, true}) {
      bool reached = true;
      for (int64_t k = 1; reached; ++k) {
        SCOPED_TRACE(absl::StrCat("fault ", static_cast<int>(fault), " from operation ", k,
                                  for_good ? " on" : ""));
        const std::string repository = Repository();
        FakeFileSystem files(repository);
        files.FailFrom(k, fault, for_good ? INT64_MAX : k);
        const absl::Status status = WriteSecond(files, repository);
        reached = files.operations() >= k;
        EXPECT_EQ(status.ok(), files.failed() == 0) << status;
        struck += files.failed() > 0;
        ExpectWholeOrAbsent(repository, status.ok());
        ExpectImages(files, status.ok());
        if (!status.ok() && !for_good) {
          EXPECT_FALSE(FileExists(VersionDirectory(repository, "model", 2))) << "leftovers";
          EXPECT_TRUE(WriteSecond(*FileSystem::Real(), repository).ok()) << "no way to go on";
        }
        std::filesystem::remove_all(repository);
      }
    }
  }
  EXPECT_GE(struck, 100);
}

// The manifest was renamed, the folder cannot be flushed, the version is given up, and then the
// power fails: in no order of what reaches the disk is there a manifest without its files.
TEST_F(DurabilityTest, AVersionThatWasGivenUpIsNeverHalfThere) {
  FakeFileSystem counted(root_);
  ASSERT_TRUE(WriteSecond(counted, Repository()).ok());
  const std::string repository = Repository();
  FakeFileSystem files(repository);
  files.FailFrom(counted.operations(), DiskFault::kIo, counted.operations());
  ASSERT_FALSE(WriteSecond(files, repository).ok());
  ASSERT_EQ(files.failed(), 1);
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const std::string image = JoinPath(root_, "image");
    files.Image(image, Unflushed::kMixed, seed);
    ExpectWholeOrAbsent(image, false);
    std::filesystem::remove_all(image);
  }
}

TEST_F(DurabilityTest, ThePowerFailsAtEveryOperation) {
  bool reached = true;
  for (int64_t k = 1; reached; ++k) {
    SCOPED_TRACE(absl::StrCat("at operation ", k));
    const std::string repository = Repository();
    FakeFileSystem files(repository);
    files.FailFrom(k, DiskFault::kPower);
    const bool written = WriteSecond(files, repository).ok();
    reached = files.operations() >= k;
    EXPECT_EQ(written, !reached);
    ExpectImages(files, written);
    std::filesystem::remove_all(repository);
  }
}

// kill -9, a new process that writes the same version, and only then the power: what the first one
// had made and not flushed is flushed now.
TEST_F(DurabilityTest, AKillThenASecondWriterThenThePower) {
  bool reached = true;
  for (int64_t k = 1; reached; ++k) {
    SCOPED_TRACE(absl::StrCat("killed at operation ", k));
    const std::string repository = Repository();
    FakeFileSystem files(repository);
    files.FailFrom(k, DiskFault::kPower);
    WriteSecond(files, repository).IgnoreError();
    reached = files.operations() >= k;
    files.FailFrom(INT64_MAX, DiskFault::kPower);
    const absl::Status again = WriteSecond(files, repository);
    // A version whose manifest is there is complete for everybody.
    if (!absl::IsAlreadyExists(again)) {
      EXPECT_TRUE(again.ok()) << again;
      ExpectImages(files, true);
    }
    ExpectWholeOrAbsent(repository, true);
    std::filesystem::remove_all(repository);
  }
}

}  // namespace
}  // namespace bflow
