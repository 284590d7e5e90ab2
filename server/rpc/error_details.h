// The one place that gives an error its wire form: google.rpc.Status with its details (AIP-193),
// ErrorInfo always, BadRequest, ResourceInfo, QuotaFailure or RetryInfo by code.
#ifndef BFLOW_SERVER_RPC_ERROR_DETAILS_H_
#define BFLOW_SERVER_RPC_ERROR_DETAILS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"

namespace bflow {

// A status without a reason is a defect: it becomes INTERNAL and its text is not sent. Messages are
// cut at 1,024 bytes.
google::rpc::Status ToRpcStatus(const absl::Status& status);

// Value of the trailer grpc-retry-pushback-ms; nullopt where none is due.
std::optional<int> RetryPushbackMs(const absl::Status& status);

// "OK", "InvalidArgument", ...: the label grpc_code of what is sent for a status.
std::string CodeName(const absl::Status& status);

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_ERROR_DETAILS_H_
