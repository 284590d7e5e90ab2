// The architecture of a flow as data: what `flow_spec` in a model file says, typed and checked. A
// spec is a list of layers, never a preset name. Torch-free: model/flow builds modules from the
// parsed struct. The JSON form, every field and every default stand in docs/checkpoint_format.md.
#ifndef BFLOW_MODEL_CHECKPOINT_FLOW_SPEC_H_
#define BFLOW_MODEL_CHECKPOINT_FLOW_SPEC_H_

#include <cstddef>
#include <cstdint>
#include <optional>
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

// One channel. `gain`: codes per unit; `baseline`: code of 0; `step`: codes between neighbouring
// values; `input_min`, `input_max`: what the converter can deliver; `lo`, `hi`: what maps to -1 and
// 1 in x = 2 (v + step u - lo) / (hi - lo) - 1: the extremes of a waveform's training part, 0 and
// 256 of 8-bit pixels. Fewer bits of a pixel are a larger step.
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

// Images only. y[o] = sum_i weight[o,i] x[i] at every position. Parameter: weight [C,C].
struct Conv1x1Spec {};

enum class ButterflyOrder { kWidestFirst, kNarrowestFirst };

// How an image [C, H, W] becomes a vector: as it is, or with the channel running fastest.
enum class ImageFlattening { kChw, kHwc };

// Butterfly layer on the flattened event (waveform: D = T C values, time-major; image: D = C H W
// values). Without partitions:
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
  ImageFlattening flatten = ImageFlattening::kChw;
  std::vector<int64_t> partitions;
  std::vector<int> partition_factors;
  bool rotate = false;
};

// Waveforms only. Per-time-step coupling: z1 = first C/2 channels; two MLPs C/2 -> hidden -> hidden
// -> C/2 (tanh for the log-scale, ReLU for the shift); z2' = z2 exp(log_s) + t. C even. Parameters:
// scale_net.N.{weight,bias}, shift_net.N.{weight,bias}, N = 0, 1, 2.
struct AffineCouplingSpec {
  int hidden = 16;
};

// Waveforms only. Coupling whose net sees neighbouring time steps: z1 = first C/2 channels; net on
// asinh(z1) = conv(hidden, kernel) ELU conv(hidden, kernel, dilation) ELU conv(C, 1), zero padding
// to the same length; (q, m) = its halves, log_s = 3 tanh(q / 3), z2' = z2 exp(log_s) + m. C even,
// kernel odd. Parameters: net.N.{weight,bias}, N = 0, 1, 2.
struct Conv1dCouplingSpec {
  int hidden = 24;
  int kernel = 5;
  int dilation = 2;
};

// Images only. z1 = first C - C/2 channels; net = conv3x3(hidden) ELU conv1x1(hidden) ELU
// conv3x3(2 (C/2)), zero padding, weight-normalised; (mu, s) = its halves, z2' = z2 sigmoid(s + 2)
// + mu. C >= 2. Parameters: net.N.{direction,gain,bias}, N = 0, 1, 2.
struct Conv2dCouplingSpec {
  int hidden = 512;
};

// Images only. Two k x k convolutions that are autoregressive in opposite orders of the pixels and
// channels (Hoogeboom et al. 2019), log_det = H W sum(log_diagonal of both). Parameters:
// N.{weight,log_diagonal}, N = 0 (a pixel from those before it), 1 (from those after it), weight
// [C,C,k,k] of which the entries outside the order and the diagonal are ignored, log_diagonal [C].
struct EmergingConvSpec {
  int kernel = 3;  // odd
};

// Images only. A k x k convolution on the torus, inverted and its determinant taken frequency by
// frequency (Hoogeboom et al. 2019). Parameter: weight [C,C,k,k].
struct PeriodicConvSpec {
  int kernel = 3;  // odd, at most H and W
};

// Images only. y = (I + left right) on the channels, then on the positions (Lu and Huang 2020).
// Parameters: channel.left [C,r], channel.right [r,C], spatial.left [HW,r], spatial.right [r,HW].
struct WoodburySpec {
  int rank = 8;
};

// A fixed permutation of the whole event: out[k] = in[permutation[k]]. Buffer: permutation I64 [D].
struct PermutationSpec {};

// q = 1e-6 + (1 - 2e-6) (x + 1) / 2, y = log q - log(1 - q). No parameters.
struct LogitSpec {};

