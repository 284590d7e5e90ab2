// The operations by which files get onto a disk, one virtual function each: what writes checkpoints
// and training states takes a FileSystem, so that tests can make any of them fail or lose what was
// not flushed (tests/support/fake_file_system.h). Reading needs no seam: base/file.h.
#ifndef BFLOW_BASE_FILE_SYSTEM_H_
#define BFLOW_BASE_FILE_SYSTEM_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bflow {

// A file being written. What was not synced may be gone after a power failure, and an error of the
// disk may show only in Sync or Close.
class NewFile {
 public:
  virtual ~NewFile() = default;  // closes
  virtual absl::Status Append(std::string_view content) = 0;
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;
};

// Errors are those of ErrnoStatus. Names that were created, renamed or removed may be as before
// after a power failure until SyncFolder of their folder.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Opens for writing from the start, with `mode` if it is new; a symbolic link is refused.
  virtual absl::StatusOr<std::unique_ptr<NewFile>> Create(const std::string& path, int mode) = 0;
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status SyncFolder(const std::string& path) = 0;
  // One folder, whose parent is there; OK if it exists.
  virtual absl::Status MakeFolder(const std::string& path, int mode) = 0;
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  virtual absl::Status RemoveFolder(const std::string& path) = 0;

  // The process-wide real file system.
  static FileSystem* Real();
};

}  // namespace bflow

#endif  // BFLOW_BASE_FILE_SYSTEM_H_
