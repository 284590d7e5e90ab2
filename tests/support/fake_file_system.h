// A file system that fails where it is told to and knows what a power failure would leave. It works
// on a real folder, so that everything that reads sees what the process sees, and keeps account of
// what was flushed; Image() writes what is on the disk after a power failure into another folder.
#ifndef BFLOW_TESTS_SUPPORT_FAKE_FILE_SYSTEM_H_
#define BFLOW_TESTS_SUPPORT_FAKE_FILE_SYSTEM_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file_system.h"

namespace bflow {

// What an operation that fails says.
enum class DiskFault {
  kFull,      // ENOSPC, by what takes space: Create, Append (after half of it), Rename, MakeFolder
  kIo,        // EIO, by Sync, Close and SyncFolder
  kReadOnly,  // EROFS, by everything
  kPower,     // this and every later operation: nothing happens any more
};

// What a power failure leaves of the things that were not flushed.
enum class Unflushed {
  kDropped,       // no name, no content
  kKept,          // all, as it happens mostly
  kNamesOnly,     // new names, files empty: a rename that overtook its data
  kContentsOnly,  // contents, under the old names
  kMixed,  // each name as at any time since it was flushed, each content, by the seed of Image
};

class FakeFileSystem final : public FileSystem {
 public:
  // What lies under `root` now counts as flushed.
  explicit FakeFileSystem(const std::string& root);

  // Operation `first` (from 1) fails, and those after it up to `last`, where the fault can strike
  // them; the others work.
  void FailFrom(int64_t first, DiskFault fault, int64_t last = INT64_MAX);
  // Operations so far, and how many of them failed.
  int64_t operations() const { return operations_; }
  int64_t failed() const { return failed_; }

  // Writes what is under root after a power failure now to the folder `to`, which does not exist.
  void Image(const std::string& to, Unflushed unflushed, uint64_t seed = 0) const;

  absl::StatusOr<std::unique_ptr<NewFile>> Create(const std::string& path, int mode) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status SyncFolder(const std::string& path) override;
  absl::Status MakeFolder(const std::string& path, int mode) override;
  absl::Status RemoveFile(const std::string& path) override;
  absl::Status RemoveFolder(const std::string& path) override;

 private:
  friend class FakeNewFile;
  enum class Kind { kSpace, kFlush, kOther };
  // A file or folder apart from its names.
  struct Node {
    bool folder = false;
    std::string content;  // as the process sees it
    std::string flushed;
  };

  // Makes `path` mean the node, or nothing.
  void Set(const std::string& path, std::optional<size_t> node);
  // The error of this operation, if it is one that fails.
  absl::Status Next(Kind kind, const std::string& path);

  std::string root_;
  std::vector<Node> nodes_;
  std::map<std::string, size_t> now_, flushed_;  // path -> node
  // What a path meant since its folder was flushed last: a removal may reach the disk before the
  // removal of another name, and a rename that was undone later may have reached it.
  std::map<std::string, std::vector<std::optional<size_t>>> since_;
  int64_t operations_ = 0, failed_ = 0;
  int64_t first_ = INT64_MAX, last_ = 0;
  DiskFault fault_ = DiskFault::kFull;
};

}  // namespace bflow

#endif  // BFLOW_TESTS_SUPPORT_FAKE_FILE_SYSTEM_H_
