#include "base/errno_status.h"

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace bflow {

absl::Status ErrnoStatus(std::string_view what, std::string_view path, int error) {
  const std::string subject = std::string(what).append(" ").append(BaseName(path));
  const std::string text = absl::StrCat(subject, ": ", strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(text);
    case ELOOP:
      return absl::FailedPreconditionError(absl::StrCat(subject, ": is a symbolic link"));
    default:
      return absl::InternalError(text);
  }
}

}  // namespace bflow
