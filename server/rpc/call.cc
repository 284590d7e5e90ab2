#include "server/rpc/call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "server/exec/reason.h"
#include "server/rpc/grpc_status.h"

namespace bflow {
namespace {

absl::Status Busy() {
  return MakeError(Reason::kServerBusy,
                   "the server is busy: admission.max_calls or admission.max_bytes");
}

// The context's deadline is wall time made from what is left on the wire; what is left counts.
SteadyTime SteadyDeadline(const grpc::CallbackServerContext& context, const Clock& clock) {
  const WallTime deadline = context.deadline();
  if (deadline == WallTime::max()) return SteadyTime::max();
  const auto left = deadline - clock.WallNow();
  if (left > std::chrono::hours(24 * 365)) return SteadyTime::max();
  return clock.Now() + std::chrono::duration_cast<SteadyTime::duration>(left);
}

}  // namespace

Call::Call(const ServiceContext& services, grpc::CallbackServerContext* context, const char* method,
           const Metrics::RpcMetrics& rpc)
    : services_(services),
      context_(context),
      method_(method),
      rpc_(rpc),
      start_(services.clock->Now()),
      id_(absl::StrCat(absl::Hex(DrawSeed(), absl::kZeroPad16))) {
  deadline_ = SteadyDeadline(*context, *services.clock);
  rpc_.started->Increment();
  rpc_.received->Increment();
  context_->AddTrailingMetadata("butterflyflow-call-id", id_);
}

Call::~Call() {
  if (bytes_ > 0) services_.admission->ReturnBytes(bytes_);
  if (!admitted_) return;
  services_.admission->LeaveCall();
  if (operation_) {
    services_.metrics->inflight
        .Add({{"operation", kOperationNames[static_cast<size_t>(*operation_)]}})
        .Decrement();
  }
}

absl::Status Call::Admit(int64_t bytes) {
  if (services_.draining->load()) {
    return MakeError(Reason::kDraining, "the server is shutting down; another replica can answer");
  }
  if (!services_.admission->EnterCall()) return Busy();
  admitted_ = true;
  if (operation_) {
    services_.metrics->inflight
        .Add({{"operation", kOperationNames[static_cast<size_t>(*operation_)]}})
        .Increment();
  }
  return TakeBytes(bytes);
}

absl::Status Call::TakeBytes(int64_t bytes) {
  if (!services_.admission->TakeBytes(bytes)) return Busy();
  bytes_ += bytes;
  return absl::OkStatus();
}

void Call::Record(const absl::Status& status, const grpc::Status& sent) {
  const double seconds = SecondsBetween(start_, services_.clock->Now());
  rpc_.handling->Observe(seconds);
  if (status.ok()) rpc_.sent->Increment();
  services_.metrics->RpcHandled(rpc_, GrpcCodeName(sent.error_code()));
  const std::optional<Reason> known = ReasonOf(status);
  const std::string reason = status.ok() ? "" : ReasonName(known.value_or(Reason::kInternal));
  if (reason == "INTERNAL") services_.metrics->internal_errors.Increment();
  if (operation_) {
    const size_t operation = static_cast<size_t>(*operation_);
    const Outcome outcome = OutcomeOf(reason);
    if (model_) {
      model_->metrics->requests[operation][static_cast<size_t>(outcome)]->Increment();
    } else {
      services_.metrics->OtherRequests(*operation_, outcome).Increment();
    }
  }
  const LogLevel level = status.ok()            ? LogLevel::kDebug
                         : reason == "INTERNAL" ? LogLevel::kError
                                                : LogLevel::kInfo;
  Log(level, "call",
      {{"call", id_},
       {"rpc", method_},
       {"code", GrpcCodeName(sent.error_code())},
       {"reason", reason},
       {"model", model_ ? model_->metrics->label.model : "other"},
       {"rows", rows_},
       {"seconds", seconds}});
}

void Call::FinishWith(const absl::Status& status) {
  const grpc::Status sent = ToGrpcStatus(status);
  if (model_) {
    context_->AddTrailingMetadata("butterflyflow-model-version", std::to_string(model_->version));
  }
  if (const std::optional<int> pause = RetryPushbackMs(status)) {
    context_->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(*pause));
  }
  Record(status, sent);
  Finish(sent);
}

}  // namespace bflow
