// Where in a window its abnormality lies: for each segment of 32 time steps and each channel the
// largest calibrated z of three causes (docs/math.md, "Attribution"). Torch-free, float64. Latents
// do not tell: the butterfly mixes the whole window, so no latent belongs to a time.
#ifndef BFLOW_MODEL_SCORING_ATTRIBUTION_H_
#define BFLOW_MODEL_SCORING_ATTRIBUTION_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/calibration.h"
#include "model/scoring/scorer.h"

namespace bflow {

inline constexpr int64_t kAttributionStride = 32;  // time steps per segment
inline constexpr int64_t kMedianWindow = 31;       // of the running median, centred

// Entries of a window of T time steps and C channels: S x C, S = ceil(T / 32), time-major.
int64_t AttributionEntries(int64_t time_steps, int64_t channels);

// Raw causes of one time-major window [T, C], written to out[3 * S * C], cause by cause in the
// order of AttributionCause:
//   gradient  log(1 + a), a = sum over the segment of |g[t] (x[t] - m[t])|, nats: g = d log p /
//             d x, m = the running median of x over 31 samples (fewer at the ends of the window)
//   flat run  longest run of zero differences of `codes` that touches the segment
//   jump      largest |codes[t] - codes[t-1]| of the segment
// `x` is what the flow saw, in the scaled unit; `codes` what came. A gradient that is not finite
// counts as 0.
void ComputeCauses(const float* codes, const float* x, const float* gradient, int64_t time_steps,
                   int64_t channels, double* out);

// Median and (p84 - p16) / 2 per cause and channel over all segments of normal windows, each
// spread at least: 0.1 for the gradient, 1 sample for the run, the channel's `step` for the jump.
// causes: windows x 3 x S x C. Errors: InvalidArgument (sizes, no window).
absl::StatusOr<AttributionTables> FitAttribution(std::span<const double> causes, int64_t time_steps,
                                                 std::span<const double> channel_steps);

// attribution[S * C]: the largest z, at least 0; cause[S * C]: its AttributionCause.
void Attribute(const AttributionTables& tables, std::span<const double> causes, float* attribution,
               AttributionCause* cause);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_ATTRIBUTION_H_
