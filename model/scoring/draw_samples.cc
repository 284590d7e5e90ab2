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

// Rounds one decoded row to float32, turned into codes if wanted; false if some value is not
// finite.
bool StoreRow(const FlowSpec& spec, std::span<const double> x, bool codes, std::span<float> out) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  bool finite = true;
  for (size_t d = 0; d < x.size(); ++d) {
    finite = finite && std::isfinite(x[d]);
    out[d] = std::isnan(x[d]) ? 0.0f : static_cast<float>(std::clamp(x[d], -kLargest, kLargest));
  }
  if (codes) CodesFromScaled(spec, out, out);
  return finite;
}

void DrawSlice(Flow& flow, const SampleOptions& options, int64_t begin, int64_t rows,
               SampleResult& result) {
  const FlowSpec& spec = flow.spec();
  const int64_t size = spec.event_size();
  at::Tensor z = at::empty(Batched(rows, spec.event_shape), flow.dtype());
  const uint64_t first = options.first_row + static_cast<uint64_t>(begin);
  std::vector<double> base;
  if (flow.dtype() == at::kDouble) {
    FillLatents(options, first, rows, size, z.mutable_data_ptr<double>(), base);
  } else {
    FillLatents(options, first, rows, size, z.mutable_data_ptr<float>(), base);
  }
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
    const int64_t step = RowsPerPass(flow, slice_rows);
    for (int64_t begin = 0; begin < options.rows; begin += step) {
      DrawSlice(flow, options, begin, std::min(step, options.rows - begin), result);
    }
    return result;
  });
}

}  // namespace bflow
