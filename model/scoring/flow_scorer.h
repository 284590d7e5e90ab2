// The Scorer of a checkpoint: a frozen Flow, its calibration and the noise conventions. Torch-free
// header, so that whoever starts a server need not compile against the tensor library.
#ifndef BFLOW_MODEL_SCORING_FLOW_SCORER_H_
#define BFLOW_MODEL_SCORING_FLOW_SCORER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint/calibration.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/repository.h"
#include "model/scoring/scorer.h"

namespace bflow {

class Flow;

struct ScorerOptions {
  bool float64 = false;  // compute in float64 (self-test values, comparisons); serving uses float32
  std::string device = "cpu";  // BackendInfo.device
  int64_t slice_rows = 128;    // most rows per pass through the flow: bounds the memory of a call
};

// A thread-safe scorer; the checkpoint is not needed afterwards. Samples that overflowed have
// log_prob -infinity, and in place of values that are not finite the nearest finite ones (0 for
// NaN) before they are turned into codes. With draws > 1 the latent is that of draw 0. Errors:
// DataLoss (a calibration that does not fit the flow), InvalidArgument, ResourceExhausted,
// Internal.
absl::StatusOr<std::unique_ptr<Scorer>> MakeFlowScorer(const Checkpoint& checkpoint,
                                                       const ScorerOptions& options = {});

// What the outside may know of a model. `calibration` may be null.
ModelSignature MakeSignature(const FlowSpec& spec, const Calibration* calibration);

// The noise under which a model is calibrated, self-tested and scored: CENTER if quantised, else
// NONE.
Noise CalibrationNoise(const FlowSpec& spec);

// Self-test rows for a checkpoint: log p of `x` (CENTER noise if quantised), and the scores where
// `calibration` is not null, computed in float64 with a copy of the flow's tensors, whatever their
// dtype. Errors: InvalidArgument (size of x, a row whose log p is not finite or that a float32
// scorer does not reproduce within kSelfTestRtol: a server would refuse the model),
// ResourceExhausted, Internal.
absl::StatusOr<SelfTest> MakeSelfTest(const Flow& flow, const Calibration* calibration,
                                      const HostBatch& x);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_FLOW_SCORER_H_
