#include "model/training/fit_fixed_layers.h"

#include <algorithm>
#include <cmath>
#include <map>
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

// What the layers of `pre` before the one that is fitted make of codes.
class CodeMap {
 public:
  // `ranked`: indices of the grid, after the lattice if there is one; else codes in steps.
  CodeMap(const FlowSpec& spec, const TrainingData& data, bool ranked)
      : channels_(spec.channels), ranked_(ranked) {
    if (ranked && HasLattice(spec)) seen_ = LatticeCodes(data);
  }

  double operator()(float code, size_t c) const {
    const ChannelSpec& channel = channels_[c];
    if (!ranked_) return code / channel.step;
    const int64_t index = GridIndex(channel, code);
    if (seen_.empty()) return static_cast<double>(index);
    const std::vector<int64_t>& seen = seen_[c];
    if (seen.size() == 1) return static_cast<double>(index);
    // Every code of the training part was seen.
    return static_cast<double>(std::lower_bound(seen.begin(), seen.end(), index) - seen.begin() +
                               seen.front());
  }
  // x = slope (value + u) + offset
  std::vector<double> Slopes() const {
    std::vector<double> slopes;
    for (const ChannelSpec& c : channels_) slopes.push_back(2 * c.step / (c.hi - c.lo));
    return slopes;
  }
  std::vector<double> Offsets() const {
    std::vector<double> offsets;
    for (const ChannelSpec& c : channels_) {
      offsets.push_back(ranked_ ? -1 : -2 * c.lo / (c.hi - c.lo) - 1);
    }
    return offsets;
  }

 private:
  const std::vector<ChannelSpec>& channels_;
  bool ranked_;
  std::vector<std::vector<int64_t>> seen_;
};

// Random stretches of order + 1 steps with their noise.
std::vector<double> DrawStretches(const FlowSpec& spec, const CodeMap& map,
                                  const TrainingData& data, int64_t order, uint64_t seed) {
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
      stretches.push_back(map(codes[d], d % channels) + noise[d]);
    }
  }
  return stretches;
}

// Copies into the tensors of the flow whose names begin with `prefix`.
void SetTensors(Flow& flow, const std::string& prefix,
                const std::map<std::string, std::vector<double>>& values) {
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : flow.NamedTensors()) {
    if (!absl::StartsWith(name, prefix)) continue;
    const auto value = values.find(name.substr(prefix.size()));
    if (value == values.end()) continue;
    at::Tensor wide = tensor.to(at::kDouble).contiguous();
    std::copy(value->second.begin(), value->second.end(), wide.mutable_data_ptr<double>());
    tensor.copy_(wide);
  }
}

void SetWhitening(Flow& flow, const std::string& prefix, const WhiteningFit& fit) {
  SetTensors(flow, prefix,
             {{"lags", fit.lags},
              {"instantaneous", fit.instantaneous},
              {"bias", fit.bias},
              {"log_scale", fit.log_scale},
              {"head_weight", fit.head_weight},
              {"head_bias", fit.head_bias},
              {"head_log_scale", fit.head_log_scale}});
}

absl::Status FitLattice(Flow& flow, const TrainingData& data, const std::string& prefix) {
  const std::vector<std::vector<int64_t>> seen = LatticeCodes(data);
  std::map<std::string, std::vector<double>> values;
  for (size_t c = 0; c < seen.size(); ++c) {
    const std::vector<int64_t>& sizes = std::get<LatticeSpec>(flow.spec().pre.front()).sizes;
    if (static_cast<int64_t>(seen[c].size()) != sizes[c]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "lattice: channel ", c, " has ", seen[c].size(), " codes, its spec ", sizes[c]));
    }
    values[absl::StrCat("codes.", c)] = {seen[c].begin(), seen[c].end()};
  }
  SetTensors(flow, prefix, values);
  return absl::OkStatus();
}

absl::Status FitBox(Flow& flow, const TrainingData& data, const BoxSpec& box, uint64_t seed,
                    const std::string& prefix) {
  const FlowSpec& spec = flow.spec();
  const std::vector<double> stretches =
      DrawStretches(spec, CodeMap(spec, data, /*ranked=*/true), data, box.order, seed);
  BFLOW_ASSIGN_OR_RETURN(const WhiteningFit fit, FitWhitening(stretches, spec.channel_count(),
                                                              box.order, Regressors::kCodes));
  SetWhitening(flow, prefix + "whitening.", fit);
  const size_t channels = spec.channels.size();
  const double count = static_cast<double>(stretches.size() / channels);
  std::vector<double> mean(channels, 0.0), log_deviation(channels, 0.0);
  for (size_t i = 0; i < stretches.size(); ++i) {
    mean[i % channels] += (std::floor(stretches[i]) + 0.5) / count;
  }
  for (size_t i = 0; i < stretches.size(); ++i) {
    const double centred = std::floor(stretches[i]) + 0.5 - mean[i % channels];
    log_deviation[i % channels] += centred * centred / count;
  }
  for (double& value : log_deviation) value = std::log(std::max(std::sqrt(value), kMinScale));
  SetTensors(flow, prefix, {{"mean", mean}, {"log_deviation", log_deviation}});
  return absl::OkStatus();
}

absl::Status FitWhiteningLayer(Flow& flow, const TrainingData& data, const WhiteningSpec& whitening,
                               uint64_t seed, const std::string& prefix) {
  const FlowSpec& spec = flow.spec();
  const CodeMap map(spec, data, /*ranked=*/HasLattice(spec));
  BFLOW_ASSIGN_OR_RETURN(const WhiteningFit fit,
                         FitWhitening(DrawStretches(spec, map, data, whitening.order, seed),
                                      spec.channel_count(), whitening.order));
  SetWhitening(flow, prefix, Rescaled(fit, map.Slopes(), map.Offsets()));
  return absl::OkStatus();
}

}  // namespace

std::vector<std::vector<int64_t>> LatticeCodes(const TrainingEvents& data) {
  std::vector<std::vector<int64_t>> codes = data.SeenCodes();
  for (std::vector<int64_t>& seen : codes) {
    if (seen.empty()) continue;
    const int64_t all = seen.back() - seen.front() + 1;
    if (2 * static_cast<int64_t>(seen.size()) > all + 1) seen.erase(seen.begin() + 1, seen.end());
  }
  return codes;
}

absl::Status FitFixedLayers(Flow& flow, const TrainingData& data, uint64_t seed) {
  const std::vector<LayerSpec>& pre = flow.spec().pre;
  for (size_t k = 0; k < pre.size(); ++k) {
    const std::string prefix = absl::StrCat("pre.", k, ".");
    if (std::holds_alternative<LatticeSpec>(pre[k])) {
      BFLOW_RETURN_IF_ERROR(FitLattice(flow, data, prefix));
    } else if (const auto* box = std::get_if<BoxSpec>(&pre[k])) {
      BFLOW_RETURN_IF_ERROR(FitBox(flow, data, *box, seed, prefix));
    } else if (const auto* whitening = std::get_if<WhiteningSpec>(&pre[k])) {
      BFLOW_RETURN_IF_ERROR(FitWhiteningLayer(flow, data, *whitening, seed, prefix));
    }
  }
  return absl::OkStatus();
}

}  // namespace bflow
