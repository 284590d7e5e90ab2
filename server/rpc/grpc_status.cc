#include "server/rpc/grpc_status.h"

#include "server/rpc/error_details.h"

namespace bflow {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status detailed = ToRpcStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(detailed.code()), detailed.message(),
                      detailed.SerializeAsString());
}

}  // namespace bflow
