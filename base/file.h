// Reading and writing whole files. Files are read into owned memory, never mapped: a mapped file
// that is truncated by somebody else kills the reader. Writes are atomic: a reader sees the old
// file, the new file or none, whatever happens to the writer or the power.
#ifndef BFLOW_BASE_FILE_H_
#define BFLOW_BASE_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_system.h"

namespace bflow {

// Error texts of these functions name the last component of the path only.

// The content of a regular file of at most `max_bytes`. Symbolic links in the last component are
// refused. Errors: NotFound; FailedPrecondition (not a regular file); ResourceExhausted (too
// large); DataLoss (the file changed size while it was read); Internal (errno text).
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

// As ReadFile, but follows a symbolic link: for files that a person names on a command line.
absl::StatusOr<std::string> ReadUserFile(const std::string& path, int64_t max_bytes);

// Writes `content` to a temporary file in the same folder, flushes it to the disk, renames it to
// `path` and flushes the folder. On an error before the rename the old file is untouched and the
// temporary is removed; an error after it means that the new file is there, but that a power
// failure may bring the old one back. Errors: ResourceExhausted (disk full or file-size limit),
// PermissionDenied, Internal.
absl::Status WriteFileAtomically(FileSystem& files, const std::string& path,
                                 std::string_view content, int mode = 0644);
absl::Status WriteFileAtomically(const std::string& path, std::string_view content,
                                 int mode = 0644);

// Removes what a FileWriter (or WriteFileAtomically) under way has written so far.
// Async-signal-safe: for a handler that ends the process. One write at a time is known, the latest.
void RemoveUnfinishedFile();

// For an output file that a person names on a command line. A regular file (also at the end of a
// symbolic link, and one that does not exist yet) is written as WriteFileAtomically does and keeps
// its mode as far as the umask lets it; a device or a pipe is written to as it stands. Errors as
// WriteFileAtomically.
absl::Status WriteUserFile(const std::string& path, std::string_view content);

// A file written piece by piece, for content that should not be in memory as a whole: as the
// functions above it is there as it was, or whole once Commit has returned. Without Commit nothing
// remains. Errors as WriteFileAtomically.
class FileWriter {
 public:
  static absl::StatusOr<std::unique_ptr<FileWriter>> Create(FileSystem& files,
                                                            const std::string& path, int mode);
  // As WriteUserFile: a device or a pipe is written to as the pieces come.
  static absl::StatusOr<std::unique_ptr<FileWriter>> CreateUserFile(const std::string& path);

  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  absl::Status Append(std::string_view content);
  absl::Status Commit();

 private:
  FileWriter(FileSystem& files, std::string path, std::string temporary)
      : files_(files), path_(std::move(path)), temporary_(std::move(temporary)) {}
  absl::Status Finish();

  FileSystem& files_;
  const std::string path_;
  std::string temporary_;  // empty where there is none, or no more
  std::unique_ptr<NewFile> file_;
};

// Creates a folder and its missing parents, and flushes their names to the disk.
absl::Status MakeDirectories(FileSystem& files, const std::string& path, int mode = 0755);
absl::Status MakeDirectories(const std::string& path, int mode = 0755);

// Names of the entries of a folder, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);

bool FileExists(const std::string& path);
// True for a real folder; a symbolic link to one is false.
bool IsDirectory(const std::string& path);

// "a/b" joined by one slash.
std::string JoinPath(std::string_view folder, std::string_view name);
// The part after the last slash.
std::string_view BaseName(std::string_view path);
// The part before the last slash, "." if there is none.
std::string DirName(std::string_view path);

}  // namespace bflow

#endif  // BFLOW_BASE_FILE_H_
