#include "server/rpc/error_details.h"

#include <array>

#include "google/rpc/error_details.pb.h"
#include "server/exec/reason.h"

namespace bflow {
namespace {

constexpr size_t kMessageMax = 1024;
constexpr int kShortPauseMs = 250;
constexpr int kLongPauseMs = 1000;

bool IsOverload(Reason reason) {
  return reason == Reason::kQueueFull || reason == Reason::kServerBusy;
}

void AddRetry(int milliseconds, google::rpc::Status* status) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(milliseconds / 1000);
  retry.mutable_retry_delay()->set_nanos(milliseconds % 1000 * 1'000'000);
  status->add_details()->PackFrom(retry);
}

void AddDetails(Reason reason, const std::string& field, const std::string& message,
                google::rpc::Status* status) {
  google::rpc::ErrorInfo info;
  info.set_reason(ReasonName(reason));
  info.set_domain("butterflyflow");
  status->add_details()->PackFrom(info);
  switch (static_cast<absl::StatusCode>(status->code())) {
    case absl::StatusCode::kInvalidArgument: {
      google::rpc::BadRequest bad;
      auto* violation = bad.add_field_violations();
      violation->set_field(field);
      violation->set_description(message);
      status->add_details()->PackFrom(bad);
      break;
    }
    case absl::StatusCode::kNotFound: {
      google::rpc::ResourceInfo resource;
      resource.set_resource_type("butterflyflow.v1.Model");
      status->add_details()->PackFrom(resource);
      break;
    }
    case absl::StatusCode::kResourceExhausted: {
      google::rpc::QuotaFailure quota;
      auto* violation = quota.add_violations();
      violation->set_subject(field);
      violation->set_description(message);
      status->add_details()->PackFrom(quota);
      break;
    }
    case absl::StatusCode::kUnavailable:
      AddRetry(IsOverload(reason) ? kShortPauseMs : kLongPauseMs, status);
      break;
    default:
      break;
  }
}

}  // namespace

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status detailed;
  if (status.ok()) return detailed;
  const std::optional<Reason> known = ReasonOf(status);
  std::string message = known ? std::string(status.message()) : "internal error";
  if (message.size() > kMessageMax) message.resize(kMessageMax);
  detailed.set_code(static_cast<int>(known ? status.code() : absl::StatusCode::kInternal));
  detailed.set_message(message);
  AddDetails(known.value_or(Reason::kInternal), FieldOf(status), message, &detailed);
  return detailed;
}

std::optional<int> RetryPushbackMs(const absl::Status& status) {
  const std::optional<Reason> reason = ReasonOf(status);
  if (reason && IsOverload(*reason)) return kShortPauseMs;
  return std::nullopt;
}

std::string CodeName(const absl::Status& status) {
  static constexpr std::array<const char*, 17> kNames = {
      "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
      "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
      "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
      "DataLoss", "Unauthenticated"};
  const bool known = status.ok() || ReasonOf(status).has_value();
  return kNames[static_cast<size_t>(known ? status.code() : absl::StatusCode::kInternal)];
}

}  // namespace bflow
