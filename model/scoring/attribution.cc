#include "model/scoring/attribution.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "model/scoring/anomaly.h"

namespace bflow {
namespace {

constexpr double kGradientSpreadFloor = 0.1;

int64_t Segments(int64_t time_steps) {
  return (time_steps + kAttributionStride - 1) / kAttributionStride;
}

// Median of x[t - 15 .. t + 15] within the window; the mean of the middle two of an even number.
double RunningMedian(const float* x, int64_t t, int64_t time_steps, int64_t channels) {
  std::array<float, kMedianWindow> near{};
  const int64_t begin = std::max<int64_t>(t - kMedianWindow / 2, 0);
  const int64_t end = std::min(t + kMedianWindow / 2 + 1, time_steps);
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) near[static_cast<size_t>(count++)] = x[i * channels];
  const auto middle = near.begin() + count / 2;
  std::nth_element(near.begin(), middle, near.begin() + count);
  if (count % 2 == 1) return *middle;
  return (static_cast<double>(*middle) + *std::max_element(near.begin(), middle)) / 2;
}

// Largest length of the runs of zero differences that touch each segment, of one channel.
void FlatRuns(const float* codes, int64_t time_steps, int64_t channels, double* out) {
  int64_t begin = 0;
  for (int64_t t = 1; t <= time_steps; ++t) {
    if (t < time_steps && codes[t * channels] == codes[(t - 1) * channels]) continue;
    const double run = static_cast<double>(t - 1 - begin);
    const int64_t last = (t - 1) / kAttributionStride;
    for (int64_t s = begin / kAttributionStride; s <= last; ++s) {
      out[s * channels] = std::max(out[s * channels], run);
    }
    begin = t;
  }
}

}  // namespace

int64_t AttributionEntries(int64_t time_steps, int64_t channels) {
  return Segments(time_steps) * channels;
}

void ComputeCauses(const float* codes, const float* x, const float* gradient, int64_t time_steps,
                   int64_t channels, double* out) {
  const int64_t entries = AttributionEntries(time_steps, channels);
  double* const by_gradient = out;
  double* const by_run = out + entries;
  double* const by_jump = out + 2 * entries;
  std::fill_n(out, 3 * entries, 0.0);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < time_steps; ++t) {
      const int64_t entry = t / kAttributionStride * channels + c;
      const double part =
          std::abs(gradient[t * channels + c] *
                   (x[t * channels + c] - RunningMedian(x + c, t, time_steps, channels)));
      if (std::isfinite(part)) by_gradient[entry] += part;
      if (t == 0) continue;
      const double jump =
          std::abs(static_cast<double>(codes[t * channels + c]) - codes[(t - 1) * channels + c]);
      by_jump[entry] = std::max(by_jump[entry], jump);
    }
    FlatRuns(codes + c, time_steps, channels, by_run + c);
  }
  for (int64_t i = 0; i < entries; ++i) by_gradient[i] = std::log1p(by_gradient[i]);
}

absl::StatusOr<AttributionTables> FitAttribution(std::span<const double> causes, int64_t time_steps,
                                                 std::span<const double> channel_steps) {
  const size_t channels = channel_steps.size();
  const size_t entries =
      static_cast<size_t>(AttributionEntries(time_steps, static_cast<int64_t>(channels)));
  const size_t per_window = kAttributionCauses * entries;
  if (entries == 0 || causes.empty() || causes.size() % per_window != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("causes: ", causes.size(), " values, expected windows of ", per_window));
  }
  AttributionTables tables;
  tables.stride = kAttributionStride;
  for (size_t cause = 0; cause < kAttributionCauses; ++cause) {
    for (size_t c = 0; c < channels; ++c) {
      std::vector<double> values;
      for (size_t window = 0; window < causes.size(); window += per_window) {
        for (size_t i = c; i < entries; i += channels) {
          values.push_back(causes[window + cause * entries + i]);
        }
      }
      std::sort(values.begin(), values.end());
      const double floor = cause == 0 ? kGradientSpreadFloor : cause == 1 ? 1.0 : channel_steps[c];
      tables.median[cause].push_back(SortedQuantile(values, 0.5));
      tables.spread[cause].push_back(
          std::max((SortedQuantile(values, 0.84) - SortedQuantile(values, 0.16)) / 2, floor));
    }
  }
  return tables;
}

void Attribute(const AttributionTables& tables, std::span<const double> causes, float* attribution,
               AttributionCause* cause) {
  const size_t channels = tables.median[0].size();
  const size_t entries = causes.size() / kAttributionCauses;
  for (size_t i = 0; i < entries; ++i) {
    double largest = 0;
    cause[i] = AttributionCause::kGradient;
    for (size_t k = 0; k < kAttributionCauses; ++k) {
      const size_t c = i % channels;
      const double z = (causes[k * entries + i] - tables.median[k][c]) / tables.spread[k][c];
      if (!(z > largest)) continue;
      largest = z;
      cause[i] = static_cast<AttributionCause>(k + 1);
    }
    attribution[i] = static_cast<float>(largest);
  }
}

}  // namespace bflow
