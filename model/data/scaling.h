// Converter codes (of an image: pixels) <-> the flow's unit, per channel:
//   x = 2 (v + step u - lo) / (hi - lo) - 1,  u in [0, 1) the dequantisation noise;
//   v = lo + step floor(((x + 1) / 2 (hi - lo)) / step), clamped to the converter's range.
// Computed in float64, rounded once. `lo` and `hi` are the extremes of the codes in the training
// part of a waveform, 0 and 256 of 8-bit pixels; pixels that get noise are first rounded down to
// the grid lo + k step, so that a step of 8 keeps 5 of their 8 bits. Several samples per frame
// average to integer codes (wfdb.h), so the step of a WFDB record is 1.
#ifndef BFLOW_MODEL_DATA_SCALING_H_
#define BFLOW_MODEL_DATA_SCALING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/data/waveform.h"

namespace bflow {

// The three conventions: u = 0 (real values, taken as they are), u from Philox, u = 0.5.
enum class CodeNoise { kNone, kUniform, kCenter };

// x from the codes of one event of `spec`, both flat in its order ([T, C] or [C, H, W]). kUniform:
// u of value d is FillUniform(seed, row, draw)[d]. seed, row and draw mean nothing otherwise. x may
// be codes.
void ScaleEvent(const FlowSpec& spec, std::span<const float> codes, CodeNoise noise, uint64_t seed,
                uint64_t row, uint32_t draw, std::span<float> x);
// The same, not rounded.
void ScaleEvent(const FlowSpec& spec, std::span<const float> codes, CodeNoise noise, uint64_t seed,
                uint64_t row, uint32_t draw, std::span<double> x);

// Inverse for samples: codes on the grid lo + k step, clamped to input_min .. input_max (of an
// image to the grid's values in there).
void CodesFromScaled(const FlowSpec& spec, std::span<const float> x, std::span<float> codes);
void CodesFromScaled(const FlowSpec& spec, std::span<const double> x, std::span<float> codes);

// Extremes and smallest difference between distinct values of codes without NaNs; empty if there is
// no value. The step is 0 where all are alike.
struct CodeRange {
  double lo = 0;
  double hi = 0;
  double step = 0;
};
CodeRange FindCodeRange(std::span<const float> codes);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_SCALING_H_
