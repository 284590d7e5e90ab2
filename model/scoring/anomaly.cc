#include "model/scoring/anomaly.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace bflow {
namespace {

constexpr double kLatentFloor = 1e-6;
constexpr double kStepFloor = 0.02;
constexpr double kEnergyFloor = 1e-6;

// Visits level, name of the block ("block0", "prior"), coupling in the block.
template <typename Visit>
void ForEachCoupling(const FlowSpec& spec, Visit visit) {
  for (size_t level = 0; level < spec.levels.size(); ++level) {
    const std::vector<NamedBlock> blocks = BlocksOf(spec.levels[level]);
    for (size_t j = 0; j < blocks.size(); ++j) {
      const bool prior = j >= spec.levels[level].blocks.size();
      int in_block = 0;
      for (const LayerSpec& layer : *blocks[j].layers) {
        if (!IsCoupling(layer)) continue;
        visit(level, prior ? blocks[j].name : absl::StrCat("block", j), in_block++);
      }
    }
  }
}

bool AllFinite(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

absl::Status WrongSize(const char* field, size_t got, size_t expected) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", got, " values, expected ", expected));
}

}  // namespace

std::vector<std::string> FeatureNames(const FlowSpec& spec) {
  std::vector<std::string> names;
  for (size_t level = 0; level < spec.levels.size(); ++level) {
    names.push_back(absl::StrCat("latent_norm/level", level));
  }
  ForEachCoupling(spec, [&](size_t level, const std::string& block, int in_block) {
    std::string name = absl::StrCat("coupling_log_det/level", level, "/", block);
    if (in_block > 0) absl::StrAppend(&name, "/", in_block);
    names.push_back(std::move(name));
  });
  if (spec.quantised() && !spec.is_image()) {
    for (const ChannelSpec& channel : spec.channels) {
      for (const char* kind : {"step/", "flat_run/", "range/"}) {
        names.push_back(absl::StrCat(kind, channel.name));
      }
    }
  }
  if (ResidualIndex(spec)) {
    for (const ChannelSpec& channel : spec.channels) {
      names.push_back(absl::StrCat("whitened_energy/", channel.name));
    }
  }
  return names;
}

int64_t CouplingCount(const FlowSpec& spec) {
  int64_t count = 0;
  ForEachCoupling(spec, [&](size_t, const std::string&, int) { ++count; });
  return count;
}

double LatentNormFeature(double mean_square) { return std::log(mean_square + kLatentFloor); }

double WhitenedEnergyFeature(double mean_log) { return std::log(mean_log + kEnergyFloor); }

void SignalQualityFeatures(const float* codes, int64_t time_steps, int64_t channels, double* out) {
  for (int64_t c = 0; c < channels; ++c) {
    double previous = codes[c], low = previous, high = previous, total_step = 0;
    int64_t run = 0, longest_run = 0;
    for (int64_t t = 1; t < time_steps; ++t) {
      double v = codes[t * channels + c];
      total_step += std::abs(v - previous);
      run = v == previous ? run + 1 : 0;
      longest_run = std::max(longest_run, run);
      low = std::min(low, v);
      high = std::max(high, v);
      previous = v;
    }
    double steps = static_cast<double>(std::max<int64_t>(time_steps - 1, 1));
    out[3 * c] = std::log(total_step / steps + kStepFloor);
    out[3 * c + 1] = std::log(1.0 + static_cast<double>(longest_run));
    out[3 * c + 2] = std::log(1.0 + (high - low));
  }
}

double SortedQuantile(std::span<const double> ascending, double q) {
  double position = q * static_cast<double>(ascending.size() - 1);
  size_t below = std::min(static_cast<size_t>(position), ascending.size() - 1);
  size_t above = std::min(below + 1, ascending.size() - 1);
  double fraction = position - static_cast<double>(below);
  return ascending[below] + fraction * (ascending[above] - ascending[below]);
}

