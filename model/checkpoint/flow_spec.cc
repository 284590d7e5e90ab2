#include "model/checkpoint/flow_spec.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace bflow {
namespace {

std::vector<int> LevelOrder(const ButterflySpec& spec, int factors) {
  std::vector<int> levels;
  for (int i = 0; i < factors; ++i) levels.push_back(i);
  if (spec.bi_direction) {
    // A palindrome: reversing it once more for the opposite order changes nothing.
    levels.insert(levels.end(), levels.rbegin(), levels.rend());
  } else if (spec.order == ButterflyOrder::kNarrowestFirst) {
    std::reverse(levels.begin(), levels.end());
  }
  return levels;
}

// Of a box: taps of a dilated convolution, numbers of a head for its 5 logistic distributions.
constexpr int64_t kBoxBlockTaps = 3;
constexpr int64_t kBoxHeadOutputs = 15;

class TensorLister {
 public:
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  std::vector<TensorSpec> Take() { return std::move(tensors_); }

  void Add(const ActNormSpec&, const LevelShape& shape) {
    Tensor("log_scale", {shape.channels});
    Tensor("bias", {shape.channels});
  }

  void Add(const LuMatmulSpec&, const LevelShape& shape) {
    const int64_t c = shape.channels;
    Tensor("lower", {c, c});
    Tensor("upper", {c, c});
    Tensor("log_diagonal", {c}, TensorRule::kLog);
    Tensor("diagonal_sign", {c}, TensorRule::kSign);
    Tensor("permutation", {c}, TensorRule::kPermutation);
  }

  void Add(const Conv1x1Spec&, const LevelShape& shape) {
    Tensor("weight", {shape.channels, shape.channels}, TensorRule::kInvertible);
  }

  void Add(const ButterflySpec& spec, const LevelShape& shape) {
    const auto rounds = ButterflyRounds(spec, shape.size());
    for (size_t r = 0; r < rounds.size(); ++r) {
      for (size_t p = 0; p < rounds[r].size(); ++p) {
        const ButterflyPart& part = rounds[r][p];
        for (size_t f = 0; f < part.levels.size(); ++f) {
          const int64_t blocks = int64_t{1} << part.levels[f];
          const int64_t pairs = spec.shared ? 1 : part.size / (2 * blocks);
          Tensor(spec.partitions.empty() ? absl::StrCat("factors.", f)
                                         : absl::StrCat("rounds.", r, ".parts.", p, ".factors.", f),
                 {blocks, 2, pairs, 2}, TensorRule::kFactor);
        }
      }
    }
  }

  void Add(const AffineCouplingSpec& spec, const LevelShape& shape) {
    const int64_t half = shape.channels / 2;
    const int64_t widths[] = {half, spec.hidden, spec.hidden, half};
    for (const char* net : {"scale_net", "shift_net"}) {
      for (int n = 0; n < 3; ++n) {
        Tensor(absl::StrCat(net, ".", n, ".weight"), {widths[n + 1], widths[n]});
        Tensor(absl::StrCat(net, ".", n, ".bias"), {widths[n + 1]});
      }
    }
  }

  void Add(const Conv1dCouplingSpec& spec, const LevelShape& shape) {
    const int64_t widths[] = {shape.channels / 2, spec.hidden, spec.hidden, shape.channels};
    const int64_t kernels[] = {spec.kernel, spec.kernel, 1};
    for (int n = 0; n < 3; ++n) {
      Tensor(absl::StrCat("net.", n, ".weight"), {widths[n + 1], widths[n], kernels[n]});
      Tensor(absl::StrCat("net.", n, ".bias"), {widths[n + 1]});
    }
  }

  void Add(const Conv2dCouplingSpec& spec, const LevelShape& shape) {
    const int64_t half = shape.channels / 2;
    const int64_t widths[] = {shape.channels - half, spec.hidden, spec.hidden, 2 * half};
    const int64_t kernels[] = {3, 1, 3};
    for (int n = 0; n < 3; ++n) {
      Tensor(absl::StrCat("net.", n, ".direction"),
             {widths[n + 1], widths[n], kernels[n], kernels[n]}, TensorRule::kDirection);
      Tensor(absl::StrCat("net.", n, ".gain"), {widths[n + 1]});
      Tensor(absl::StrCat("net.", n, ".bias"), {widths[n + 1]});
    }
  }

