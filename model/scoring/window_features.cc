#include "model/scoring/window_features.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/status.h"
#include "c10/core/InferenceMode.h"
#include "model/data/scaling.h"
#include "model/flow/flow.h"
#include "model/scoring/attribution.h"
#include "model/scoring/torch_guard.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// What a flow makes of a slice of rows, in float64 and as plain arrays. Sums over a row are taken
// here in one fixed order, because a library reduction may split them differently for another
// number of rows.
class EncodedSlice {
 public:
  EncodedSlice(const Flow& flow, const Encoded& encoded)
      : event_size_(flow.spec().event_size()), log_det_(ToDouble(encoded.log_det)) {
    for (size_t level = 0; level < encoded.level_latents.size(); ++level) {
      const at::Tensor& latents = encoded.level_latents[level];
      levels_.push_back(ToDouble(latents.flatten(1)));
      densities_.push_back(ToDouble(flow.base().LogDensity(level, latents).flatten(1)));
    }
    for (const at::Tensor& log_det : encoded.coupling_log_dets) {
      couplings_.push_back(ToDouble(log_det));
    }
    if (encoded.residuals.defined()) residuals_ = ToDouble(encoded.residuals);
  }

  // Sum of z^2 over the latents of a level.
  double SquaredNorm(size_t level, int64_t row) const {
    double sum = 0;
    for (double z : Row(levels_[level], row)) sum += z * z;
    return sum;
  }

  // Base density of the latents + log_det.
  double LogProb(int64_t row) const {
    double sum = 0;
    for (const at::Tensor& densities : densities_) {
      for (double density : Row(densities, row)) sum += density;
    }
    return sum + log_det_.const_data_ptr<double>()[row];
  }

  // The features of the flow: per level, then per coupling. Returns the place after the last.
  double* FlowFeatures(int64_t row, double* out) const {
    for (size_t level = 0; level < levels_.size(); ++level) {
      const double size = static_cast<double>(std::max<int64_t>(levels_[level].size(1), 1));
      *out++ = LatentNormFeature(SquaredNorm(level, row) / size);
    }
    for (const at::Tensor& log_det : couplings_) {
      *out++ = log_det.const_data_ptr<double>()[row] / static_cast<double>(event_size_);
    }
    return out;
  }

  // The energy of the residuals of each channel.
  void ResidualFeatures(int64_t row, double* out) const {
    if (!residuals_.defined()) return;
    const int64_t steps = residuals_.size(1), channels = residuals_.size(2);
    const double* e = residuals_.const_data_ptr<double>() + row * steps * channels;
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t t = 0; t < steps; ++t) {
        const double value = e[t * channels + c];
        sum += std::log1p(value * value);
      }
      out[c] = WhitenedEnergyFeature(sum / static_cast<double>(steps));
    }
  }

 private:
  static at::Tensor ToDouble(const at::Tensor& t) {
    return t.detach().to(at::kCPU, at::kDouble).contiguous();
  }

  static std::span<const double> Row(const at::Tensor& t, int64_t row) {
    return {t.const_data_ptr<double>() + row * t.size(1), static_cast<size_t>(t.size(1))};
  }

  int64_t event_size_;
  at::Tensor log_det_, residuals_;
  std::vector<at::Tensor> levels_, densities_, couplings_;
};

CodeNoise ToCodeNoise(NoiseKind kind) {
  switch (kind) {
    case NoiseKind::kUniform:
      return CodeNoise::kUniform;
    case NoiseKind::kCenter:
      return CodeNoise::kCenter;
    case NoiseKind::kNone:
      break;
  }
  return CodeNoise::kNone;
}

