// The three operations between their messages and a ScoreTask: Prepare runs the validation checks
// of a request in their fixed order (the first failing one decides the answer), Reply turns the
// scorer's numbers into the response. No gRPC here: both are plain functions of their arguments.
#ifndef BFLOW_SERVER_RPC_OPERATIONS_H_
#define BFLOW_SERVER_RPC_OPERATIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "butterflyflow/v1/flow.pb.h"
#include "server/batching/score_task.h"
#include "server/registry/model_registry.h"

namespace bflow {

struct RequestLimits {
  int64_t max_rows = 65'536;
  int64_t max_samples = 65'536;
  int64_t max_reply_bytes = int64_t{64} << 20;
};

// What Reply needs to know of a checked request.
struct CallPlan {
  ModelHandle model;
  ScoreTask task;                 // without deadline, cancellation and completion
  std::vector<RowStatus> status;  // of each row, before scoring
  int64_t reply_bytes = 0;        // estimate, an upper bound
  butterflyflow::v1::DataType score_dtype = butterflyflow::v1::DATA_TYPE_FP32;
  butterflyflow::v1::DataType sample_dtype = butterflyflow::v1::DATA_TYPE_FP32;
  double alpha = 0;
  std::string request_id;
  bool want_timing = false;
  bool want_contributions = false;
};

// Check 2: syntax of the name and the label, then the model's state.
absl::StatusOr<ModelHandle> FindModel(const butterflyflow::v1::ModelSelector& selector,
                                      const ModelRegistry& registry);

// Takes room for so many reply bytes from the admission counters; an error refuses the call.
using TakeReplyBytes = absl::FunctionRef<absl::Status(int64_t)>;

// Checks 3 to 7; `take` is called once, between the sizes and the first look at a value. `model` is
// what FindModel gave.
absl::StatusOr<CallPlan> Prepare(const butterflyflow::v1::LogLikelihoodRequest& request,
                                 ModelHandle model, const RequestLimits& limits,
                                 TakeReplyBytes take);
absl::StatusOr<CallPlan> Prepare(const butterflyflow::v1::AnomalyScoreRequest& request,
                                 ModelHandle model, const RequestLimits& limits,
                                 TakeReplyBytes take);
absl::StatusOr<CallPlan> Prepare(const butterflyflow::v1::SampleRequest& request, ModelHandle model,
                                 const RequestLimits& limits, TakeReplyBytes take);

// Fills the response, but for timing; also counts rows, scores and flags in the model's metrics.
void Reply(const CallPlan& plan, LogLikelihoodResult result,
           butterflyflow::v1::LogLikelihoodResponse* response);
void Reply(const CallPlan& plan, AnomalyResult result,
           butterflyflow::v1::AnomalyScoreResponse* response);
void Reply(const CallPlan& plan, SampleResult result, butterflyflow::v1::SampleResponse* response);

// A seed that nobody can foretell.
uint64_t DrawSeed();

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_OPERATIONS_H_