  void Add(const EmergingConvSpec& spec, const LevelShape& shape) {
    const int64_t c = shape.channels;
    for (int n = 0; n < 2; ++n) {
      Tensor(absl::StrCat(n, ".weight"), {c, c, spec.kernel, spec.kernel});
      Tensor(absl::StrCat(n, ".log_diagonal"), {c}, TensorRule::kLog);
    }
  }

  void Add(const PeriodicConvSpec& spec, const LevelShape& shape) {
    Tensor("weight", {shape.channels, shape.channels, spec.kernel, spec.kernel});
  }

  void Add(const WoodburySpec& spec, const LevelShape& shape) {
    for (const auto& [name, size] :
         {std::pair("channel", shape.channels), std::pair("spatial", shape.positions())}) {
      Tensor(absl::StrCat(name, ".left"), {size, spec.rank});
      Tensor(absl::StrCat(name, ".right"), {spec.rank, size});
    }
  }

  void Add(const PermutationSpec&, const LevelShape& shape) {
    Tensor("permutation", {shape.size()}, TensorRule::kPermutation);
  }

  void Add(const LogitSpec&, const LevelShape&) {}

  void Add(const WhiteningSpec& spec, const LevelShape& shape) {
    AddWhitening("", spec.order, shape.channels);
  }

  void Add(const LatticeSpec& spec, const LevelShape&) {
    for (size_t c = 0; c < spec.sizes.size(); ++c) {
      Tensor(absl::StrCat("codes.", c), {spec.sizes[c]}, TensorRule::kIncreasing);
    }
  }

  void Add(const BoxSpec& spec, const LevelShape& shape) {
    const int64_t c = shape.channels, width = spec.width;
    AddWhitening("whitening.", spec.order, c);
    Tensor("mean", {c});
    Tensor("log_deviation", {c}, TensorRule::kLog);
    AddConvolution("trunk", {width, 3 * c + 1, spec.kernel});
    for (size_t n = 0; n < spec.dilations.size(); ++n) {
      AddConvolution(absl::StrCat("blocks.", n, ".0"), {width, width, kBoxBlockTaps});
      AddConvolution(absl::StrCat("blocks.", n, ".1"), {width, width, 1});
    }
    for (int64_t head = 0; head < c; ++head) {
      AddConvolution(absl::StrCat("heads.", head, ".0"), {width, width + 2 + 2 * head, 1});
      AddConvolution(absl::StrCat("heads.", head, ".1"), {kBoxHeadOutputs, width, 1});
    }
  }

  void Add(const VariationalDequantizationSpec& spec, const LevelShape& shape) {
    const int64_t c = shape.channels;
    Tensor("mean", {c});
    Tensor("log_scale", {c}, TensorRule::kLog);
    int64_t width = shape.is_image ? c : 2 * c;
    for (size_t n = 0; n <= spec.dilations.size(); ++n) {
      const bool last = n == spec.dilations.size();
      const int64_t taps = last ? 1 : spec.kernel;
      std::vector<int64_t> weight = {last ? 2 * c : spec.hidden, width, taps};
      if (shape.is_image) weight.push_back(taps);
      width = weight[0];
      Tensor(absl::StrCat("net.", n, ".weight"), std::move(weight));
      Tensor(absl::StrCat("net.", n, ".bias"), {width});
    }
  }

  // The Student-t base of a level's latents.
  void AddBase(int64_t latent_channels) {
    Tensor("log_degrees", {latent_channels}, TensorRule::kLog);
    Tensor("log_scale", {latent_channels}, TensorRule::kLog);
  }

 private:
  void AddWhitening(const std::string& prefix, int64_t order, int64_t channels) {
    const int64_t head = order * channels;
    Tensor(prefix + "lags", {channels, channels, order});
    Tensor(prefix + "instantaneous", {channels, channels});
    Tensor(prefix + "bias", {channels});
    Tensor(prefix + "log_scale", {channels}, TensorRule::kLog);
    Tensor(prefix + "head_weight", {head, head});
    Tensor(prefix + "head_bias", {head});
    Tensor(prefix + "head_log_scale", {head}, TensorRule::kLog);
  }

  void AddConvolution(const std::string& name, std::vector<int64_t> shape) {
    const int64_t outputs = shape[0];
    Tensor(name + ".weight", std::move(shape));
    Tensor(name + ".bias", {outputs});
  }

  void Tensor(const std::string& name, std::vector<int64_t> shape,
              TensorRule rule = TensorRule::kFinite) {
    tensors_.push_back({absl::StrCat(prefix_, name), std::move(shape), rule});
  }

