#include "model/data/wfdb_signal.h"

#include <algorithm>
#include <limits>

namespace bflow {
namespace {

int SignedByte(char c) { return static_cast<signed char>(c); }
int UnsignedByte(char c) { return static_cast<unsigned char>(c); }

// Sample `index` of a file whose first sample stands at `data`.
int Sample(int format, const char* data, int64_t index) {
  switch (format) {
    case 80:  // offset binary
      return UnsignedByte(data[index]) - 128;
    case 16:  // two's complement, low byte first
      return SignedByte(data[2 * index + 1]) * 256 + UnsignedByte(data[2 * index]);
    default: {  // 212: two samples in three bytes, two's complement of 12 bits
      const char* pair = data + index / 2 * 3;
      const int middle = UnsignedByte(pair[1]);
      const int code = index % 2 == 0 ? UnsignedByte(pair[0]) | (middle & 0x0F) << 8
                                      : UnsignedByte(pair[2]) | (middle & 0xF0) << 4;
      return code < 2048 ? code : code - 4096;
    }
  }
}

// sample(s, frame, k): the k-th sample of signal s in a frame, as stored.
template <typename Stored>
std::vector<DecodedWfdbSignal> Decode(const std::vector<const WfdbSignalLine*>& signals,
                                      int64_t frames, const Stored& sample) {
  const int invalid = WfdbInvalidCode(signals.front()->format);
  std::vector<DecodedWfdbSignal> decoded(signals.size());
  for (size_t s = 0; s < signals.size(); ++s) {
    const int64_t count = signals[s]->samples_per_frame;
    const int64_t skew = signals[s]->skew;
    DecodedWfdbSignal& signal = decoded[s];
    // The frames that a skewed signal would need beyond the end of the file are invalid.
    signal.codes.assign(static_cast<size_t>(frames), std::numeric_limits<float>::quiet_NaN());
    for (int64_t frame = 0; frame < frames; ++frame) {
      int64_t sum = 0;
      for (int64_t k = 0; k < count; ++k) sum += sample(s, frame, k);
      signal.sum += sum;
      if (frame >= skew && sum / count != invalid) {
        signal.codes[static_cast<size_t>(frame - skew)] = static_cast<float>(sum / count);
      }
    }
    if (frames > 0) signal.first = sample(s, 0, 0);
  }
  return decoded;
}

}  // namespace

bool IsFlacWfdbFormat(int format) { return format == 508 || format == 516 || format == 524; }

bool IsSupportedWfdbFormat(int format) {
  return format == 16 || format == 80 || format == 212 || IsFlacWfdbFormat(format);
}

int WfdbFormatBits(int format) {
  if (IsFlacWfdbFormat(format)) return format - 500;
  return format == 16 ? 16 : format == 80 ? 8 : 12;
}

int WfdbInvalidCode(int format) { return -(1 << (WfdbFormatBits(format) - 1)); }

int64_t WfdbFramesInFile(int format, int64_t bytes, int64_t offset, int64_t samples_per_frame) {
  const int64_t available = std::max<int64_t>(0, bytes - offset);
  return available * 8 / WfdbFormatBits(format) / samples_per_frame;
}

std::vector<DecodedWfdbSignal> DecodeWfdbFile(std::string_view bytes, int64_t offset,
                                              const std::vector<const WfdbSignalLine*>& signals,
                                              int64_t frames) {
  const int format = signals.front()->format;
  const char* data = bytes.data() + offset;
  std::vector<int64_t> place;  // of each signal's first sample within a frame
  int64_t frame_samples = 0;
  for (const WfdbSignalLine* line : signals) {
    place.push_back(frame_samples);
    frame_samples += line->samples_per_frame;
  }
  return Decode(signals, frames, [&](size_t s, int64_t frame, int64_t k) {
    return Sample(format, data, frame * frame_samples + place[s] + k);
  });
}

std::vector<DecodedWfdbSignal> DecodeFlacFile(const FlacSamples& samples,
                                              const std::vector<const WfdbSignalLine*>& signals,
                                              int64_t frames) {
  return Decode(signals, frames, [&](size_t s, int64_t frame, int64_t k) {
    const int64_t time = frame * signals[s]->samples_per_frame + k;
    return samples.values[static_cast<size_t>(time * samples.channels) + s];
  });
}

}  // namespace bflow
