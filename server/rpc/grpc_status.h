// From absl::Status to gRPC's own, with the details of error_details.h.
#ifndef BFLOW_SERVER_RPC_GRPC_STATUS_H_
#define BFLOW_SERVER_RPC_GRPC_STATUS_H_

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace bflow {

grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_GRPC_STATUS_H_
