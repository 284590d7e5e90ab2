#include "client/rpc_status.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace bflow::client {
namespace {

// The remedy for an error that carries no ErrorInfo, so that a person knows what to do next.
std::string Hint(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return " (is bflow-server running at the address given by --server?)";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return " (the server is slow or out of reach; see --deadline)";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return " (a message is over the size limit of the other side)";
    case grpc::StatusCode::UNIMPLEMENTED:
      return " (the server at this address does not offer this call)";
    default:
      return "";
  }
}

}  // namespace

ErrorDetails ReadErrorDetails(const grpc::Status& status) {
  ErrorDetails out;
  google::rpc::Status rich;
  if (status.error_details().empty() || !rich.ParseFromString(status.error_details())) return out;
  for (const google::protobuf::Any& detail : rich.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    if (detail.Is<google::rpc::ErrorInfo>() && detail.UnpackTo(&info)) {
      if (info.domain() == "butterflyflow") out.reason = info.reason();
    } else if (detail.Is<google::rpc::BadRequest>() && detail.UnpackTo(&bad)) {
      if (bad.field_violations_size() > 0) out.field = bad.field_violations(0).field();
    }
  }
  return out;
}

absl::Status StatusFromRpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const ErrorDetails details = ReadErrorDetails(status);
  std::string text;
  if (!details.reason.empty()) absl::StrAppend(&text, details.reason, ": ");
  // Most texts of the server open with the field already.
  if (!details.field.empty() && status.error_message().rfind(details.field, 0) != 0) {
    absl::StrAppend(&text, details.field, ": ");
  }
  absl::StrAppend(&text, status.error_message());
  if (details.reason.empty()) absl::StrAppend(&text, Hint(status));
  // A client that cancels nothing sees CANCELLED where a server dropped the call: it shuts down, or
  // no reply was taken for too long.
  if (status.error_code() == grpc::StatusCode::CANCELLED && details.reason.empty()) {
    return absl::UnavailableError("the server ended the call; it may be shutting down");
  }
  // The codes of the two libraries are the same numbers.
  absl::Status out(static_cast<absl::StatusCode>(status.error_code()), text);
  if (!details.reason.empty()) out.SetPayload(kReasonPayload, absl::Cord(details.reason));
  return out;
}

int ExitCodeForStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
      return kExitUsage;
    case absl::StatusCode::kFailedPrecondition:
      // What this model cannot do was asked of it, except where it is broken.
      return status.GetPayload(kReasonPayload) == "MODEL_FAILED" ? kExitUnavailable : kExitUsage;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return kExitInternal;
    default:
      return kExitUnavailable;
  }
}

}  // namespace bflow::client
