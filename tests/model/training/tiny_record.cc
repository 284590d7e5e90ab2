#include "tests/model/training/tiny_record.h"

#include <cmath>
#include <fstream>
#include <random>
#include <utility>

namespace bflow {

WaveformRecord TinyRecord(int64_t frames) {
  std::mt19937_64 generator(5);
  std::normal_distribution<double> noise(0, 6);
  WaveformSegment segment;
  segment.name = "tiny";
  segment.frames = frames;
  for (const char* name : {"A", "B"}) {
    WaveformSignal& signal = segment.signals.emplace_back();
    signal.name = name;
    signal.unit = "mV";
    signal.gain = 200;
    signal.input_min = -2048;
    signal.input_max = 2047;
  }
  for (int64_t t = 0; t < frames; ++t) {
    const double time = static_cast<double>(t);
    const double a = 300 * std::sin(0.21 * time) + noise(generator);
    const double b = 200 * std::cos(0.13 * time) + noise(generator);
    segment.signals[0].codes.push_back(static_cast<float>(std::lround(a)));
    segment.signals[1].codes.push_back(static_cast<float>(std::lround(b)));
  }
  WaveformRecord record;
  record.name = "tiny";
  record.frames_per_second = 125;
  record.frames = frames;
  record.segments.push_back(std::move(segment));
  return record;
}

void WriteTinyRecord(const std::string& folder, int64_t frames) {
  const WaveformRecord record = TinyRecord(frames);
  const auto& signals = record.segments.front().signals;
  std::string bytes;
  int16_t sum[2] = {0, 0};
  for (size_t t = 0; t < static_cast<size_t>(frames); ++t) {
    for (size_t c = 0; c < 2; ++c) {
      const int16_t code = static_cast<int16_t>(signals[c].codes[t]);
      sum[c] = static_cast<int16_t>(sum[c] + code);
      bytes.push_back(static_cast<char>(code & 0xff));
      bytes.push_back(static_cast<char>((code >> 8) & 0xff));
    }
  }
  std::ofstream(folder + "/tiny.dat", std::ios::binary) << bytes;
  std::ofstream header(folder + "/tiny.hea");
  header << "tiny 2 125 " << frames << "\n";
  for (size_t c = 0; c < 2; ++c) {
    header << "tiny.dat 16 200/mV 12 0 " << signals[c].codes[0] << " " << sum[c] << " 0 "
           << signals[c].name << "\n";
  }
}

}  // namespace bflow
