#include "model/scoring/draw_samples.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/philox.h"
#include "base/status.h"
#include "c10/core/InferenceMode.h"
#include "model/data/scaling.h"
#include "model/flow/flow.h"
#include "model/scoring/torch_guard.h"
#include "model/scoring/window_features.h"

namespace bflow {
namespace {

absl::Status CheckOptions(const FlowSpec& spec, const SampleOptions& options, int64_t slice_rows) {
  if (!spec.allow_sampling) {
    return absl::FailedPreconditionError("model: sampling is not allowed by its file");
  }
  if (options.rows < 0 || !CheckedMultiply(options.rows, spec.event_size())) {
    return absl::InvalidArgumentError("num_samples: out of range");
  }
  if (!(options.temperature > 0) || !std::isfinite(options.temperature)) {
    return absl::InvalidArgumentError("temperature: must be positive and finite");
  }
  if (options.codes && !spec.quantised()) {
    return absl::InvalidArgumentError("unit: a continuous model has no codes");
  }
  if (slice_rows < 1) return absl::InvalidArgumentError("slice_rows: must be at least 1");
  return absl::OkStatus();
}

// Fills `z` with the tempered latents of rows first .. first + rows - 1, and `base` with their log
// density as the flow sees them, that is after rounding to its type.
template <typename Value>
void FillLatents(const SampleOptions& options, uint64_t first, int64_t rows, int64_t size, Value* z,
                 std::vector<double>& base) {
  const double normaliser = static_cast<double>(size) * std::log(2 * std::numbers::pi);
  std::vector<double> normals(static_cast<size_t>(size));
  for (int64_t i = 0; i < rows; ++i, z += size) {
    FillNormal(options.seed, first + static_cast<uint64_t>(i), size, normals.data());
    double squares = 0;
    for (int64_t d = 0; d < size; ++d) {
      z[d] = static_cast<Value>(options.temperature * normals[static_cast<size_t>(d)]);
      squares += static_cast<double>(z[d]) * static_cast<double>(z[d]);
    }
    base.push_back(-0.5 * (squares + normaliser));
  }
}

// The degrees of freedom and scale of every value of a latent event, in the API order; empty for a
// base without them.
struct LatentMarginals {
  std::vector<double> degrees, scale;
};

std::vector<double> InEventOrder(const Flow& flow, const std::vector<at::Tensor>& levels) {
  const at::Tensor event = flow.Assemble(levels).to(at::kCPU, at::kDouble).contiguous();
  const double* values = event.const_data_ptr<double>();
  return {values, values + event.numel()};
}

LatentMarginals MarginalsOf(const Flow& flow) {
  const at::Tensor shape = at::empty(Batched(1, flow.spec().event_shape),
                                     at::TensorOptions(at::kDouble).device(flow.device()));
  std::vector<at::Tensor> degrees, scale;
  for (const at::Tensor& level : flow.SplitLatent(shape)) {
    const BaseDistribution::Marginals marginals = flow.base().LevelMarginals(degrees.size());
    const bool none = level.numel() == 0;
    if (!none && !marginals.degrees.defined()) return {};
    degrees.push_back(none ? level : marginals.degrees.expand_as(level));
    scale.push_back(none ? level : marginals.scale.expand_as(level));
  }
  return {InEventOrder(flow, degrees), InEventOrder(flow, scale)};
}

// Tempered draws of Student's t for rows first .. first + rows - 1.
template <typename Value>
void FillHeavyLatents(const SampleOptions& options, const LatentMarginals& marginals,
                      uint64_t first, int64_t rows, int64_t size, Value* z) {
  std::vector<double> draws(static_cast<size_t>(size));
  for (int64_t i = 0; i < rows; ++i, z += size) {
    FillStudentT(options.seed, first + static_cast<uint64_t>(i), size, marginals.degrees.data(),
                 draws.data());
    for (size_t d = 0; d < draws.size(); ++d) {
      z[d] = static_cast<Value>(options.temperature * marginals.scale[d] * draws[d]);
    }
  }
}

// Tempered draws of the logistic distribution for rows first .. first + rows - 1.
template <typename Value>
void FillLogisticLatents(const SampleOptions& options, uint64_t first, int64_t rows, int64_t size,
                         Value* z) {
  std::vector<double> draws(static_cast<size_t>(size));
  for (int64_t i = 0; i < rows; ++i) {
    FillLogistic(options.seed, first + static_cast<uint64_t>(i), size, draws.data());
    for (const double draw : draws) *z++ = static_cast<Value>(options.temperature * draw);
  }
}

// The base's log density of each row, summed in one fixed order.
std::vector<double> BaseLogProb(const Flow& flow, const at::Tensor& z) {
  std::vector<double> sums(static_cast<size_t>(z.size(0)), 0.0);
  size_t level = 0;
  for (const at::Tensor& latents : flow.SplitLatent(z)) {
    const at::Tensor density =
        flow.base().LogDensity(level++, latents).flatten(1).to(at::kCPU).contiguous();
    const double* next = density.const_data_ptr<double>();
    for (double& sum : sums) {
      for (int64_t d = 0; d < density.size(1); ++d) sum += *next++;
    }
  }
  return sums;
}

// Rounds one decoded row to float32, or to codes if wanted; false if some value is not finite.
bool StoreRow(const FlowSpec& spec, std::span<const double> x, bool codes, std::span<float> out) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  bool finite = true;
  std::vector<double> bounded(x.size());
  for (size_t d = 0; d < x.size(); ++d) {
    finite = finite && std::isfinite(x[d]);
    bounded[d] = std::isnan(x[d]) ? 0.0 : std::clamp(x[d], -kLargest, kLargest);
    out[d] = static_cast<float>(bounded[d]);
  }
  if (codes) CodesFromScaled(spec, bounded, out);
  return finite;
}

void DrawSlice(Flow& flow, const SampleOptions& options, const LatentMarginals& marginals,
               int64_t begin, int64_t rows, SampleResult& result) {
  const FlowSpec& spec = flow.spec();
  const int64_t size = spec.event_size();
  at::Tensor z = at::empty(Batched(rows, spec.event_shape), flow.dtype());
  const uint64_t first = options.first_row + static_cast<uint64_t>(begin);
  std::vector<double> base;
  const auto fill = [&](auto* values) {
    if (spec.base == BaseKind::kLogistic) {
      FillLogisticLatents(options, first, rows, size, values);
    } else if (marginals.degrees.empty()) {
      FillLatents(options, first, rows, size, values, base);
    } else {
      FillHeavyLatents(options, marginals, first, rows, size, values);
    }
  };
  if (flow.dtype() == at::kDouble) {
    fill(z.mutable_data_ptr<double>());
  } else {
    fill(z.mutable_data_ptr<float>());
  }
  if (base.empty()) base = BaseLogProb(flow, z.to(flow.device()));
  Transformed decoded = flow.Decode(z.to(flow.device()));
  at::Tensor x = decoded.value.to(at::kCPU, at::kDouble).contiguous();
  at::Tensor log_det = decoded.log_det.to(at::kCPU, at::kDouble).contiguous();
  for (int64_t i = 0; i < rows; ++i) {
    const size_t width = static_cast<size_t>(size), start = static_cast<size_t>(begin + i) * width;
    bool finite = StoreRow(spec, {x.const_data_ptr<double>() + i * size, width}, options.codes,
                           std::span(result.samples).subspan(start, width));
    if (!options.want_log_prob) continue;
    // log p(x) = log p(z) - log|det dx/dz|.
    double log_prob = base[static_cast<size_t>(i)] - log_det.const_data_ptr<double>()[i];
    result.log_prob.push_back(
        finite && std::isfinite(log_prob) ? log_prob : -std::numeric_limits<double>::infinity());
  }
}

}  // namespace

absl::StatusOr<SampleResult> DrawSamples(Flow& flow, const SampleOptions& options,
                                         int64_t slice_rows) {
  BFLOW_RETURN_IF_ERROR(CheckOptions(flow.spec(), options, slice_rows));
  return GuardTorchOr("sampling", [&]() -> absl::StatusOr<SampleResult> {
    c10::InferenceMode inference;
    SampleResult result;
    result.samples.resize(static_cast<size_t>(options.rows * flow.spec().event_size()));
    const LatentMarginals marginals = MarginalsOf(flow);
    const int64_t step = RowsPerPass(flow, slice_rows);
    for (int64_t begin = 0; begin < options.rows; begin += step) {
      DrawSlice(flow, options, marginals, begin, std::min(step, options.rows - begin), result);
    }
    return result;
  });
}

}  // namespace bflow
