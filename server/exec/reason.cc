#include "server/exec/reason.h"

#include <array>

#include "absl/strings/cord.h"

namespace bflow {
namespace {

constexpr char kReasonPayload[] = "butterflyflow/reason";
constexpr char kFieldPayload[] = "butterflyflow/field";

struct Row {
  const char* name;
  absl::StatusCode code;
};

// In the order of the enumeration.
constexpr std::array<Row, 26> kRows = {{
    {"BAD_NAME", absl::StatusCode::kInvalidArgument},
    {"BAD_DTYPE", absl::StatusCode::kInvalidArgument},
    {"SHAPE_MISMATCH", absl::StatusCode::kInvalidArgument},
    {"BYTE_COUNT_MISMATCH", absl::StatusCode::kInvalidArgument},
    {"CHECKSUM_MISMATCH", absl::StatusCode::kInvalidArgument},
    {"BAD_OPTION", absl::StatusCode::kInvalidArgument},
    {"NON_FINITE_INPUT", absl::StatusCode::kInvalidArgument},
    {"VALUE_OUT_OF_RANGE", absl::StatusCode::kInvalidArgument},
    {"STREAM_PROTOCOL", absl::StatusCode::kInvalidArgument},
    {"MODEL_NOT_FOUND", absl::StatusCode::kNotFound},
    {"MODEL_FAILED", absl::StatusCode::kFailedPrecondition},
    {"NO_CALIBRATION", absl::StatusCode::kFailedPrecondition},
    {"CALIBRATION_TOO_SMALL", absl::StatusCode::kFailedPrecondition},
    {"SAMPLING_NOT_ALLOWED", absl::StatusCode::kFailedPrecondition},
    {"ATTRIBUTION_UNSUPPORTED", absl::StatusCode::kFailedPrecondition},
    {"LIMIT_EXCEEDED", absl::StatusCode::kResourceExhausted},
    {"HOST_OUT_OF_MEMORY", absl::StatusCode::kResourceExhausted},
    {"QUEUE_FULL", absl::StatusCode::kUnavailable},
    {"SERVER_BUSY", absl::StatusCode::kUnavailable},
    {"MODEL_LOADING", absl::StatusCode::kUnavailable},
    {"DRAINING", absl::StatusCode::kUnavailable},
    {"STREAM_IDLE", absl::StatusCode::kUnavailable},
    {"EXPIRED", absl::StatusCode::kDeadlineExceeded},
    {"CLIENT_GONE", absl::StatusCode::kCancelled},
    {"ADMIN_LISTENER_ONLY", absl::StatusCode::kPermissionDenied},
    {"INTERNAL", absl::StatusCode::kInternal},
}};
static_assert(kRows.size() == static_cast<size_t>(Reason::kInternal) + 1);

std::string Payload(const absl::Status& status, const char* url) {
  const absl::optional<absl::Cord> payload = status.GetPayload(url);
  return payload ? std::string(*payload) : std::string();
}

}  // namespace

const char* ReasonName(Reason reason) { return kRows[static_cast<size_t>(reason)].name; }

absl::Status MakeError(Reason reason, const std::string& message, const std::string& field) {
  const Row& row = kRows[static_cast<size_t>(reason)];
  absl::Status status(row.code, message);
  status.SetPayload(kReasonPayload, absl::Cord(row.name));
  if (!field.empty()) status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

std::optional<Reason> ReasonOf(const absl::Status& status) {
  const std::string name = Payload(status, kReasonPayload);
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (name == kRows[i].name) return static_cast<Reason>(i);
  }
  return std::nullopt;
}

std::string FieldOf(const absl::Status& status) { return Payload(status, kFieldPayload); }

}  // namespace bflow
