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
                                 int64_t channels, bool whole_stretch) {
  const int64_t entries = AttributionEntries(time_steps, channels);
  const int64_t windows = static_cast<int64_t>(normal.size()) / (time_steps * channels);
  std::vector<bool> changed(static_cast<size_t>(windows * entries), false);
  for (int64_t w = 0; w < windows; ++w) {
    for (int64_t c = 0; c < channels; ++c) {
      const auto differs = [&](int64_t t) {
        const size_t i = static_cast<size_t>((w * time_steps + t) * channels + c);
        return normal[i] != corrupted[i];
      };
      int64_t first = 0, last = time_steps - 1;
      while (first < time_steps && !differs(first)) ++first;
      while (last > first && !differs(last)) --last;
      for (int64_t t = first; t <= last && t < time_steps; ++t) {
        if (!whole_stretch && !differs(t)) continue;
        changed[static_cast<size_t>(w * entries + t / kAttributionStride * channels + c)] = true;
      }
    }
  }
  return changed;
}

}  // namespace bflow
