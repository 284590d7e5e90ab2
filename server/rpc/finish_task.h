// The last step of a task on a worker's thread, of unary calls and of chunks alike: the scorer's
// numbers become the response, with the stages observed and the timing filled in.
#ifndef BFLOW_SERVER_RPC_FINISH_TASK_H_
#define BFLOW_SERVER_RPC_FINISH_TASK_H_

#include <algorithm>
#include <new>
#include <utility>
#include <variant>

#include "server/exec/reason.h"
#include "server/rpc/operations.h"

namespace bflow {

inline void FillDuration(double seconds, google::protobuf::Duration* duration) {
  const int64_t nanos = static_cast<int64_t>(std::max(seconds, 0.0) * 1e9);
  duration->set_seconds(nanos / 1'000'000'000);
  duration->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

// `start`: of the call, or the chunk's arrival. The task's error, or HOST_OUT_OF_MEMORY.
template <typename Result, typename Response>
absl::Status FinishTask(const CallPlan& plan, TaskReply reply, SteadyTime start, const Clock& clock,
                        Response* response) {
  if (!reply.status.ok()) return reply.status;
  ModelMetrics& metrics = *plan.model->metrics;
  const SteadyTime encode = clock.Now();
  try {
    Reply(plan, std::get<Result>(std::move(reply.result)), response);
  } catch (const std::bad_alloc&) {
    return MakeError(Reason::kHostOutOfMemory, "not enough memory for this reply");
  }
  const SteadyTime end = clock.Now();
  metrics.stages[static_cast<size_t>(Stage::kCompute)]->Observe(reply.compute_seconds);
  metrics.stages[static_cast<size_t>(Stage::kEncode)]->Observe(SecondsBetween(encode, end));
  if (plan.want_timing) {
    butterflyflow::v1::Timing* timing = response->mutable_timing();
    FillDuration(reply.queue_seconds, timing->mutable_queue());
    FillDuration(reply.compute_seconds, timing->mutable_compute());
    FillDuration(SecondsBetween(start, end), timing->mutable_total());
    timing->set_batches(reply.batches);
  }
  return absl::OkStatus();
}

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_FINISH_TASK_H_
