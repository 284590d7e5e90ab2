#include "server/rpc/flow_service.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/status.h"
#include "server/exec/reason.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

constexpr char kService[] = "butterflyflow.v1.FlowService";

void FillDuration(double seconds, google::protobuf::Duration* duration) {
  const int64_t nanos = static_cast<int64_t>(std::max(seconds, 0.0) * 1e9);
  duration->set_seconds(nanos / 1'000'000'000);
  duration->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

int64_t InputBytes(const pb::SampleRequest&) { return 0; }
template <typename Request>
int64_t InputBytes(const Request& request) {
  return static_cast<int64_t>(request.x().data().size());
}

// On a worker's thread: numbers to response, then the one Finish.
template <typename Result, typename Response>
void FinishTask(Call* call, const CallPlan& plan, TaskReply reply, Response* response) {
  const ServiceContext& services = call->services();
  ModelMetrics& metrics = *plan.model->metrics;
  if (reply.status.ok()) {
    const SteadyTime encode = services.clock->Now();
    try {
      Reply(plan, std::get<Result>(std::move(reply.result)), response);
    } catch (const std::bad_alloc&) {
      reply.status = MakeError(Reason::kHostOutOfMemory, "not enough memory for this reply");
    }
    const SteadyTime end = services.clock->Now();
    metrics.stages[static_cast<size_t>(Stage::kCompute)]->Observe(reply.compute_seconds);
    metrics.stages[static_cast<size_t>(Stage::kEncode)]->Observe(SecondsBetween(encode, end));
    if (plan.want_timing) {
      pb::Timing* timing = response->mutable_timing();
      FillDuration(reply.queue_seconds, timing->mutable_queue());
      FillDuration(reply.compute_seconds, timing->mutable_compute());
      FillDuration(SecondsBetween(call->start(), end), timing->mutable_total());
      timing->set_batches(reply.batches);
    }
  }
  call->FinishWith(reply.status);
}

// The checks in their order, then the queue. Anything but OK is to be finished by the caller.
template <typename Result, typename Request, typename Response>
absl::Status Start(Call* call, const Request& request, Response* response) {
  const ServiceContext& services = call->services();
  BFLOW_RETURN_IF_ERROR(call->Admit(InputBytes(request)));
  BFLOW_ASSIGN_OR_RETURN(ModelHandle model, FindModel(request.model(), *services.registry));
  call->SetModel(model);
  ModelMetrics& metrics = *model->metrics;
  BFLOW_ASSIGN_OR_RETURN(CallPlan prepared,
                         Prepare(request, std::move(model), services.limits,
                                 [call](int64_t bytes) { return call->TakeBytes(bytes); }));
  auto plan = std::make_shared<CallPlan>(std::move(prepared));
  call->SetRows(plan->task.rows);
  ScoreTask task = std::move(plan->task);
  plan->task.work = task.work;  // Reply reads the noise and the options as used
  task.deadline = call->deadline();
  task.cancelled = call->cancelled();
  task.done = [call, plan, response](TaskReply reply) {
    FinishTask<Result>(call, *plan, std::move(reply), response);
  };
  metrics.stages[static_cast<size_t>(Stage::kDecode)]->Observe(
      SecondsBetween(call->start(), services.clock->Now()));
  return services.batcher->Submit(std::move(task));
}

template <typename Result, typename Request, typename Response>
grpc::ServerUnaryReactor* Handle(Call* call, Operation operation, const Request& request,
                                 Response* response) {
  call->SetOperation(operation);
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

}  // namespace

FlowServiceImpl::FlowServiceImpl(const ServiceContext& services)
    : services_(services),
      log_likelihood_(services.metrics->ForRpc(kService, "LogLikelihood")),
      anomaly_score_(services.metrics->ForRpc(kService, "AnomalyScore")),
      sample_(services.metrics->ForRpc(kService, "Sample")) {}

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

}  // namespace bflow
