#include "model/data/windows.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace bflow {
namespace {

constexpr size_t kAbsent = static_cast<size_t>(-1);

size_t IndexOf(const WaveformSegment& segment, const std::string& name) {
  for (size_t i = 0; i < segment.signals.size(); ++i) {
    if (segment.signals[i].name == name) return i;
  }
  return kAbsent;
}

bool Fits(double a, double b) { return std::abs(a - b) <= 1e-9 * std::max(1.0, std::abs(b)); }

// Empty if the segment can be used; else why not. Fills the signal of each channel.
std::string Match(const WaveformSegment& segment, const std::vector<ChannelRequest>& channels,
                  std::vector<size_t>& index) {
  for (const ChannelRequest& channel : channels) {
    const size_t i = IndexOf(segment, channel.name);
    if (i == kAbsent) return absl::StrCat("no signal ", channel.name);
    const WaveformSignal& signal = segment.signals[i];
    if (channel.check_scaling && !Fits(signal.gain, channel.gain)) {
      return absl::StrCat("gain of ", channel.name, " is ", signal.gain, "/", signal.unit,
                          ", the model takes ", channel.gain);
    }
    if (channel.check_scaling && !Fits(signal.baseline, channel.baseline)) {
      return absl::StrCat("baseline of ", channel.name, " is ", signal.baseline,
                          ", the model takes ", channel.baseline);
    }
    index.push_back(i);
  }
  return "";
}

void FindRuns(const WaveformSegment& segment, size_t segment_index,
              const std::vector<size_t>& signals, std::vector<ValidRun>& runs) {
  int64_t begin = -1;
  for (int64_t frame = 0; frame <= segment.frames; ++frame) {
    bool valid = frame < segment.frames;
    for (size_t c = 0; valid && c < signals.size(); ++c) {
      valid = !std::isnan(segment.signals[signals[c]].codes[static_cast<size_t>(frame)]);
    }
    if (valid && begin < 0) begin = frame;
    if (!valid && begin >= 0) {
      runs.push_back({segment_index, begin, frame - begin});
      begin = -1;
    }
  }
}

}  // namespace

ChannelSelection SelectChannels(const WaveformRecord& record,
                                const std::vector<ChannelRequest>& channels) {
  ChannelSelection selection;
  selection.signal_index.resize(record.segments.size());
  for (size_t s = 0; s < record.segments.size(); ++s) {
    std::string reason = Match(record.segments[s], channels, selection.signal_index[s]);
    if (reason.empty()) {
      FindRuns(record.segments[s], s, selection.signal_index[s], selection.runs);
    } else {
      selection.skipped.push_back({record.segments[s].name, std::move(reason)});
    }
  }
  return selection;
}

std::vector<Window> CutWindows(const WaveformRecord& record, const ChannelSelection& selection,
                               int64_t length, int64_t hop) {
  std::vector<Window> windows;
  for (const ValidRun& run : selection.runs) {
    for (int64_t offset = 0; offset + length <= run.frames; offset += hop) {
      const int64_t begin = run.begin + offset;
      windows.push_back({run.segment, begin, record.segments[run.segment].start_frame + begin});
    }
  }
  return windows;
}

void CopyWindow(const WaveformRecord& record, const ChannelSelection& selection, size_t segment,
                int64_t begin, int64_t length, float* out) {
  const std::vector<size_t>& signals = selection.signal_index[segment];
  const size_t channels = signals.size();
  for (size_t c = 0; c < channels; ++c) {
    const float* codes = record.segments[segment].signals[signals[c]].codes.data() + begin;
    for (int64_t t = 0; t < length; ++t) out[static_cast<size_t>(t) * channels + c] = codes[t];
  }
}

std::vector<bool> ConstantChannels(const float* window, int64_t length, int64_t channels) {
  std::vector<bool> constant(static_cast<size_t>(channels), true);
  for (int64_t i = channels; i < length * channels; ++i) {
    if (window[i] != window[i - channels]) constant[static_cast<size_t>(i % channels)] = false;
  }
  return constant;
}

}  // namespace bflow
