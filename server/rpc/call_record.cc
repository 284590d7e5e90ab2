#include "server/rpc/call_record.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "server/exec/reason.h"
#include "server/rpc/error_details.h"

namespace bflow {
namespace {

absl::Status Busy() {
  return MakeError(Reason::kServerBusy,
                   "the server is busy: admission.max_calls, max_bytes or stream.max_streams");
}

// As ErrorInfo says it; "" for OK.
std::string ReasonText(const absl::Status& status) {
  return status.ok() ? "" : ReasonName(ReasonOf(status).value_or(Reason::kInternal));
}

}  // namespace

CallRecord::CallRecord(const ServiceContext& services, Kind kind, const char* method,
                       const Metrics::RpcMetrics& rpc, SteadyTime deadline)
    : services_(services),
      kind_(kind),
      method_(method),
      rpc_(rpc),
      start_(services.clock->Now()),
      deadline_(deadline),
      id_(absl::StrCat(absl::Hex(DrawSeed(), absl::kZeroPad16))) {
  rpc_.started->Increment();
}

CallRecord::~CallRecord() {
  if (operation_) Running().Decrement();
  if (admitted_) services_.admission->LeaveCall(kind_ == Kind::kStream);
  if (bytes_ > 0) services_.admission->ReturnBytes(bytes_);
}

prometheus::Gauge& CallRecord::Running() const {
  auto& family =
      kind_ == Kind::kUnary ? services_.metrics->inflight : services_.metrics->open_streams;
  return family.Add({{"operation", kOperationNames[static_cast<size_t>(*operation_)]}});
}

void CallRecord::SetOperation(Operation operation) {
  operation_ = operation;
  Running().Increment();
}

absl::Status CallRecord::Admit(int64_t bytes) {
  if (services_.draining->load()) {
    return MakeError(Reason::kDraining, "the server is shutting down; another replica can answer");
  }
  if (!services_.admission->EnterCall(kind_ == Kind::kStream)) return Busy();
  admitted_ = true;
  return TakeBytes(bytes);
}

absl::Status CallRecord::TakeBytes(int64_t bytes) {
  if (!services_.admission->TakeBytes(bytes)) return Busy();
  bytes_ += bytes;
  return absl::OkStatus();
}

void CallRecord::CountRequest(const absl::Status& status) {
  if (!operation_) return;
  const Outcome outcome = OutcomeOf(ReasonText(status));
  if (model_) {
    model_->metrics->requests[static_cast<size_t>(*operation_)][static_cast<size_t>(outcome)]
        ->Increment();
  } else {
    services_.metrics->OtherRequests(*operation_, outcome).Increment();
  }
}

void CallRecord::End(const absl::Status& status) {
  const double seconds = SecondsBetween(start_, services_.clock->Now());
  const std::string code = CodeName(status);
  const std::string reason = ReasonText(status);
  rpc_.handling->Observe(seconds);
  services_.metrics->RpcHandled(rpc_, code);
  if (reason == "INTERNAL") services_.metrics->internal_errors.Increment();
  // A stream was counted chunk by chunk.
  if (kind_ == Kind::kUnary) CountRequest(status);
  const LogLevel level = status.ok()            ? LogLevel::kDebug
                         : reason == "INTERNAL" ? LogLevel::kError
                                                : LogLevel::kInfo;
  Log(level, "call",
      {{"call", id_},
       {"rpc", method_},
       {"code", code},
       {"reason", reason},
       {"model", model_ ? model_->metrics->label.model : "other"},
       {"rows", rows_.load()},
       {"seconds", seconds}});
}

Trailers CallRecord::TrailersFor(const absl::Status& status) const {
  Trailers trailers = {{"butterflyflow-call-id", id_}};
  if (model_) trailers.emplace_back("butterflyflow-model-version", std::to_string(model_->version));
  if (const std::optional<int> pause = RetryPushbackMs(status)) {
    trailers.emplace_back("grpc-retry-pushback-ms", std::to_string(*pause));
  }
  return trailers;
}

}  // namespace bflow