  std::string prefix_;
  std::vector<TensorSpec> tensors_;
};

}  // namespace

std::string_view LayerKind(const LayerSpec& layer) {
  return std::visit(
      [](const auto& spec) -> std::string_view {
        using T = std::decay_t<decltype(spec)>;
        if constexpr (std::is_same_v<T, ActNormSpec>) return "act_norm";
        if constexpr (std::is_same_v<T, LuMatmulSpec>) return "lu_matmul";
        if constexpr (std::is_same_v<T, Conv1x1Spec>) return "conv1x1";
        if constexpr (std::is_same_v<T, ButterflySpec>) return "butterfly";
        if constexpr (std::is_same_v<T, AffineCouplingSpec>) return "affine_coupling";
        if constexpr (std::is_same_v<T, Conv1dCouplingSpec>) return "conv1d_coupling";
        if constexpr (std::is_same_v<T, Conv2dCouplingSpec>) return "conv2d_coupling";
        if constexpr (std::is_same_v<T, EmergingConvSpec>) return "emerging_conv";
        if constexpr (std::is_same_v<T, PeriodicConvSpec>) return "periodic_conv";
        if constexpr (std::is_same_v<T, WoodburySpec>) return "woodbury";
        if constexpr (std::is_same_v<T, PermutationSpec>) return "permutation";
        if constexpr (std::is_same_v<T, LogitSpec>) return "logit";
        if constexpr (std::is_same_v<T, WhiteningSpec>) return "whitening";
        if constexpr (std::is_same_v<T, VariationalDequantizationSpec>) {
          return "variational_dequantisation";
        }
        if constexpr (std::is_same_v<T, LatticeSpec>) return "lattice";
        if constexpr (std::is_same_v<T, BoxSpec>) return "box";
      },
      layer);
}

bool IsCoupling(const LayerSpec& layer) {
  return std::holds_alternative<AffineCouplingSpec>(layer) ||
         std::holds_alternative<Conv1dCouplingSpec>(layer) ||
         std::holds_alternative<Conv2dCouplingSpec>(layer);
}

bool TakesCodes(const LayerSpec& layer) {
  return IsOnCodes(layer) || std::holds_alternative<BoxSpec>(layer);
}

bool IsOnCodes(const LayerSpec& layer) {
  return std::holds_alternative<VariationalDequantizationSpec>(layer) ||
         std::holds_alternative<LatticeSpec>(layer);
}

bool ComputesInDouble(const LayerSpec& layer) {
  return TakesCodes(layer) || std::holds_alternative<WhiteningSpec>(layer);
}

std::optional<size_t> WhiteningIndex(const FlowSpec& spec) {
  for (size_t k = 0; k < spec.pre.size(); ++k) {
    if (std::holds_alternative<WhiteningSpec>(spec.pre[k])) return k;
  }
  return std::nullopt;
}

bool HasWhitening(const FlowSpec& spec) { return WhiteningIndex(spec).has_value(); }

bool HasLattice(const FlowSpec& spec) {
  return !spec.pre.empty() && std::holds_alternative<LatticeSpec>(spec.pre.front());
}

int64_t GridIndex(const ChannelSpec& channel, double code) {
  constexpr double kRounding = 1e-9;  // as of the grid that the layers see
  return static_cast<int64_t>(std::floor((code - channel.lo) / channel.step + kRounding));
}

std::optional<size_t> ResidualIndex(const FlowSpec& spec) {
  for (size_t k = spec.pre.size(); k-- > 0;) {
    if (std::holds_alternative<WhiteningSpec>(spec.pre[k]) ||
        std::holds_alternative<BoxSpec>(spec.pre[k])) {
      return k;
    }
  }
  return std::nullopt;
}

bool NeedsDoubleInput(const FlowSpec& spec) {
  return std::any_of(spec.pre.begin(), spec.pre.end(), ComputesInDouble);
}

std::vector<NamedBlock> BlocksOf(const LevelSpec& level) {
  std::vector<NamedBlock> blocks;
  for (size_t j = 0; j < level.blocks.size(); ++j) {
    blocks.push_back({absl::StrCat("blocks.", j), &level.blocks[j]});
  }
  if (!level.prior.empty()) blocks.push_back({"prior", &level.prior});
  return blocks;
}

int64_t FlowSpec::event_size() const {
  int64_t size = 1;
  for (int64_t d : event_shape) size *= d;
  return size;
}

