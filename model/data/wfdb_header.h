// The text of a WFDB header file (header(5)), parsed and checked; no signal file is touched.
#ifndef BFLOW_MODEL_DATA_WFDB_HEADER_H_
#define BFLOW_MODEL_DATA_WFDB_HEADER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace bflow {

struct WfdbSignalLine {
  int line = 0;      // in the header file, from 1
  std::string file;  // "~": a layout segment
  int format = 0;
  int samples_per_frame = 1;
  int64_t skew = 0;  // frames
  int64_t byte_offset = 0;
  double gain = 200;    // codes per unit
  double baseline = 0;  // code of 0
  std::string unit = "mV";
  int resolution_bits = 0;  // 0: the header does not say
  int64_t adc_zero = 0;
  std::optional<int64_t> checksum;
  std::string name;
};

struct WfdbSegmentLine {
  int line = 0;
  std::string name;  // "~": a gap
  int64_t frames = 0;
};

struct WfdbHeader {
  std::string name;
  double frames_per_second = 250;
  std::optional<int64_t> frames;
  std::optional<std::string> start_time;  // as WaveformRecord::start_time
  std::vector<WfdbSignalLine> signals;    // single-segment
  std::vector<WfdbSegmentLine> segments;  // multi-segment
  bool is_multi_segment = false;
};

// `file` is the header's name for error texts. Errors: InvalidArgument "FILE line N: ...".
absl::StatusOr<WfdbHeader> ParseWfdbHeader(std::string_view text, const std::string& file);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WFDB_HEADER_H_
