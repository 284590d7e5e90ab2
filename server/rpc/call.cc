#include "server/rpc/call.h"

#include "server/rpc/grpc_status.h"

namespace bflow {

// The context's deadline is wall time made from what is left on the wire; what is left counts.
SteadyTime DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock) {
  const WallTime deadline = context.deadline();
  if (deadline == WallTime::max()) return SteadyTime::max();
  const auto left = deadline - clock.WallNow();
  if (left > std::chrono::hours(24 * 365)) return SteadyTime::max();
  return clock.Now() + std::chrono::duration_cast<SteadyTime::duration>(left);
}

void AddTrailers(const Trailers& trailers, grpc::CallbackServerContext* context) {
  for (const auto& [name, value] : trailers) context->AddTrailingMetadata(name, value);
}

Call::Call(const ServiceContext& services, grpc::CallbackServerContext* context, const char* method,
           const Metrics::RpcMetrics& rpc)
    : context_(context),
      record_(services, CallRecord::Kind::kUnary, method, rpc,
              DeadlineOf(*context, *services.clock)) {
  rpc.received->Increment();
}

void Call::FinishWith(const absl::Status& status) {
  if (status.ok()) record_.rpc().sent->Increment();
  AddTrailers(record_.TrailersFor(status), context_);
  record_.End(status);
  Finish(ToGrpcStatus(status));
}

}  // namespace bflow
