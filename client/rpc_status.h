// The one place where a gRPC status becomes an absl::Status: reads the reason and the field from
// the google.rpc.Status that the server attaches, and adds a hint where gRPC itself made the error.
#ifndef BFLOW_CLIENT_RPC_STATUS_H_
#define BFLOW_CLIENT_RPC_STATUS_H_

#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace bflow::client {

// What a server says about an error beside its text. Empty where it said nothing.
struct ErrorDetails {
  std::string reason;  // ErrorInfo.reason, as SHAPE_MISMATCH; only of the domain "butterflyflow"
  std::string field;   // BadRequest.field_violations[0].field
};

ErrorDetails ReadErrorDetails(const grpc::Status& status);

// The payload of a status that holds the server's reason.
inline constexpr char kReasonPayload[] = "butterflyflow/reason";

// Same code, but UNAVAILABLE for a call that a server dropped; the text is "REASON: [field:
// ]message", plus a remedy for errors made inside gRPC.
absl::Status StatusFromRpc(const grpc::Status& status);

// The program's exit code for a call that failed (base/exit_code.h).
int ExitCodeForStatus(const absl::Status& status);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_RPC_STATUS_H_
