// Realistic corruptions of ECG and pressure windows, to measure an anomaly score: sensor faults,
// wiring faults, noise, wrong gain or rate. Every function takes and gives converter codes,
// time-major [T, C].
#ifndef BFLOW_BENCH_CORRUPTIONS_H_
#define BFLOW_BENCH_CORRUPTIONS_H_

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace bflow {

// What a corruption needs to know of a channel: codes of the training part and the converter's
// range.
struct ChannelStatistics {
  double median = 0;
  double amplitude = 4;  // p99 - p1, at least 4
  double rail_low = 0, rail_high = 0;
};

struct CorruptionInput {
  const float* window;  // [T, C]
  const float* next;    // the window after it
  int64_t time_steps;
  std::vector<ChannelStatistics> channels;
  double sampling_rate_hz;
};

struct Corruption {
  std::string name;
  bool needs_next = false;
  // Not yet rounded and clipped.
  std::function<std::vector<double>(const CorruptionInput&, std::mt19937_64&)> apply;
};

// In the order in which one generator serves them.
std::vector<Corruption> AllCorruptions();

// Rounded to codes and clipped to each channel's rails.
std::vector<float> ToCodes(const std::vector<double>& values,
                           const std::vector<ChannelStatistics>& channels);

}  // namespace bflow

#endif  // BFLOW_BENCH_CORRUPTIONS_H_
