// Windows of a record for a chosen list of channels: a grid starts anew at each maximal run of
// frames that are valid in all channels and lie in one segment.
#ifndef BFLOW_MODEL_DATA_WINDOWS_H_
#define BFLOW_MODEL_DATA_WINDOWS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/data/waveform.h"

namespace bflow {

// What the windows' channels must be: matched by name; gain, baseline must fit if `check_scaling`.
struct ChannelRequest {
  std::string name;
  bool check_scaling = false;
  double gain = 1;
  double baseline = 0;
};

// A maximal run of frames valid in all channels inside one segment; the first window starts at its
// start.
struct ValidRun {
  size_t segment = 0;  // index into WaveformRecord::segments
  int64_t begin = 0;   // frame within the segment
  int64_t frames = 0;
};

struct SkippedSegment {
  std::string segment;
  std::string reason;  // "no signal V", "gain of II is 86/mV, the model takes 81/mV"
};

struct ChannelSelection {
  std::vector<std::vector<size_t>>
      signal_index;            // [segment][channel], valid where the segment is used
  std::vector<ValidRun> runs;  // ascending
  std::vector<SkippedSegment> skipped;
};

ChannelSelection SelectChannels(const WaveformRecord& record,
                                const std::vector<ChannelRequest>& channels);

struct Window {
  size_t segment = 0;
  int64_t begin = 0;        // frame within the segment
  int64_t start_frame = 0;  // frame within the record
};

// Windows of `length` frames every `hop` frames in each run.
std::vector<Window> CutWindows(const WaveformRecord& record, const ChannelSelection& selection,
                               int64_t length, int64_t hop);

// Codes of one window, time-major [length, C].
void CopyWindow(const WaveformRecord& record, const ChannelSelection& selection, size_t segment,
                int64_t begin, int64_t length, float* out);

// True if a channel of the time-major window never changes.
std::vector<bool> ConstantChannels(const float* window, int64_t length, int64_t channels);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WINDOWS_H_
