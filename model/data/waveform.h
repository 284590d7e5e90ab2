// A waveform record in memory, whatever file it came from: converter codes per segment and signal.
#ifndef BFLOW_MODEL_DATA_WAVEFORM_H_
#define BFLOW_MODEL_DATA_WAVEFORM_H_

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace bflow {

// One signal of a segment. Codes are integers; of several samples per frame the mean is taken,
// without its fraction.
struct WaveformSignal {
  std::string name;
  std::string unit;
  double gain = 200;    // codes per unit
  double baseline = 0;  // code of 0
  int resolution_bits = 12;
  int64_t adc_zero = 0;
  double input_min = 0;      // adc_zero - 2^(bits-1), the invalid code excluded
  double input_max = 0;      // adc_zero + 2^(bits-1) - 1
  std::vector<float> codes;  // one per frame; NaN where the file marks the sample as invalid
};

// Whether two gains, two baselines are the same scaling: headers print gains with about 6 digits.
inline bool SameGain(double a, double b) { return std::abs(a - b) <= 1e-6 * std::abs(b); }
inline bool SameBaseline(double a, double b) { return std::abs(a - b) <= 1e-6; }

// A run of frames of a record in which signals and gains do not change.
struct WaveformSegment {
  std::string name;
  int64_t start_frame = 0;  // in the record
  int64_t frames = 0;
  std::vector<WaveformSignal> signals;

  const WaveformSignal* Find(const std::string& signal) const {
    for (const WaveformSignal& s : signals) {
      if (s.name == signal) return &s;
    }
    return nullptr;
  }
};

struct WaveformRecord {
  std::string name;
  double frames_per_second = 250;
  std::optional<std::string>
      start_time;  // "HH:MM:SS.mmm", with the date in front ("YYYY-MM-DD ") if known
  int64_t frames = 0;
  std::vector<WaveformSegment> segments;  // gaps are absent; ascending start_frame
};

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WAVEFORM_H_
