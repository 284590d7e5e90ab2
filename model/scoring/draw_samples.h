// Samples of a flow: latents by counter-based random numbers, so that row r is the same however a
// request is cut, decoded and turned into converter codes. Torch-free header.
#ifndef BFLOW_MODEL_SCORING_DRAW_SAMPLES_H_
#define BFLOW_MODEL_SCORING_DRAW_SAMPLES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "model/scoring/scorer.h"

namespace bflow {

class Flow;

// Rows first_row .. first_row + rows - 1 of `seed`. log_prob is the model's density of the
// continuous, unclamped sample at temperature 1. Errors: InvalidArgument (rows, temperature, codes
// of a continuous model), FailedPrecondition (a model that may not be sampled), ResourceExhausted,
// Internal.
absl::StatusOr<SampleResult> DrawSamples(Flow& flow, const SampleOptions& options,
                                         int64_t slice_rows);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_DRAW_SAMPLES_H_