// Waveforms only. Linear prediction of each sample from the `order` samples before it and the
// channels before it: e[t,c] = (x[t,c] - bias[c] - sum_{j<c} instantaneous[c,j] x[t,j] - sum_{k,j}
// lags[c,j,k-1] x[t-k,j]) exp(-log_scale[c]); the first `order` steps are predicted from all values
// before them: e_i = (x_i - head_bias[i] - sum_{m<i} head_weight[i,m] x_m) exp(-head_log_scale[i]),
// i = t C + c. Buffers, fitted once: lags [C,C,K], instantaneous [C,C], bias, log_scale [C],
// head_weight [KC,KC], head_bias, head_log_scale [KC]; other than strictly lower entries of
// instantaneous and head_weight are ignored.
struct WhiteningSpec {
  int order = 16;
};

// Of codes. Moves the noise u of a value inside its code's cell, by a net on the codes k alone: u'
// = sigmoid(4 m + exp(3 tanh(l / 3)) logit u). The net: for each dilation a convolution of `hidden`
// channels and an ELU, then one of a single tap to (m, l), C channels each; zero padding to the
// same length (waveform) or to the same height and width (image, square kernels). It sees the
// middles of the codes' cells in the scaled unit, (x - mean) exp(-log_scale), of a waveform after
// the codes' differences asinh(2 (k[t] - k[t-1])). Parameters: mean, log_scale [C],
// net.N.{weight,bias}, N = 0 .. dilations.size().
struct VariationalDequantizationSpec {
  int hidden = 24;
  int kernel = 5;  // odd
  std::vector<int> dilations = {1, 2, 4, 8};
};

// Waveforms only, of codes. Each channel has the codes k that its training part saw, in ascending
// order; a seen one becomes its rank (the first keeps its code), and what no code of the training
// lies between shares the last thousandth of its cell: of neighbours c and c + g with g > 1, [c, c
// + 1) -> [r, r + .999) and [c + 1, c + g) -> [r + .999, r + 1). Beyond the first and the last one
// unit steps go on. Buffers: codes.C I64 [sizes[C]] for each channel C.
struct LatticeSpec {
  std::vector<int64_t> sizes;
};

// Waveforms only, of codes, which it turns into standard logistic latents: a causal net gives each
// code its probability from the codes before it, constant inside the code's cell, so that log p of
// the codes is exact whatever the noise. Trunk of `width`: a convolution of `kernel` taps, then for
// each dilation one of 3 dilated taps and one of a single tap as a residual block; per channel a
// head of two layers to 5 logistic distributions. If `adaptive`, each code's probability is a
// mixture with that of an expert, a linear prediction that goes on learning within the row; the
// past of the row decides its share. docs/math.md has all of it. Buffers, of codes + .5:
// whitening.* as WhiteningSpec's, mean, log_deviation [C]. Parameters: trunk.{weight,bias},
// blocks.N.{0,1}.{weight,bias}, heads.C.{0,1}.{weight,bias}.
struct BoxSpec {
  int order = 16;  // of its whitening
  int width = 32;
  int kernel = 5;
  std::vector<int> dilations = {1, 3, 9, 27, 81};
  bool adaptive = false;
};

using LayerSpec =
    std::variant<ActNormSpec, LuMatmulSpec, Conv1x1Spec, ButterflySpec, AffineCouplingSpec,
                 Conv1dCouplingSpec, Conv2dCouplingSpec, EmergingConvSpec, PeriodicConvSpec,
                 WoodburySpec, PermutationSpec, LogitSpec, WhiteningSpec,
                 VariationalDequantizationSpec, LatticeSpec, BoxSpec>;

// The JSON word: "act_norm", "lu_matmul", "conv1x1", "butterfly", "affine_coupling",
// "conv1d_coupling", "conv2d_coupling", "emerging_conv", "periodic_conv", "woodbury",
// "permutation", "logit", "whitening", "variational_dequantisation", "lattice", "box".
std::string_view LayerKind(const LayerSpec& layer);

// Its log-determinant depends on the data: a feature of the anomaly score.
bool IsCoupling(const LayerSpec& layer);

// Takes codes with their noise: nothing but layers that also return such may stand before it.
bool TakesCodes(const LayerSpec& layer);
// Takes codes with their noise, and returns such.
bool IsOnCodes(const LayerSpec& layer);
// Computes in float64 whatever the type of the flow, and should get float64.
bool ComputesInDouble(const LayerSpec& layer);

// squeeze s: waveform [T, C] -> [T / s, C s], image [C, H, W] -> [C s^2, H / s, W / s]; blocks of
// layers, then `prior` (another block, may be empty); `split`: the first half of the channels goes
// on, the rest are latents of this level (never on the last level).
struct LevelSpec {
  int squeeze = 2;
  std::vector<std::vector<LayerSpec>> blocks;
  std::vector<LayerSpec> prior;
  bool split = false;
};

