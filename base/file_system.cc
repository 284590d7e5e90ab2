#include "base/file_system.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/errno_status.h"
#include "base/status.h"

namespace bflow {
namespace {

class RealNewFile final : public NewFile {
 public:
  RealNewFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~RealNewFile() override {
    if (fd_ >= 0) close(fd_);
  }
  RealNewFile(const RealNewFile&) = delete;
  RealNewFile& operator=(const RealNewFile&) = delete;

  absl::Status Append(std::string_view content) override {
    while (!content.empty()) {
      const ssize_t n = write(fd_, content.data(), content.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("write", path_, errno);
      content.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }
  absl::Status Sync() override {
    return fsync(fd_) == 0 ? absl::OkStatus() : ErrnoStatus("flush", path_, errno);
  }
  absl::Status Close() override {
    const int rc = close(fd_);
    fd_ = -1;
    return rc == 0 ? absl::OkStatus() : ErrnoStatus("close", path_, errno);
  }

 private:
  int fd_;
  std::string path_;
};

absl::Status Checked(int rc, std::string_view what, const std::string& path) {
  return rc == 0 ? absl::OkStatus() : ErrnoStatus(what, path, errno);
}

class RealFileSystem final : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<NewFile>> Create(const std::string& path, int mode) override {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) return ErrnoStatus("create", path, errno);
    return std::make_unique<RealNewFile>(fd, path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return Checked(rename(from.c_str(), to.c_str()), "rename", to);
  }
  absl::Status SyncFolder(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus("open folder", path, errno);
    const absl::Status synced = Checked(fsync(fd), "flush folder", path);
    close(fd);
    return synced;
  }
  absl::Status MakeFolder(const std::string& path, int mode) override {
    const int rc = mkdir(path.c_str(), static_cast<mode_t>(mode));
    if (rc != 0 && errno == EEXIST) return absl::OkStatus();
    return Checked(rc, "create folder", path);
  }
  absl::Status RemoveFile(const std::string& path) override {
    return Checked(unlink(path.c_str()), "remove", path);
  }
  absl::Status RemoveFolder(const std::string& path) override {
    return Checked(rmdir(path.c_str()), "remove folder", path);
  }
};

}  // namespace

FileSystem* FileSystem::Real() {
  static RealFileSystem files;
  return &files;
}

}  // namespace bflow
