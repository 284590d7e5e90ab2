#include "model/layers/lattice.h"

#include <cmath>
#include <memory>
#include <string>

#include "ATen/TensorOperators.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/searchsorted.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/where.h"
#include "ATen/ops/zeros_like.h"

namespace bflow {
namespace {

// What rounding may have moved across an edge belongs to the cell above it, as of CodeGrid: an edge
// of a seen code's cell, in steps, and one inside a gap, in cells of the gap.
constexpr double kRounding = 1e-9;
constexpr double kGapRounding = 1e-5;
constexpr double kBelowOne = 1 - 0x1p-28;

// Where values of one channel lie among its seen codes; all of the values' shape.
struct Places {
  at::Tensor code;  // the seen code at or before the value; the value's own beyond the seen ones
  at::Tensor rank;  // of `code`
  at::Tensor gap;   // to the next seen code; 1 beyond them
};

// `index`: whole numbers, float64: codes, or ranks if `by_rank`.
Places Find(const at::Tensor& codes, const at::Tensor& index, bool by_rank) {
  const int64_t count = codes.size(0);
  const at::Tensor wide = codes.to(at::kDouble);
  const double first = wide[0].item<double>(), last = wide[count - 1].item<double>();
  const at::Tensor seen =
      by_rank ? index - first
              : at::searchsorted(wide, index.contiguous(), false, /*right=*/true) - 1;
  const at::Tensor at_seen = seen.clamp(0, count - 1).to(at::kLong);
  const at::Tensor next = (at_seen + 1).clamp_max(count - 1);
  const auto look_up = [&wide](const at::Tensor& at) {
    return wide.index_select(0, at.flatten()).view(at.sizes());
  };
  Places places = {look_up(at_seen), at_seen.to(at::kDouble) + first, {}};
  // Outside, unit steps from the first and the last seen code.
  const double end = by_rank ? first + static_cast<double>(count - 1) : last;
  const at::Tensor below = (index - first).clamp_max(0), above = (index - end).clamp_min(0);
  places.gap = at::where((below < 0).logical_or(index >= end), at::zeros_like(wide[0]) + 1,
                         look_up(next) - places.code);
  places.code = places.code + below + above;
  places.rank = places.rank + below + above;
  return places;
}

}  // namespace

LatticeLayer::LatticeLayer(const LatticeSpec& spec, const LevelShape& shape) : grid_(shape) {
  auto codes = register_module("codes", std::make_shared<torch::nn::Module>("codes"));
  for (size_t c = 0; c < spec.sizes.size(); ++c) {
    codes_.push_back(codes->register_buffer(
        std::to_string(c), at::arange(spec.sizes[c], at::TensorOptions(at::kLong))));
  }
}

at::Tensor LatticeLayer::Ranks(int64_t channel, const at::Tensor& codes) const {
  return Find(codes_[static_cast<size_t>(channel)], codes, /*by_rank=*/false).rank;
}

Transformed LatticeLayer::Apply(const at::Tensor& x, bool inverse) const {
  CodePosition from = grid_.Split(x);
  // What is no number looks up code 0, and stays none by its noise.
  from.index = from.index.nan_to_num(0, 0, 0);
  std::vector<at::Tensor> indices, noises, log_slopes;
  for (size_t c = 0; c < codes_.size(); ++c) {
    const int64_t channel = static_cast<int64_t>(c);
    const at::Tensor index = from.index.select(2, channel), u = from.noise.select(2, channel);
    const Places p = Find(codes_[c], index, inverse);
    const at::Tensor unseen = (p.gap - 1).clamp_min(1);  // codes of the gap, where there is one
    const at::Tensor has_gap = p.gap > 1;
    // The slopes of the seen code's cell and of the gap's.
    const double seen_slope = 1 - kLatticeGap;
    const at::Tensor gap_slope = kLatticeGap / unseen;
    at::Tensor in_gap;
    if (inverse) {
      in_gap = has_gap.logical_and(u >= seen_slope - kRounding);
      const at::Tensor beyond = ((u - seen_slope) / gap_slope).clamp_min(0);
      const at::Tensor whole = (beyond.detach() + kGapRounding).floor().minimum(unseen - 1);
      indices.push_back(at::where(in_gap, p.code + 1 + whole, p.code));
      noises.push_back(at::where(in_gap, (beyond - whole).clamp(0, kBelowOne),
                                 at::where(has_gap, u / seen_slope, u)));
    } else {
      in_gap = has_gap.logical_and(index > p.code);
      indices.push_back(p.rank);
      noises.push_back(at::where(
          in_gap, (seen_slope + gap_slope * (index - p.code - 1 + u)).clamp_max(kBelowOne),
          at::where(has_gap, seen_slope * u, u)));
    }
    const at::Tensor log_slope =
        at::where(in_gap, gap_slope.log(),
                  at::where(has_gap, at::zeros_like(u) + std::log(seen_slope), at::zeros_like(u)));
    log_slopes.push_back(log_slope.detach());
  }
  // One after the other: a library sum may split a row differently in another batch.
  const at::Tensor sums = at::stack(log_slopes, 2).flatten(1).cumsum(1);
  const at::Tensor log_det = sums.select(1, sums.size(1) - 1);
  return {grid_.Join({at::stack(indices, 2), at::stack(noises, 2)}), inverse ? -log_det : log_det};
}

Transformed LatticeLayer::Forward(const at::Tensor& x) { return Apply(x, /*inverse=*/false); }

Transformed LatticeLayer::Inverse(const at::Tensor& z) { return Apply(z, /*inverse=*/true); }

}  // namespace bflow
