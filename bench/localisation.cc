#include "bench/localisation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/scoring/attribution.h"

namespace bflow {

double Auroc(std::vector<double> negative, std::vector<double> positive) {
  std::sort(negative.begin(), negative.end());
  double wins = 0;
  for (double p : positive) {
    const auto below = std::lower_bound(negative.begin(), negative.end(), p);
    const auto up_to = std::upper_bound(below, negative.end(), p);
    wins +=
        static_cast<double>(below - negative.begin()) + 0.5 * static_cast<double>(up_to - below);
  }
  return wins / static_cast<double>(negative.size()) / static_cast<double>(positive.size());
}

std::vector<bool> ChangedEntries(const std::vector<float>& normal,
                                 const std::vector<float>& corrupted, int64_t time_steps,
                                 int64_t channels, Extent extent) {
  const int64_t entries = AttributionEntries(time_steps, channels);
  const int64_t windows = static_cast<int64_t>(normal.size()) / (time_steps * channels);
  std::vector<bool> changed(static_cast<size_t>(windows * entries), false);
  for (int64_t w = 0; w < windows; ++w) {
    const auto differs = [&](int64_t t, int64_t c) {
      const size_t i = static_cast<size_t>((w * time_steps + t) * channels + c);
      return normal[i] != corrupted[i];
    };
    const auto mark = [&](int64_t t, int64_t c) {
      changed[static_cast<size_t>(w * entries + t / kAttributionStride * channels + c)] = true;
    };
    int64_t first_of_all = time_steps, last_of_all = -1;
    for (int64_t c = 0; c < channels; ++c) {
      int64_t first = time_steps, last = -1;
      for (int64_t t = 0; t < time_steps; ++t) {
        if (!differs(t, c)) continue;
        mark(t, c);
        first = std::min(first, t);
        last = t;
      }
      if (extent == Extent::kChannelStretch) {
        for (int64_t t = first; t <= last; ++t) mark(t, c);
      }
      first_of_all = std::min(first_of_all, first);
      last_of_all = std::max(last_of_all, last);
    }
    if (extent != Extent::kStretch) continue;
    for (int64_t t = first_of_all; t <= last_of_all; ++t) {
      for (int64_t c = 0; c < channels; ++c) mark(t, c);
    }
  }
  return changed;
}

}  // namespace bflow