int64_t FlowSpec::time_steps() const { return event_shape.empty() ? 0 : event_shape.front(); }

int64_t FlowSpec::channel_count() const {
  if (is_image()) return event_shape.empty() ? 0 : event_shape.front();
  return event_shape.size() < 2 ? 0 : event_shape[1];
}

int64_t FlowSpec::positions() const {
  const int64_t count = channel_count();
  return count == 0 ? 0 : event_size() / count;
}

int64_t FlowSpec::channel_of(int64_t d) const {
  return is_image() ? d / positions() : d % channel_count();
}

double FlowSpec::code_unit_offset_nats() const {
  if (!quantised()) return 0;
  double sum = 0;
  for (const ChannelSpec& c : channels) sum += std::log((c.hi - c.lo) / (2 * c.step));
  return static_cast<double>(positions()) * sum;
}

LevelShape EventLevelShape(const FlowSpec& spec) {
  LevelShape shape;
  shape.is_image = spec.is_image();
  shape.channels = spec.channel_count();
  shape.height = shape.is_image ? spec.event_shape[1] : spec.time_steps();
  shape.width = shape.is_image ? spec.event_shape[2] : 1;
  if (spec.quantised()) shape.channels_of_event = spec.channels;
  return shape;
}

LevelShape ShapeAtLevel(const FlowSpec& spec, size_t level) {
  LevelShape shape = EventLevelShape(spec);
  for (size_t l = 0; l <= level; ++l) {
    if (l > 0 && spec.levels[l - 1].split) shape.channels /= 2;
    shape = Squeezed(shape, spec.levels[l].squeeze);
  }
  return shape;
}

LevelShape Squeezed(LevelShape shape, int squeeze) {
  shape.channels_of_event.clear();
  shape.height /= squeeze;
  shape.channels *= squeeze;
  if (shape.is_image) {
    shape.width /= squeeze;
    shape.channels *= squeeze;
  }
  return shape;
}

int64_t LatentChannels(const FlowSpec& spec, size_t level) {
  const int64_t channels = ShapeAtLevel(spec, level).channels;
  if (level + 1 == spec.levels.size()) return channels;
  return spec.levels[level].split ? channels / 2 : 0;
}

std::vector<int64_t> Batched(int64_t rows, const std::vector<int64_t>& event_shape) {
  std::vector<int64_t> shape = {rows};
  shape.insert(shape.end(), event_shape.begin(), event_shape.end());
  return shape;
}

std::vector<std::vector<ButterflyPart>> ButterflyRounds(const ButterflySpec& spec, int64_t size) {
  if (spec.partitions.empty()) return {{{size, LevelOrder(spec, spec.factors)}}};
  std::vector<ButterflyPart> parts;
  for (size_t p = 0; p < spec.partitions.size(); ++p) {
    parts.push_back({spec.partitions[p], LevelOrder(spec, spec.partition_factors[p])});
  }
  std::vector<std::vector<ButterflyPart>> rounds;
  const size_t count = spec.rotate ? parts.size() : 1;
  for (size_t r = 0; r < count; ++r) {
    rounds.push_back(parts);
    // The list rotated right by one: the last part becomes the first.
    std::rotate(parts.begin(), parts.end() - 1, parts.end());
  }
  return rounds;
}

int64_t ItemSize(DType dtype) { return dtype == DType::kF32 ? 4 : 8; }

std::vector<TensorSpec> ExpectedTensors(const FlowSpec& spec) {
  TensorLister lister;
  const auto add = [&](const std::string& prefix, const std::vector<LayerSpec>& layers,
                       const LevelShape& shape) {
    for (size_t k = 0; k < layers.size(); ++k) {
      lister.set_prefix(absl::StrCat(prefix, ".", k, "."));
      std::visit([&](const auto& layer) { lister.Add(layer, shape); }, layers[k]);
    }
  };
  add("pre", spec.pre, EventLevelShape(spec));
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const LevelShape shape = ShapeAtLevel(spec, l);
    for (const NamedBlock& block : BlocksOf(spec.levels[l])) {
      add(absl::StrCat("levels.", l, ".", block.name), *block.layers, shape);
    }
  }
  for (size_t l = 0; spec.base == BaseKind::kStudentT && l < spec.levels.size(); ++l) {
    lister.set_prefix(absl::StrCat("base.", l, "."));
    if (LatentChannels(spec, l) > 0) lister.AddBase(LatentChannels(spec, l));
  }
  return lister.Take();
}

}  // namespace bflow
