// A WFDB header file as data, before any signal file is opened: header(5).
#ifndef BFLOW_MODEL_DATA_WFDB_HEADER_H_
#define BFLOW_MODEL_DATA_WFDB_HEADER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace bflow {

inline constexpr int64_t kWfdbMaxSignals = 256;
inline constexpr int64_t kWfdbMaxSegments = 100'000;

struct WfdbSignalLine {
  int line = 0;  // 1-based, in the header file
  std::string file;
  int format = 0;
  int64_t samples_per_frame = 1;
  int64_t skew = 0;                    // frames by which the signal lags in the file
  std::optional<int64_t> byte_offset;  // of the first sample of the file
  double gain = 200;
  double baseline = 0;
  std::string unit = "mV";
  int resolution_bits = 12;
  int64_t adc_zero = 0;
  std::optional<int64_t> initial_value;
  std::optional<int64_t> checksum;
  std::string name;
};

struct WfdbSegmentLine {
  int line = 0;
  std::string name;  // "~": a gap
  int64_t frames = 0;
};

struct WfdbHeader {
  std::string file_name;  // "100.hea", for messages
  int record_line = 1;
  int64_t signal_count = 0;
  double frames_per_second = 250;
  std::optional<int64_t> frames;          // absent or 0 in the file: unknown
  std::optional<std::string> start_time;  // as in WaveformRecord
  std::vector<WfdbSignalLine> signals;    // of a single-segment record
  std::vector<WfdbSegmentLine> segments;  // of a multi-segment record
  bool multi_segment = false;
};

// "FILE line N: ".
std::string WfdbPlace(const WfdbHeader& header, int line);

// Errors: InvalidArgument naming file and line; ResourceExhausted (too many signals or segments).
absl::StatusOr<WfdbHeader> ParseWfdbHeader(const std::string& file_name, std::string_view text);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WFDB_HEADER_H_
