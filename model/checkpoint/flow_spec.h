// The architecture of a flow as data: what `flow_spec` in a model file says, typed and checked. A
// spec is a list of layers, never a preset name. Torch-free: model/flow builds modules from the
// parsed struct. The JSON form, every field and every default stand in docs/checkpoint_format.md.
#ifndef BFLOW_MODEL_CHECKPOINT_FLOW_SPEC_H_
#define BFLOW_MODEL_CHECKPOINT_FLOW_SPEC_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bflow {

enum class Sensitivity { kNone, kPatient };

// Noise convention of the data a flow was trained on: kUniform for converter codes, kNone for
// reals.
enum class SpecDequantization { kNone, kUniform };

// One waveform channel. `gain`: codes per unit; `baseline`: code of 0; `step`: codes between
// neighbouring values; `input_min`, `input_max`: what the converter can deliver; `lo`, `hi`:
// extremes of the training part, which map to -1 and 1: x = 2 (v + step u - lo) / (hi - lo) - 1.
struct ChannelSpec {
  std::string name;
  std::string unit;
  double gain = 1;
  double baseline = 0;
  double step = 1;
  double input_min = 0;
  double input_max = 0;
  double lo = -1;
  double hi = 1;
};

// Per-channel affine x * exp(log_scale) + bias. Parameters: log_scale [C], bias [C].
struct ActNormSpec {};

// y = x W per time step, W = P (strict_tril(lower) + I)(strict_triu(upper) + diag(sign
// exp(log_diagonal))). Parameters: lower [C,C], upper [C,C], log_diagonal [C], diagonal_sign [C],
// permutation I64 [C].
struct LuMatmulSpec {};

enum class ButterflyOrder { kWidestFirst, kNarrowestFirst };

// Butterfly layer on the flattened event (D = T * C values, time-major). Without partitions:
// `factors` factors, levels 0..n-1 applied in that order (kWidestFirst) or in the opposite one;
// `bi_direction` appends the mirrored sequence (2n factors, the same for both orders). Parameters:
// factors.F, F-th factor applied, [2^level, 2, shared ? 1 : D / 2^(level+1), 2]. With partitions:
// part p has partitions[p] values and partition_factors[p] factors; `rotate` repeats this
// partitions.size() rounds, round r using the list rotated right by r.
// Parameters: rounds.R.parts.P.factors.F; `factors` is 0 then.
struct ButterflySpec {
  int factors = 0;
  bool shared = true;
  ButterflyOrder order = ButterflyOrder::kWidestFirst;
  bool bi_direction = false;
  std::vector<int64_t> partitions;
  std::vector<int> partition_factors;
  bool rotate = false;
};

// Per-time-step coupling: z1 = first C/2 channels; two MLPs C/2 -> hidden -> hidden -> C/2 (tanh
// for the log-scale, ReLU for the shift); z2' = z2 exp(log_s) + t. C even. Parameters:
// scale_net.N.{weight,bias}, shift_net.N.{weight,bias}, N = 0, 1, 2.
struct AffineCouplingSpec {
  int hidden = 16;
};

using LayerSpec = std::variant<ActNormSpec, LuMatmulSpec, ButterflySpec, AffineCouplingSpec>;

// "act_norm", "lu_matmul", "butterfly", "affine_coupling".
std::string_view LayerKind(const LayerSpec& layer);

// squeeze: [T, C] -> [T / squeeze, C * squeeze]; blocks of layers; `split`: the first half of the
// channels goes on, the rest are latents of this level (never on the last level).
struct LevelSpec {
  int squeeze = 2;
  std::vector<std::vector<LayerSpec>> blocks;
  bool split = false;
};

struct FlowSpec {
  std::string architecture = "waveform";
  std::vector<int64_t> event_shape;  // waveform: [T, C]
  double sampling_rate_hz = 0;
  Sensitivity sensitivity = Sensitivity::kPatient;
  bool allow_sampling = true;
  std::vector<ChannelSpec> channels;  // one per event channel
  SpecDequantization dequantization = SpecDequantization::kUniform;
  std::vector<LevelSpec> levels;
  // The base distribution is the standard normal; other kinds come with the layers that need them.

  int64_t event_size() const;     // D
  int64_t time_steps() const;     // T
  int64_t channel_count() const;  // C
  bool quantised() const { return dequantization != SpecDequantization::kNone; }
  // T * sum_c log((hi_c - lo_c) / (2 step_c)) for a quantised spec, else 0:
  // NLL in code steps = NLL in the scaled unit + this.
  double code_unit_offset_nats() const;
};

// Shape [T, C] that the layers of `level` see, after its squeeze.
struct LevelShape {
  int64_t time_steps;
  int64_t channels;
  int64_t size() const { return time_steps * channels; }
};
LevelShape ShapeAtLevel(const FlowSpec& spec, size_t level);

// One round of a butterfly layer on a vector of `size` values: consecutive parts with, per part,
// the level of each factor in the order of application. Without partitions: one round, one part.
struct ButterflyPart {
  int64_t size;
  std::vector<int> levels;
};
std::vector<std::vector<ButterflyPart>> ButterflyRounds(const ButterflySpec& spec, int64_t size);

// Structure, sizes and ranges. Errors: InvalidArgument naming the JSON field
// ("levels[0].blocks[1][2].factors:
// ...").
absl::Status ValidateFlowSpec(const FlowSpec& spec);

// Strict: unknown fields, wrong types, missing required fields are errors. Includes
// ValidateFlowSpec.
absl::StatusOr<FlowSpec> ParseFlowSpec(std::string_view json);
std::string FlowSpecToJson(const FlowSpec& spec);

enum class DType { kF32, kF64, kI64 };

// Bytes per element.
int64_t ItemSize(DType dtype);

// A tensor that a spec implies. Float tensors may be stored as F32 or F64, all of them alike.
struct TensorSpec {
  std::string name;
  bool is_index = false;  // I64
  std::vector<int64_t> shape;
};

// Exactly the tensors of a model file with this spec, in order of the layers
// ("levels.0.blocks.1.2.factors.0", ...).
std::vector<TensorSpec> ExpectedTensors(const FlowSpec& spec);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_FLOW_SPEC_H_
