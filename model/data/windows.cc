#include "model/data/windows.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bflow {
namespace {

std::string ScalingReason(const std::string& name, const char* what, double got, double expected) {
  return absl::StrCat(what, " of ", name, " is ", got, ", the model takes ", expected);
}

// Why the segment cannot be used, empty if it can; fills the index of each channel's signal.
std::string MatchSegment(const WaveformSegment& segment,
                         const std::vector<ChannelRequest>& channels, std::vector<size_t>* index) {
  for (const ChannelRequest& channel : channels) {
    const WaveformSignal* signal = segment.Find(channel.name);
    if (signal == nullptr) return absl::StrCat("no signal ", channel.name);
    if (channel.check_scaling) {
      if (!SameGain(signal->gain, channel.gain)) {
        return ScalingReason(channel.name, "gain", signal->gain, channel.gain);
      }
      if (!SameBaseline(signal->baseline, channel.baseline)) {
        return ScalingReason(channel.name, "baseline", signal->baseline, channel.baseline);
      }
    }
    index->push_back(static_cast<size_t>(signal - segment.signals.data()));
  }
  return "";
}

void AppendRuns(const WaveformSegment& segment, size_t segment_index,
                const std::vector<size_t>& signals, std::vector<ValidRun>* runs) {
  const auto valid = [&](int64_t frame) {
    return std::all_of(signals.begin(), signals.end(), [&](size_t s) {
      return !std::isnan(segment.signals[s].codes[static_cast<size_t>(frame)]);
    });
  };
  int64_t begin = 0;
  for (int64_t frame = 0; frame <= segment.frames; ++frame) {
    if (frame < segment.frames && valid(frame)) continue;
    if (frame > begin) runs->push_back({segment_index, begin, frame - begin});
    begin = frame + 1;
  }
}

}  // namespace

ChannelSelection SelectChannels(const WaveformRecord& record,
                                const std::vector<ChannelRequest>& channels) {
  ChannelSelection selection;
  selection.signal_index.resize(record.segments.size());
  if (channels.empty()) return selection;
  for (size_t i = 0; i < record.segments.size(); ++i) {
    const WaveformSegment& segment = record.segments[i];
    std::vector<size_t> index;
    std::string reason = MatchSegment(segment, channels, &index);
    if (!reason.empty()) {
      selection.skipped.push_back({segment.name, std::move(reason)});
      continue;
    }
    AppendRuns(segment, i, index, &selection.runs);
    selection.signal_index[i] = std::move(index);
  }
  return selection;
}

std::vector<Window> CutWindows(const WaveformRecord& record, const ChannelSelection& selection,
                               int64_t length, int64_t hop) {
  std::vector<Window> windows;
  if (length <= 0 || hop <= 0) return windows;
  for (const ValidRun& run : selection.runs) {
    for (int64_t offset = 0; length <= run.frames - offset; offset += hop) {
      const int64_t begin = run.begin + offset;
      windows.push_back({run.segment, begin, record.segments[run.segment].start_frame + begin});
      if (hop > run.frames - offset) break;
    }
  }
  return windows;
}

void CopyWindow(const WaveformRecord& record, const ChannelSelection& selection, size_t segment,
                int64_t begin, int64_t length, float* out) {
  const std::vector<size_t>& signals = selection.signal_index[segment];
  for (size_t c = 0; c < signals.size(); ++c) {
    const float* codes = record.segments[segment].signals[signals[c]].codes.data() + begin;
    for (int64_t t = 0; t < length; ++t)
      out[t * static_cast<int64_t>(signals.size()) + static_cast<int64_t>(c)] = codes[t];
  }
}

std::vector<bool> ConstantChannels(const float* window, int64_t length, int64_t channels) {
  std::vector<bool> constant(static_cast<size_t>(channels), true);
  for (int64_t d = channels; d < length * channels; ++d) {
    if (window[d] != window[d % channels]) constant[static_cast<size_t>(d % channels)] = false;
  }
  return constant;
}

}  // namespace bflow
