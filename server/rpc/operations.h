// The three operations between their messages and a ScoreTask: CheckCall and DecodeInput run the
// validation checks of a request in their fixed order (the first failing one decides the answer),
// Reply turns the scorer's numbers into the response. No gRPC here: both are plain functions of
// their arguments.
#ifndef BFLOW_SERVER_RPC_OPERATIONS_H_
#define BFLOW_SERVER_RPC_OPERATIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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

  // What the admission counters are charged beside the request itself.
  int64_t memory_bytes() const { return task.bytes + reply_bytes; }

  butterflyflow::v1::DataType score_dtype = butterflyflow::v1::DATA_TYPE_FP32;
  butterflyflow::v1::DataType sample_dtype = butterflyflow::v1::DATA_TYPE_FP32;
  double alpha = 0;
  std::string request_id;
  NoiseKind input_noise = NoiseKind::kNone;  // what the values are checked against
  bool mark_invalid = false;                 // MARK, else REJECT
  bool want_timing = false;
};

// Check 2: syntax of the name and the label, then the model's state.
absl::StatusOr<ModelHandle> FindModel(const butterflyflow::v1::ModelSelector& selector,
                                      const ModelRegistry& registry);

// Checks 3 and 5: the operation and its options, without rows. What a stream opens with.
absl::StatusOr<CallPlan> CheckOpen(const butterflyflow::v1::LogLikelihoodRequest& request,
                                   ModelHandle model);
absl::StatusOr<CallPlan> CheckOpen(const butterflyflow::v1::AnomalyScoreRequest& request,
                                   ModelHandle model);
absl::StatusOr<CallPlan> CheckOpen(const butterflyflow::v1::SampleRequest& request,
                                   ModelHandle model);

// Checks 3 to 6. The caller then takes plan.memory_bytes() from the admission counters, before any
// value is looked at. `model` is what FindModel gave.
absl::StatusOr<CallPlan> CheckCall(const butterflyflow::v1::LogLikelihoodRequest& request,
                                   ModelHandle model, const RequestLimits& limits);
absl::StatusOr<CallPlan> CheckCall(const butterflyflow::v1::AnomalyScoreRequest& request,
                                   ModelHandle model, const RequestLimits& limits);
absl::StatusOr<CallPlan> CheckCall(const butterflyflow::v1::SampleRequest& request,
                                   ModelHandle model, const RequestLimits& limits);

// Check 7: the values; completes the task of a scoring call.
absl::Status DecodeInput(const butterflyflow::v1::Tensor& x, CallPlan& plan);

// Makes a checked sampling plan one of rows [first_row, first_row + rows).
void SetSampleRows(uint64_t first_row, int64_t rows, CallPlan& plan);

// Fills the response; also counts rows, scores and flags in the model's metrics.
void Reply(const CallPlan& plan, LogLikelihoodResult result,
           butterflyflow::v1::LogLikelihoodResponse* response);
void Reply(const CallPlan& plan, AnomalyResult result,
           butterflyflow::v1::AnomalyScoreResponse* response);
void Reply(const CallPlan& plan, SampleResult result, butterflyflow::v1::SampleResponse* response);

void FillModelRef(const ModelVersion& model, butterflyflow::v1::ModelRef* ref);
// Noise as used.
void FillDequantization(const Noise& noise, butterflyflow::v1::Dequantization* used);

// A seed that nobody can foretell.
uint64_t DrawSeed();

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_OPERATIONS_H_
