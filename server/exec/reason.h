// The reasons of ErrorInfo (domain "butterflyflow"), carried inside absl::Status from where an
// error is found to the one place that turns it into a gRPC status. Messages are built from an
// allow-list of parts: field names, shapes, counts and limits; never an input value, a client's
// string, a model's name or a path.
#ifndef BFLOW_SERVER_EXEC_REASON_H_
#define BFLOW_SERVER_EXEC_REASON_H_

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace bflow {

enum class Reason {
  kBadName,
  kBadDtype,
  kShapeMismatch,
  kByteCountMismatch,
  kChecksumMismatch,
  kBadOption,
  kNonFiniteInput,
  kValueOutOfRange,
  kStreamProtocol,
  kModelNotFound,
  kModelFailed,
  kNoCalibration,
  kCalibrationTooSmall,
  kSamplingNotAllowed,
  kAttributionUnsupported,
  kLimitExceeded,
  kHostOutOfMemory,
  kQueueFull,
  kServerBusy,
  kModelLoading,
  kDraining,
  kStreamIdle,
  kExpired,
  kClientGone,
  kAdminListenerOnly,
  kInternal,
};

// "BAD_NAME", ...
const char* ReasonName(Reason reason);

// A status with the code that belongs to the reason; `field` is the path of the offending request
// field, for the reasons that have one.
absl::Status MakeError(Reason reason, const std::string& message, const std::string& field = "");

// Of a status made by MakeError; nullopt and "" otherwise.
std::optional<Reason> ReasonOf(const absl::Status& status);
std::string FieldOf(const absl::Status& status);

}  // namespace bflow

#endif  // BFLOW_SERVER_EXEC_REASON_H_