absl::StatusOr<AnomalyModel> AnomalyModel::Create(Calibration calibration,
                                                  const std::vector<std::string>& names) {
  const size_t features = names.size();
  if (calibration.feature_names != names) {
    return absl::InvalidArgumentError(
        absl::StrCat("calibration.feature_names: ", calibration.feature_names.size(),
                     " names that are not the ", features, " which the flow implies"));
  }
  if (calibration.centre.size() != features) {
    return WrongSize("calibration.centre", calibration.centre.size(), features);
  }
  if (calibration.scale.size() != features) {
    return WrongSize("calibration.scale", calibration.scale.size(), features);
  }
  if (calibration.mean.size() != features) {
    return WrongSize("calibration.mean", calibration.mean.size(), features);
  }
  if (calibration.inverse_covariance.size() != features) {
    return WrongSize("calibration.inverse_covariance", calibration.inverse_covariance.size(),
                     features);
  }
  for (const std::vector<double>& row : calibration.inverse_covariance) {
    if (row.size() != features) {
      return WrongSize("calibration.inverse_covariance", row.size(), features);
    }
  }
  if (calibration.scores.empty()) return WrongSize("calibration.scores", 0, 1);
  if (calibration.nll.size() != calibration.scores.size()) {
    return WrongSize("calibration.nll", calibration.nll.size(), calibration.scores.size());
  }
  return AnomalyModel(std::move(calibration));
}

AnomalyModel::AnomalyModel(Calibration calibration) : calibration_(std::move(calibration)) {
  nll_low_ = SortedQuantile(calibration_.nll, 0.025);
  nll_high_ = SortedQuantile(calibration_.nll, 0.975);
}

AnomalyScore AnomalyModel::FailSafe() const {
  AnomalyScore result;
  result.score = result.score_ratio = std::numeric_limits<double>::infinity();
  result.p_value = 1.0 / static_cast<double>(calibration_.scores.size() + 1);
  result.nll_rank = 1;
  result.typicality = 2;
  result.finite = false;
  return result;
}

AnomalyScore AnomalyModel::Score(std::span<const double> features, double nll,
                                 double* contributions) const {
  const size_t count = calibration_.feature_names.size();
  std::vector<double> deviation(count), parts(count);
  for (size_t j = 0; j < count; ++j) {
    deviation[j] =
        (features[j] - calibration_.centre[j]) / calibration_.scale[j] - calibration_.mean[j];
  }
  double score = 0;
  for (size_t j = 0; j < count; ++j) {
    double product = 0;
    for (size_t k = 0; k < count; ++k) {
      product += calibration_.inverse_covariance[j][k] * deviation[k];
    }
    parts[j] = deviation[j] * product;
    score += parts[j];
  }
  if (!std::isfinite(score) || !std::isfinite(nll) || !AllFinite(parts)) {
    if (contributions != nullptr) std::fill_n(contributions, count, 0.0);
    return FailSafe();
  }
  if (contributions != nullptr) std::copy(parts.begin(), parts.end(), contributions);

  const std::vector<double>& scores = calibration_.scores;
  const std::vector<double>& nlls = calibration_.nll;
  const double n = static_cast<double>(scores.size());
  AnomalyScore result;
  result.score = score;
  auto at_least = scores.end() - std::lower_bound(scores.begin(), scores.end(), score);
  result.p_value = (1.0 + static_cast<double>(at_least)) / (n + 1.0);
  const double largest = scores.back();
  if (largest > 0) {
    result.score_ratio = score / largest;
  } else {
    result.score_ratio = score > 0 ? std::numeric_limits<double>::infinity() : 0;
  }
  auto at_most = std::upper_bound(nlls.begin(), nlls.end(), nll) - nlls.begin();
  result.nll_rank = static_cast<double>(at_most) / n;
  result.typicality = nll < nll_low_ ? 1 : nll > nll_high_ ? 2 : 0;
  return result;
}

}  // namespace bflow