absl::Status CheckPass(const FlowSpec& spec, const HostBatch& x, const Noise& noise,
                       const PassOptions& options) {
  std::optional<int64_t> values = CheckedMultiply(x.rows, spec.event_size());
  if (x.rows < 0 || !values || static_cast<size_t>(*values) != x.values.size()) {
    return absl::InvalidArgumentError(absl::StrCat("x: ", x.values.size(), " values for ", x.rows,
                                                   " rows of ", spec.event_size()));
  }
  if (!spec.quantised() && noise.kind != NoiseKind::kNone) {
    return absl::InvalidArgumentError("noise: a continuous model takes none");
  }
  if (options.want_causes && spec.is_image()) {
    return absl::InvalidArgumentError("attribution: is of waveforms only");
  }
  if (options.slice_rows < 1) return absl::InvalidArgumentError("slice_rows: must be at least 1");
  return absl::OkStatus();
}

// One pass over all slices; the members are what every step needs.
class Pass {
 public:
  Pass(Flow& flow, const HostBatch& x, const Noise& noise, uint32_t draw,
       const PassOptions& options)
      : flow_(flow), x_(x), noise_(noise), draw_(draw), options_(options) {
    const size_t rows = static_cast<size_t>(x.rows);
    result_.log_prob.assign(rows, kMinusInfinity);
    result_.status.assign(rows, RowStatus::kOk);
    if (options.want_latent) result_.latent.assign(x.values.size(), 0.0f);
    if (options.want_causes) {
      causes_per_row_ =
          kAttributionCauses * static_cast<size_t>(AttributionEntries(flow.spec().time_steps(),
                                                                      flow.spec().channel_count()));
      result_.causes.assign(rows * causes_per_row_, 0.0);
    }
    if (options.want_features) {
      feature_count_ = FeatureNames(flow.spec()).size();
      result_.features.assign(rows * feature_count_, 0.0);
    }
  }

  PassResult Run() {
    const int64_t step = RowsPerPass(flow_, options_.slice_rows);
    for (int64_t begin = 0; begin < x_.rows; begin += step) {
      RunSlice(begin, std::min(step, x_.rows - begin));
    }
    return std::move(result_);
  }

 private:
  const float* InputRow(int64_t row) const { return x_.values.data() + row * Size(); }
  int64_t Size() const { return flow_.spec().event_size(); }

  // What the flow sees: scale(v + step u) for a quantised spec, else the rows themselves. Rounded
  // to float32 whatever the dtype of the flow, so that all see the same point; in float64 where a
  // layer would see the rounding.
  at::Tensor SliceInput(int64_t begin, int64_t rows) {
    if (NeedsDoubleInput(flow_.spec())) return FilledInput<double>(begin, rows).to(flow_.device());
    return FilledInput<float>(begin, rows).to(flow_.device(), flow_.dtype());
  }

  template <typename T>
  at::Tensor FilledInput(int64_t begin, int64_t rows) {
    const FlowSpec& spec = flow_.spec();
    at::Tensor input =
        at::empty(Batched(rows, spec.event_shape), c10::CppTypeToScalarType<T>::value);
    T* out = input.mutable_data_ptr<T>();
    const size_t size = static_cast<size_t>(Size());
    for (int64_t i = begin; i < begin + rows; ++i, out += size) {
      const std::span<const float> row(InputRow(i), size);
      if (!std::all_of(row.begin(), row.end(), [](float v) { return std::isfinite(v); })) {
        result_.status[static_cast<size_t>(i)] = RowStatus::kNonFiniteInput;
        std::fill_n(out, size, T{0});  // keeps its place; the result is dropped
      } else if (spec.quantised()) {
        ScaleEvent(spec, row, ToCodeNoise(noise_.kind), noise_.seed,
                   noise_.row_offset + static_cast<uint64_t>(i), draw_, std::span<T>(out, size));
      } else {
        std::copy(row.begin(), row.end(), out);
      }
    }
    return input;
  }

  void RunSlice(int64_t begin, int64_t rows) {
    at::Tensor input = SliceInput(begin, rows);
    if (options_.want_causes) input.requires_grad_(true);
    Encoded encoded = flow_.Encode(input);
    EncodedSlice slice(flow_, encoded);
    at::Tensor latent;
    if (options_.want_latent)
      latent = encoded.latent.detach().to(at::kCPU, at::kFloat).contiguous();
    for (int64_t i = 0; i < rows; ++i) {
      StoreRow(begin + i, i, slice,
               latent.defined() ? latent.const_data_ptr<float>() + i * Size() : nullptr);
    }
    if (options_.want_causes) StoreCauses(begin, input, encoded);
  }

