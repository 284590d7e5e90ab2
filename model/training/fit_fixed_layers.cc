#include "model/training/fit_fixed_layers.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/philox.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/training/fit_whitening.h"

namespace bflow {
namespace {

constexpr double kMostStretches = 200000;
// Numbers of the noise; far from those of training (from 0) and evaluation (from 2^62).
constexpr uint64_t kNoiseRow = uint64_t{1} << 61;

// Random stretches of order + 1 steps in converter steps with their noise.
std::vector<double> DrawStretches(const FlowSpec& spec, const TrainingData& data, int64_t order,
                                  uint64_t seed) {
  const double frames = data.training_hours() * 3600 * data.frames_per_second();
  const int64_t count = static_cast<int64_t>(std::min(kMostStretches, frames));
  const size_t channels = spec.channels.size();
  const int64_t width = (order + 1) * static_cast<int64_t>(channels);
  std::vector<float> codes(static_cast<size_t>(width)), noise(static_cast<size_t>(width), 0.0f);
  std::vector<double> stretches;
  stretches.reserve(static_cast<size_t>(count * width));
  std::mt19937_64 generator(seed);
  for (int64_t i = 0; i < count; ++i) {
    data.DrawTrainingStretch(generator, order + 1, codes.data());
    if (spec.quantised()) {
      FillUniform(seed, kNoiseRow + static_cast<uint64_t>(i), 0, width, noise.data());
    }
    for (size_t d = 0; d < codes.size(); ++d) {
      stretches.push_back(codes[d] / spec.channels[d % channels].step + noise[d]);
    }
  }
  return stretches;
}

}  // namespace

absl::Status FitFixedLayers(Flow& flow, const TrainingData& data, uint64_t seed) {
  const FlowSpec& spec = flow.spec();
  const std::optional<size_t> index = WhiteningIndex(spec);
  if (!index) return absl::OkStatus();
  const int64_t order = std::get<WhiteningSpec>(spec.pre[*index]).order;
  BFLOW_ASSIGN_OR_RETURN(WhiteningFit fit, FitWhitening(DrawStretches(spec, data, order, seed),
                                                        spec.channel_count(), order));
  // x = slope (v / step + u) + offset
  std::vector<double> slope, offset;
  for (const ChannelSpec& channel : spec.channels) {
    slope.push_back(2 * channel.step / (channel.hi - channel.lo));
    offset.push_back(-2 * channel.lo / (channel.hi - channel.lo) - 1);
  }
  fit = Rescaled(fit, slope, offset);
  const std::map<std::string, const std::vector<double>*> values = {
      {"lags", &fit.lags},
      {"instantaneous", &fit.instantaneous},
      {"bias", &fit.bias},
      {"log_scale", &fit.log_scale},
      {"head_weight", &fit.head_weight},
      {"head_bias", &fit.head_bias},
      {"head_log_scale", &fit.head_log_scale}};
  const std::string prefix = absl::StrCat("pre.", *index, ".");
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : flow.NamedTensors()) {
    if (!absl::StartsWith(name, prefix)) continue;
    const auto value = values.find(name.substr(prefix.size()));
    if (value == values.end()) continue;
    at::Tensor wide = tensor.to(at::kDouble).contiguous();
    std::copy(value->second->begin(), value->second->end(), wide.mutable_data_ptr<double>());
    tensor.copy_(wide);
  }
  return absl::OkStatus();
}

}  // namespace bflow
