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

class TensorLister {
 public:
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }
  std::vector<TensorSpec> Take() { return std::move(tensors_); }

  void Add(const ActNormSpec&, const LevelShape& shape) {
    Float("log_scale", {shape.channels});
    Float("bias", {shape.channels});
  }

  void Add(const LuMatmulSpec&, const LevelShape& shape) {
    const int64_t c = shape.channels;
    Float("lower", {c, c});
    Float("upper", {c, c});
    Float("log_diagonal", {c});
    Float("diagonal_sign", {c});
    tensors_.push_back({absl::StrCat(prefix_, "permutation"), true, {c}});
  }

  void Add(const ButterflySpec& spec, const LevelShape& shape) {
    const auto rounds = ButterflyRounds(spec, shape.size());
    for (size_t r = 0; r < rounds.size(); ++r) {
      for (size_t p = 0; p < rounds[r].size(); ++p) {
        const ButterflyPart& part = rounds[r][p];
        for (size_t f = 0; f < part.levels.size(); ++f) {
          const int64_t blocks = int64_t{1} << part.levels[f];
          const int64_t pairs = spec.shared ? 1 : part.size / (2 * blocks);
          Float(spec.partitions.empty() ? absl::StrCat("factors.", f)
                                        : absl::StrCat("rounds.", r, ".parts.", p, ".factors.", f),
                {blocks, 2, pairs, 2});
        }
      }
    }
  }

  void Add(const AffineCouplingSpec& spec, const LevelShape& shape) {
    const int64_t half = shape.channels / 2;
    const int64_t widths[] = {half, spec.hidden, spec.hidden, half};
    for (const char* net : {"scale_net", "shift_net"}) {
      for (int n = 0; n < 3; ++n) {
        Float(absl::StrCat(net, ".", n, ".weight"), {widths[n + 1], widths[n]});
        Float(absl::StrCat(net, ".", n, ".bias"), {widths[n + 1]});
      }
    }
  }

 private:
  void Float(const std::string& name, std::vector<int64_t> shape) {
    tensors_.push_back({absl::StrCat(prefix_, name), false, std::move(shape)});
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
        if constexpr (std::is_same_v<T, ButterflySpec>) return "butterfly";
        if constexpr (std::is_same_v<T, AffineCouplingSpec>) return "affine_coupling";
      },
      layer);
}

int64_t FlowSpec::event_size() const {
  int64_t size = 1;
  for (int64_t d : event_shape) size *= d;
  return size;
}

int64_t FlowSpec::time_steps() const { return event_shape.empty() ? 0 : event_shape.front(); }

int64_t FlowSpec::channel_count() const { return event_shape.size() < 2 ? 0 : event_shape[1]; }

double FlowSpec::code_unit_offset_nats() const {
  if (!quantised()) return 0;
  double sum = 0;
  for (const ChannelSpec& c : channels) sum += std::log((c.hi - c.lo) / (2 * c.step));
  return static_cast<double>(time_steps()) * sum;
}

LevelShape ShapeAtLevel(const FlowSpec& spec, size_t level) {
  LevelShape shape{spec.time_steps(), spec.channel_count()};
  for (size_t l = 0; l <= level; ++l) {
    if (l > 0 && spec.levels[l - 1].split) shape.channels /= 2;
    shape.time_steps /= spec.levels[l].squeeze;
    shape.channels *= spec.levels[l].squeeze;
  }
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
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const LevelShape shape = ShapeAtLevel(spec, l);
    for (size_t j = 0; j < spec.levels[l].blocks.size(); ++j) {
      const auto& block = spec.levels[l].blocks[j];
      for (size_t k = 0; k < block.size(); ++k) {
        lister.set_prefix(absl::StrCat("levels.", l, ".blocks.", j, ".", k, "."));
        std::visit([&](const auto& layer) { lister.Add(layer, shape); }, block[k]);
      }
    }
  }
  return lister.Take();
}

}  // namespace bflow