  void StoreCauses(int64_t begin, const at::Tensor& input, const Encoded& encoded) {
    const at::Tensor log_prob = flow_.LogProb(encoded);
    const at::Tensor gradient =
        torch::autograd::grad({log_prob.sum()}, {input})[0].to(at::kCPU, at::kFloat).contiguous();
    const at::Tensor x = input.detach().to(at::kCPU, at::kFloat).contiguous();
    for (int64_t i = 0; i < x.size(0); ++i) {
      if (result_.status[static_cast<size_t>(begin + i)] != RowStatus::kOk) continue;
      ComputeCauses(InputRow(begin + i), x.const_data_ptr<float>() + i * Size(),
                    gradient.const_data_ptr<float>() + i * Size(), flow_.spec().time_steps(),
                    flow_.spec().channel_count(),
                    result_.causes.data() + static_cast<size_t>(begin + i) * causes_per_row_);
    }
  }

  void StoreRow(int64_t row, int64_t in_slice, const EncodedSlice& slice, const float* latent) {
    const size_t index = static_cast<size_t>(row);
    if (result_.status[index] != RowStatus::kOk) return;
    const double log_prob = slice.LogProb(in_slice);
    bool finite = std::isfinite(log_prob);
    double* features = nullptr;
    if (options_.want_features) {
      features = result_.features.data() + index * feature_count_;
      double* next = slice.FlowFeatures(in_slice, features);
      if (flow_.spec().quantised() && !flow_.spec().is_image()) {
        SignalQualityFeatures(InputRow(row), flow_.spec().time_steps(),
                              flow_.spec().channel_count(), next);
        next += 3 * flow_.spec().channel_count();
      }
      slice.ResidualFeatures(in_slice, next);
      finite = finite && std::all_of(features, features + feature_count_,
                                     [](double v) { return std::isfinite(v); });
    }
    if (!finite) {
      result_.status[index] = RowStatus::kNonFiniteScore;
      if (features != nullptr) std::fill_n(features, feature_count_, 0.0);
      return;
    }
    result_.log_prob[index] = log_prob;
    if (latent != nullptr) std::copy_n(latent, Size(), result_.latent.data() + row * Size());
  }

  Flow& flow_;
  const HostBatch& x_;
  const Noise& noise_;
  const uint32_t draw_;
  const PassOptions& options_;
  size_t feature_count_ = 0, causes_per_row_ = 0;
  PassResult result_;
};

}  // namespace

int64_t RowsPerPass(const Flow& flow, int64_t slice_rows) {
  return flow.spec().is_image() && flow.device().is_cpu() ? 1 : slice_rows;
}

absl::StatusOr<PassResult> RunPass(Flow& flow, const HostBatch& x, const Noise& noise,
                                   uint32_t draw, const PassOptions& options) {
  BFLOW_RETURN_IF_ERROR(CheckPass(flow.spec(), x, noise, options));
  return GuardTorchOr("pass through the flow", [&]() -> absl::StatusOr<PassResult> {
    c10::InferenceMode inference(!options.want_causes);
    return Pass(flow, x, noise, draw, options).Run();
  });
}

absl::StatusOr<WindowFeatures> ComputeFeatures(Flow& flow, const HostBatch& x, const Noise& noise,
                                               int64_t slice_rows) {
  PassOptions options;
  options.want_features = true;
  options.slice_rows = slice_rows;
  BFLOW_ASSIGN_OR_RETURN(PassResult pass, RunPass(flow, x, noise, 0, options));
  WindowFeatures features;
  features.definition = ScoreDefinition(flow.spec());
  features.names = FeatureNames(flow.spec());
  features.rows = x.rows;
  features.values = std::move(pass.features);
  features.log_prob = std::move(pass.log_prob);
  features.status = std::move(pass.status);
  return features;
}

}  // namespace bflow
