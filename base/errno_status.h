// What the operating system said, as a status.
#ifndef BFLOW_BASE_ERRNO_STATUS_H_
#define BFLOW_BASE_ERRNO_STATUS_H_

#include <string_view>

#include "absl/status/status.h"

namespace bflow {

// "WHAT NAME: text of `error`", NAME the last component of `path`. NotFound, PermissionDenied
// (read-only file systems too), ResourceExhausted (disk full, quota, file-size limit),
// FailedPrecondition (a symbolic link where none may be) or Internal.
absl::Status ErrnoStatus(std::string_view what, std::string_view path, int error);

}  // namespace bflow

#endif  // BFLOW_BASE_ERRNO_STATUS_H_
