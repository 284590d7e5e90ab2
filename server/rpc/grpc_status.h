// The one converter from absl::Status to gRPC, with google.rpc details (AIP-193): ErrorInfo always,
// BadRequest, ResourceInfo, QuotaFailure or RetryInfo by code.
#ifndef BFLOW_SERVER_RPC_GRPC_STATUS_H_
#define BFLOW_SERVER_RPC_GRPC_STATUS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace bflow {

// A status without a reason is a defect: it becomes INTERNAL and its text is not sent. Messages are
// cut at 1,024 bytes.
grpc::Status ToGrpcStatus(const absl::Status& status);

// Value of the trailer grpc-retry-pushback-ms; nullopt where none is due.
std::optional<int> RetryPushbackMs(const absl::Status& status);

// "OK", "InvalidArgument", ...: the label grpc_code.
std::string GrpcCodeName(grpc::StatusCode code);

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_GRPC_STATUS_H_
