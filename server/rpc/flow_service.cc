#include "server/rpc/flow_service.h"

#include <new>
#include <utility>

#include "base/status.h"
#include "server/exec/reason.h"
#include "server/rpc/finish_task.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/sample_stream.h"
#include "server/rpc/score_stream.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

constexpr char kService[] = "butterflyflow.v1.FlowService";

int64_t InputBytes(const pb::SampleRequest&) { return 0; }
template <typename Request>
int64_t InputBytes(const Request& request) {
  return static_cast<int64_t>(request.x().data().size());
}

absl::Status Decode(const pb::SampleRequest&, CallPlan&) { return absl::OkStatus(); }
template <typename Request>
absl::Status Decode(const Request& request, CallPlan& plan) {
  return DecodeInput(request.x(), plan);
}

// The checks in their order, then the queue. Anything but OK is to be finished by the caller.
template <typename Result, typename Request, typename Response>
absl::Status Start(Call* call, const Request& request, Response* response) {
  const ServiceContext& services = call->services();
  CallRecord& record = call->record();
  BFLOW_RETURN_IF_ERROR(record.Admit(InputBytes(request)));
  BFLOW_ASSIGN_OR_RETURN(ModelHandle model, FindModel(request.model(), *services.registry));
  record.SetModel(model);
  ModelMetrics& metrics = *model->metrics;
  BFLOW_ASSIGN_OR_RETURN(CallPlan checked, CheckCall(request, std::move(model), services.limits));
  BFLOW_RETURN_IF_ERROR(record.TakeBytes(checked.memory_bytes()));
  BFLOW_RETURN_IF_ERROR(Decode(request, checked));
  auto plan = std::make_shared<CallPlan>(std::move(checked));
  record.AddRows(plan->task.rows);
  ScoreTask task = std::move(plan->task);
  plan->task.work = task.work;  // Reply reads the noise and the options as used
  task.deadline = record.deadline();
  task.cancelled = record.cancelled();
  task.done = [call, plan, response](TaskReply reply) {
    call->FinishWith(FinishTask<Result>(*plan, std::move(reply), call->record().start(),
                                        *call->services().clock, response));
  };
  metrics.stages[static_cast<size_t>(Stage::kDecode)]->Observe(
      SecondsBetween(record.start(), services.clock->Now()));
  return services.batcher->Submit(std::move(task));
}

template <typename Result, typename Request, typename Response>
grpc::ServerUnaryReactor* Handle(Call* call, Operation operation, const Request& request,
                                 Response* response) {
  call->record().SetOperation(operation);
  absl::Status status;
  try {
    status = Start<Result>(call, request, response);
  } catch (const std::bad_alloc&) {
    status = MakeError(Reason::kHostOutOfMemory, "not enough memory for this request");
  }
  // Once the task is submitted the call is the worker's: it may be gone already.
  if (!status.ok()) call->FinishWith(status);
  return call;
}

// A reactor that owns its stream, lends it gRPC's operations and tells it how they end.
template <typename Reactor, typename Stream, typename Response>
class StreamReactor : public Reactor, public StreamPort<Response> {
 public:
  StreamReactor(const ServiceContext& services, grpc::CallbackServerContext* context,
                const Metrics::RpcMetrics& rpc)
      : context_(context),
        stream_(
            std::make_shared<Stream>(services, rpc, DeadlineOf(*context, *services.clock), this)) {}
  Stream& stream() { return *stream_; }

  void StartWrite(const Response* response) override { Reactor::StartWrite(response); }
  void Finish(const absl::Status& status, const Trailers& trailers) override {
    AddTrailers(trailers, context_);
    Reactor::Finish(ToGrpcStatus(status));
  }
  void Cut() override { context_->TryCancel(); }

  void OnWriteDone(bool ok) override { stream_->OnWriteDone(ok); }
  void OnCancel() override { stream_->OnCancel(); }
  void OnDone() override {
    stream_->OnDone(context_->IsCancelled());
    delete this;
  }

 private:
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Stream> stream_;
};

class ScoreReactor final
    : public StreamReactor<grpc::ServerBidiReactor<pb::StreamScoreRequest, pb::StreamScoreResponse>,
                           ScoreStream, pb::StreamScoreResponse> {
 public:
  using StreamReactor::StreamReactor;
  void StartRead() override { ServerBidiReactor::StartRead(stream().read_buffer()); }
  void OnReadDone(bool ok) override { stream().OnReadDone(ok); }
};

class SampleReactor final : public StreamReactor<grpc::ServerWriteReactor<pb::StreamSampleResponse>,
                                                 SampleStream, pb::StreamSampleResponse> {
 public:
  using StreamReactor::StreamReactor;
  void StartRead() override {}  // this stream has none
};

}  // namespace

FlowServiceImpl::FlowServiceImpl(const ServiceContext& services)
    : services_(services),
      log_likelihood_(services.metrics->ForRpc(kService, "LogLikelihood")),
      anomaly_score_(services.metrics->ForRpc(kService, "AnomalyScore")),
      sample_(services.metrics->ForRpc(kService, "Sample")),
      stream_score_(services.metrics->ForRpc(kService, "StreamScore", "bidi_stream")),
      stream_sample_(services.metrics->ForRpc(kService, "StreamSample", "server_stream")) {}

grpc::ServerUnaryReactor* FlowServiceImpl::LogLikelihood(grpc::CallbackServerContext* context,
                                                         const pb::LogLikelihoodRequest* request,
                                                         pb::LogLikelihoodResponse* response) {
  return Handle<LogLikelihoodResult>(new Call(services_, context, "LogLikelihood", log_likelihood_),
                                     Operation::kLogLikelihood, *request, response);
}

grpc::ServerUnaryReactor* FlowServiceImpl::AnomalyScore(grpc::CallbackServerContext* context,
                                                        const pb::AnomalyScoreRequest* request,
                                                        pb::AnomalyScoreResponse* response) {
  return Handle<AnomalyResult>(new Call(services_, context, "AnomalyScore", anomaly_score_),
                               Operation::kAnomaly, *request, response);
}

grpc::ServerUnaryReactor* FlowServiceImpl::Sample(grpc::CallbackServerContext* context,
                                                  const pb::SampleRequest* request,
                                                  pb::SampleResponse* response) {
  return Handle<SampleResult>(new Call(services_, context, "Sample", sample_), Operation::kSample,
                              *request, response);
}

grpc::ServerBidiReactor<pb::StreamScoreRequest, pb::StreamScoreResponse>*
FlowServiceImpl::StreamScore(grpc::CallbackServerContext* context) {
  auto* reactor = new ScoreReactor(services_, context, stream_score_);
  reactor->stream().Start();
  return reactor;
}

grpc::ServerWriteReactor<pb::StreamSampleResponse>* FlowServiceImpl::StreamSample(
    grpc::CallbackServerContext* context, const pb::StreamSampleRequest* request) {
  auto* reactor = new SampleReactor(services_, context, stream_sample_);
  reactor->stream().Start(request->sample());
  return reactor;
}

}  // namespace bflow