struct FlowSpec;
// The WhiteningSpec of `pre`, of which it has at most one: its place and whether there is one.
std::optional<size_t> WhiteningIndex(const FlowSpec& spec);
bool HasWhitening(const FlowSpec& spec);
// The layer of `pre` whose output, of one value per sample, is what the past did not tell of each:
// whitening's residuals or a box's latents. The last such layer.
std::optional<size_t> ResidualIndex(const FlowSpec& spec);
// Its first layer is a LatticeSpec.
bool HasLattice(const FlowSpec& spec);
// A layer of `pre` would see the rounding of its input to float32: residuals of whitening are small
// differences, codes must be found again.
bool NeedsDoubleInput(const FlowSpec& spec);

// The blocks of a level in the order of application, `prior` last where there is one.
struct NamedBlock {
  std::string name;  // "blocks.0", ..., "prior": as in the names of tensors
  const std::vector<LayerSpec>* layers;
};
std::vector<NamedBlock> BlocksOf(const LevelSpec& level);

// k of the code lo + k step at or below `code`.
int64_t GridIndex(const ChannelSpec& channel, double code);

enum class BaseKind { kNormal, kStudentT, kLogistic };

struct FlowSpec {
  std::string architecture = "waveform";  // or "image"
  std::vector<int64_t> event_shape;       // waveform: [T, C]; image: [C, H, W]
  double sampling_rate_hz = 0;            // of a waveform
  Sensitivity sensitivity = Sensitivity::kPatient;
  bool allow_sampling = true;
  std::vector<ChannelSpec> channels;  // one per event channel
  SpecDequantization dequantization = SpecDequantization::kUniform;
  std::vector<LayerSpec> pre;  // on the scaled event, before the first level
  std::vector<LevelSpec> levels;
  // kStudentT: each latent channel of each level with its own degrees of freedom nu = 1 +
  // exp(log_degrees) and scale exp(log_scale). Parameters: base.L.{log_degrees,log_scale}, one
  // value per latent channel of level L. kLogistic: the standard logistic distribution.
  BaseKind base = BaseKind::kNormal;

  bool is_image() const { return architecture == "image"; }
  int64_t event_size() const;     // D
  int64_t time_steps() const;     // T of a waveform
  int64_t channel_count() const;  // C
  int64_t positions() const;      // values per channel: T, or H W
  // The channel of value d of the flattened event.
  int64_t channel_of(int64_t d) const;
  bool quantised() const { return dequantization != SpecDequantization::kNone; }
  // positions * sum_c log((hi_c - lo_c) / (2 step_c)) for a quantised spec, else 0:
  // NLL in code steps = NLL in the scaled unit + this.
  double code_unit_offset_nats() const;
};

// What the layers of a level see after its squeeze: [T, C] of a waveform, [C, H, W] of an image.
struct LevelShape {
  int64_t channels = 1;
  int64_t height = 1;  // time steps of a waveform
  int64_t width = 1;   // 1 for a waveform
  bool is_image = false;
  // The channels of the event, for layers on its codes: of a quantised flow, before the first
  // squeeze; else empty.
  std::vector<ChannelSpec> channels_of_event = {};
  int64_t positions() const { return height * width; }
  int64_t size() const { return positions() * channels; }
};
// Of the event itself, which the layers of `pre` see.
LevelShape EventLevelShape(const FlowSpec& spec);
LevelShape Squeezed(LevelShape shape, int squeeze);
LevelShape ShapeAtLevel(const FlowSpec& spec, size_t level);
// Channels of the latents that a level leaves behind; 0 where it neither splits nor is the last.
int64_t LatentChannels(const FlowSpec& spec, size_t level);

// [rows, event...].
std::vector<int64_t> Batched(int64_t rows, const std::vector<int64_t>& event_shape);

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

// What the values of a tensor must satisfy for a finite and invertible flow, besides being finite.
enum class TensorRule {
  kFinite,
  kPermutation,  // I64: each of 0 .. n-1 once
  kSign,         // 1 or -1
  kLog,          // within +-20
  kFactor,       // of a butterfly: every 2x2 with |log|det|| <= 20
  kInvertible,   // square matrix with |log|det|| <= 20 per row
  kDirection,    // no output channel is all zeros
  kIncreasing,   // I64: strictly, within +-2^40
};

// A tensor that a spec implies. Float tensors may be stored as F32 or F64, all of them alike.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  TensorRule rule = TensorRule::kFinite;
  bool is_index() const {
    return rule == TensorRule::kPermutation || rule == TensorRule::kIncreasing;
  }
};

// Exactly the tensors of a model file with this spec, in order of the layers
// ("levels.0.blocks.1.2.factors.0", ...).
std::vector<TensorSpec> ExpectedTensors(const FlowSpec& spec);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_FLOW_SPEC_H_
