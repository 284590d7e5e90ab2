#include "base/file.h"

#include <csignal>
#include <cstdlib>
#include <string>

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace bflow {
namespace {

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/bflow_file_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  std::string Path(const std::string& name) const { return JoinPath(folder_, name); }

  std::string folder_;
};

TEST_F(FileTest, WritesAndReads) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "first", 0600).ok());
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "second", 0600).ok());
  EXPECT_EQ(*ReadFile(Path("a"), 100), "second");
  struct stat info;
  ASSERT_EQ(stat(Path("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(ListDirectory(folder_)->size(), 1u) << "no temporary is left behind";
}

TEST_F(FileTest, RefusesWhatIsNotARegularFileOfBoundedSize) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "12345").ok());
  EXPECT_EQ(ReadFile(Path("a"), 4).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReadFile(Path("none"), 4).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadFile(folder_, 4).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(Path("fifo"), 4).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(symlink(Path("a").c_str(), Path("link").c_str()), 0);
  EXPECT_EQ(ReadFile(Path("link"), 100).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*ReadUserFile(Path("link"), 100), "12345");
}

TEST_F(FileTest, AUsersFileMayBeALinkOrADevice) {
  ASSERT_TRUE(WriteUserFile(Path("new"), "1").ok());
  ASSERT_EQ(chmod(Path("new").c_str(), 0640), 0);
  ASSERT_EQ(symlink("new", Path("link").c_str()), 0);
  ASSERT_TRUE(WriteUserFile(Path("link"), "2").ok());
  struct stat info;
  ASSERT_EQ(lstat(Path("link").c_str(), &info), 0);
  EXPECT_TRUE(S_ISLNK(info.st_mode)) << "the link is still one";
  EXPECT_EQ(*ReadFile(Path("new"), 100), "2");
  ASSERT_EQ(stat(Path("new").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);

  ASSERT_TRUE(WriteUserFile("/dev/null", "3").ok());
  ASSERT_EQ(lstat("/dev/null", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode)) << "the device is still one";
  EXPECT_EQ(WriteUserFile("/dev/full", "3").code(), absl::StatusCode::kResourceExhausted);

  ASSERT_EQ(symlink("none", Path("dangling").c_str()), 0);
  EXPECT_EQ(WriteUserFile(Path("dangling"), "4").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(WriteUserFile(folder_, "4").code(), absl::StatusCode::kInternal);
}

TEST_F(FileTest, PiecesAppearTogetherOrNotAtAll) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "old").ok());
  {
    const auto file = FileWriter::CreateUserFile(Path("a"));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Append("never").ok());
    EXPECT_EQ(*ReadFile(Path("a"), 100), "old");
  }
  EXPECT_EQ(*ReadFile(Path("a"), 100), "old");
  EXPECT_EQ(ListDirectory(folder_)->size(), 1u) << "no temporary is left behind";
  const auto file = FileWriter::CreateUserFile(Path("a"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append("first, ").ok());
  ASSERT_TRUE((*file)->Append("second").ok());
  ASSERT_TRUE((*file)->Commit().ok());
  EXPECT_EQ(*ReadFile(Path("a"), 100), "first, second");
  EXPECT_EQ(ListDirectory(folder_)->size(), 1u);
}

// The file-size limit makes write() fail half way, as a full disk does.
TEST_F(FileTest, AFullDiskLeavesTheOldFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "old").ok());
  EXPECT_EXIT(
      {
        std::signal(SIGXFSZ, SIG_IGN);
        rlimit limit;
        limit.rlim_cur = limit.rlim_max = 4096;
        setrlimit(RLIMIT_FSIZE, &limit);
        auto status = WriteFileAtomically(Path("a"), std::string(100000, 'x'));
        std::_Exit(status.code() == absl::StatusCode::kResourceExhausted ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
  EXPECT_EQ(*ReadFile(Path("a"), 100), "old");
  EXPECT_EQ(ListDirectory(folder_)->size(), 1u);
}

TEST(PathTest, SplitsAndJoins) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(BaseName("x/y.dat"), "y.dat");
  EXPECT_EQ(DirName("/y"), "/");
  EXPECT_EQ(DirName("y"), ".");
}

}  // namespace
}  // namespace bflow
