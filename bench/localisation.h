// How well the attribution points at a corruption: per corruption, the AUROC of its entries
// (segments of 32 time steps, channel by channel) that hold a changed sample against those of the
// same windows that hold none.
#ifndef BFLOW_BENCH_LOCALISATION_H_
#define BFLOW_BENCH_LOCALISATION_H_

#include <cstdint>
#include <vector>

namespace bflow {

// P(positive > negative) + P(positive = negative) / 2, by ranks.
double Auroc(std::vector<double> negative, std::vector<double> positive);

// What a corruption changes: single samples, or a stretch of one channel or of all. Every sample of
// a stretch counts as changed, also where a flat line happens to meet the signal.
enum class Extent { kSamples, kChannelStretch, kStretch };

// Which entries hold a changed sample: `corrupted` against `normal`, windows [T, C] one after the
// other.
std::vector<bool> ChangedEntries(const std::vector<float>& normal,
                                 const std::vector<float>& corrupted, int64_t time_steps,
                                 int64_t channels, Extent extent);

}  // namespace bflow

#endif  // BFLOW_BENCH_LOCALISATION_H_
