// A unary call. It lives from the handler to OnDone and deletes itself there; after Finish it must
// not be touched.
#ifndef BFLOW_SERVER_RPC_CALL_H_
#define BFLOW_SERVER_RPC_CALL_H_

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/call_record.h"

namespace bflow {

// The client's deadline on the steady clock; max() for none.
SteadyTime DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock);

void AddTrailers(const Trailers& trailers, grpc::CallbackServerContext* context);

class Call : public grpc::ServerUnaryReactor {
 public:
  Call(const ServiceContext& services, grpc::CallbackServerContext* context, const char* method,
       const Metrics::RpcMetrics& rpc);

  // Sends the status, with the response if it is OK.
  void FinishWith(const absl::Status& status);

  CallRecord& record() { return record_; }
  const ServiceContext& services() const { return record_.services(); }

  void OnCancel() override { record_.cancelled()->store(true); }
  void OnDone() override { delete this; }

 protected:
  ~Call() override = default;

 private:
  grpc::CallbackServerContext* const context_;
  CallRecord record_;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_CALL_H_
