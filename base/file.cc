#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/fault_point.h"
#include "base/status.h"

namespace bflow {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  // Closes now and reports what close() said; write errors can surface only here.
  int Close() {
    int rc = close(fd_);
    fd_ = -1;
    return rc;
  }

 private:
  int fd_;
};

absl::string_view View(std::string_view s) { return {s.data(), s.size()}; }

absl::StatusOr<std::string> Read(const std::string& path, int64_t max_bytes, int extra_flags) {
  // O_NONBLOCK: opening a FIFO must not hang before fstat can refuse it.
  Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | extra_flags));
  if (fd.get() < 0) return ErrnoStatus("open", path, errno);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus("stat", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(View(BaseName(path)), ": not a regular file"));
  }
  if (info.st_size > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(View(BaseName(path)), ": ", info.st_size,
                                                     " bytes, at most ", max_bytes, " are read"));
  }
  std::string content(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    ssize_t n =
        pread(fd.get(), content.data() + done, content.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("read", path, errno);
    if (n == 0) {
      return absl::DataLossError(
          absl::StrCat(View(BaseName(path)), ": became shorter while it was read"));
    }
    done += static_cast<size_t>(n);
  }
  return content;
}

absl::Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    ssize_t n = write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("write", path, errno);
    content.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

// The temporary file of a write under way, for RemoveUnfinishedFile.
std::atomic<const char*> unfinished{nullptr};

// A disk that fills up is noticed before all of a large file was handed over.
constexpr size_t kPiece = size_t{1} << 20;

// A device or pipe: there is nothing to flush or to rename.
class PlainFile final : public NewFile {
 public:
  PlainFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  absl::Status Append(std::string_view content) override {
    return WriteAll(fd_.get(), content, path_);
  }
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status Close() override {
    return fd_.Close() != 0 ? ErrnoStatus("close", path_, errno) : absl::OkStatus();
  }

 private:
  Descriptor fd_;
  const std::string path_;
};

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  return Read(path, max_bytes, O_NOFOLLOW);
}

absl::StatusOr<std::string> ReadUserFile(const std::string& path, int64_t max_bytes) {
  return Read(path, max_bytes, 0);
}

absl::StatusOr<std::unique_ptr<FileWriter>> FileWriter::Create(FileSystem& files,
                                                               const std::string& path, int mode) {
  std::unique_ptr<FileWriter> writer(
      new FileWriter(files, path, absl::StrCat(path, ".tmp.", getpid())));
  unfinished = writer->temporary_.c_str();
  BFLOW_ASSIGN_OR_RETURN(writer->file_, files.Create(writer->temporary_, mode));
  BFLOW_FAULT_POINT("file.before_write");
  return writer;
}

absl::StatusOr<std::unique_ptr<FileWriter>> FileWriter::CreateUserFile(const std::string& path) {
  FileSystem& files = *FileSystem::Real();
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return ErrnoStatus("create", path, errno);
    if (lstat(path.c_str(), &info) == 0) {
      return absl::NotFoundError(
          absl::StrCat("create ", View(BaseName(path)), ": a symbolic link that leads nowhere"));
    }
    return Create(files, path, 0644);
  }
  if (S_ISREG(info.st_mode)) {
    const std::unique_ptr<char, decltype(&std::free)> target(realpath(path.c_str(), nullptr),
                                                             std::free);
    if (target == nullptr) return ErrnoStatus("create", path, errno);
    return Create(files, target.get(), static_cast<int>(info.st_mode & 0777));
  }
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("open", path, errno);
  std::unique_ptr<FileWriter> writer(new FileWriter(files, path, ""));
  writer->file_ = std::make_unique<PlainFile>(fd, path);
  return writer;
}

FileWriter::~FileWriter() {
  if (temporary_.empty()) return;
  file_.reset();
  unfinished = nullptr;
  files_.RemoveFile(temporary_).IgnoreError();
}

absl::Status FileWriter::Append(std::string_view content) {
  while (!content.empty()) {
    BFLOW_RETURN_IF_ERROR(file_->Append(content.substr(0, kPiece)));
    content.remove_prefix(std::min(content.size(), kPiece));
  }
  return absl::OkStatus();
}

absl::Status FileWriter::Finish() {
  BFLOW_FAULT_POINT("file.before_fsync");
  BFLOW_RETURN_IF_ERROR(file_->Sync());
  return file_->Close();
}

absl::Status FileWriter::Commit() {
  if (temporary_.empty()) return file_->Close();
  BFLOW_RETURN_IF_ERROR(Finish());
  BFLOW_FAULT_POINT("file.before_rename");
  BFLOW_RETURN_IF_ERROR(files_.Rename(temporary_, path_));
  unfinished = nullptr;
  temporary_.clear();
  BFLOW_FAULT_POINT("file.after_rename");
  return files_.SyncFolder(DirName(path_));
}

absl::Status WriteFileAtomically(FileSystem& files, const std::string& path,
                                 std::string_view content, int mode) {
  BFLOW_ASSIGN_OR_RETURN(const std::unique_ptr<FileWriter> file,
                         FileWriter::Create(files, path, mode));
  BFLOW_RETURN_IF_ERROR(file->Append(content));
  return file->Commit();
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view content, int mode) {
  return WriteFileAtomically(*FileSystem::Real(), path, content, mode);
}

void RemoveUnfinishedFile() {
  const char* const temporary = unfinished.exchange(nullptr);
  if (temporary != nullptr) unlink(temporary);
}

absl::Status WriteUserFile(const std::string& path, std::string_view content) {
  BFLOW_ASSIGN_OR_RETURN(const std::unique_ptr<FileWriter> file, FileWriter::CreateUserFile(path));
  BFLOW_RETURN_IF_ERROR(file->Append(content));
  return file->Commit();
}

absl::Status MakeDirectories(FileSystem& files, const std::string& path, int mode) {
  if (path.empty() || FileExists(path)) return absl::OkStatus();
  const std::string parent = DirName(path);
  if (parent != path) BFLOW_RETURN_IF_ERROR(MakeDirectories(files, parent, mode));
  BFLOW_RETURN_IF_ERROR(files.MakeFolder(path, mode));
  return files.SyncFolder(parent);
}

absl::Status MakeDirectories(const std::string& path, int mode) {
  return MakeDirectories(*FileSystem::Real(), path, mode);
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  if (folder == nullptr) return ErrnoStatus("open folder", path, errno);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(folder.get())) {
    std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return ErrnoStatus("read folder", path, errno);
  std::sort(names.begin(), names.end());
  return names;
}

bool FileExists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

bool IsDirectory(const std::string& path) {
  struct stat info;
  return lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::string JoinPath(std::string_view folder, std::string_view name) {
  if (folder.empty()) return std::string(name);
  std::string joined(folder);
  if (joined.back() != '/') joined += '/';
  return joined.append(name);
}

std::string_view BaseName(std::string_view path) {
  size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

std::string DirName(std::string_view path) {
  size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return slash == 0 ? "/" : std::string(path.substr(0, slash));
}

}  // namespace bflow
