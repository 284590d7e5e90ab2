#include "model/data/wfdb_signal.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/file.h"
#include "base/status.h"

namespace bflow {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{2} << 30;

// What a format stores: bits per sample on disk and the code that marks a sample as invalid.
struct FormatInfo {
  int bits;
  int invalid;
};

std::optional<FormatInfo> Format(int format) {
  switch (format) {
    case 16:
      return FormatInfo{16, -32768};
    case 80:
      return FormatInfo{8, -128};
    case 212:
      return FormatInfo{12, -2048};
    default:
      return std::nullopt;
  }
}

absl::Status LineError(absl::StatusCode code, const std::string& header_file, int line,
                       const std::string& what) {
  return absl::Status(code, absl::StrCat(header_file, " line ", line, ": ", what));
}

// Sample `i` of the stream, sign-extended. Two 12-bit samples take three bytes: the low bytes are
// bytes 0 and 2, the high nibbles share byte 1 (low nibble first).
int SampleAt(const unsigned char* data, int format, int64_t i) {
  if (format == 80) return static_cast<int>(data[i]) - 128;
  if (format == 16) return static_cast<int16_t>(data[2 * i] | (data[2 * i + 1] << 8));
  const unsigned char* pair = data + 3 * (i / 2);
  int value = i % 2 == 0 ? pair[0] | ((pair[1] & 0x0f) << 8) : pair[2] | ((pair[1] & 0xf0) << 4);
  return value >= 2048 ? value - 4096 : value;
}

// Bytes that `samples` samples take; an odd last 12-bit sample still needs two bytes.
int64_t BytesOf(int64_t samples, int bits) { return (samples * bits + 7) / 8; }

WaveformSignal Describe(const WfdbSignalLine& line, const FormatInfo& format) {
  WaveformSignal signal;
  signal.name = line.name;
  signal.unit = line.unit;
  signal.gain = line.gain;
  signal.baseline = line.baseline;
  signal.resolution_bits = line.resolution_bits > 0 ? line.resolution_bits : format.bits;
  signal.adc_zero = line.adc_zero;
  const double half = std::ldexp(1.0, signal.resolution_bits - 1);
  signal.input_min = std::max(static_cast<double>(line.adc_zero) - half, format.invalid + 1.0);
  signal.input_max = static_cast<double>(line.adc_zero) + half - 1;
  return signal;
}

// Signals that share one file: its frames hold samples_per_frame samples of each in turn.
class SignalGroup {
 public:
  SignalGroup(std::span<const WfdbSignalLine> lines, const std::string& header_file)
      : lines_(lines), header_file_(header_file) {
    for (const WfdbSignalLine& line : lines_) frame_samples_ += line.samples_per_frame;
  }

  absl::Status Load(const std::string& folder) {
    const WfdbSignalLine& first = lines_[0];
    std::optional<FormatInfo> info = Format(first.format);
    if (!info.has_value()) {
      return Error(absl::StatusCode::kUnimplemented, first.line,
                   absl::StrCat("format ", first.format, " is not supported; 16, 80 and 212 are"));
    }
    info_ = *info;
    for (const WfdbSignalLine& line : lines_) {
      if (line.format != first.format || line.byte_offset != first.byte_offset) {
        return Error(absl::StatusCode::kInvalidArgument, line.line,
                     "format and byte offset must equal those of the file's first signal");
      }
    }
    absl::StatusOr<std::string> bytes = ReadUserFile(JoinPath(folder, first.file), kMaxFileBytes);
    if (!bytes.ok()) {
      return Error(bytes.status().code(), first.line, std::string(bytes.status().message()));
    }
    bytes_ = *std::move(bytes);
    return absl::OkStatus();
  }

  // Whole frames in the file.
  int64_t FramesInFile() const {
    return std::max<int64_t>(0, SizeAfterOffset()) * 8 / info_.bits / frame_samples_;
  }

  absl::Status CheckSize(int64_t frames) const {
    std::optional<int64_t> samples = CheckedMultiply(frames, frame_samples_);
    if (samples && SizeAfterOffset() >= 0 && *samples <= kMaxFileBytes * 2 &&
        BytesOf(*samples, info_.bits) <= SizeAfterOffset()) {
      return absl::OkStatus();
    }
    return Error(absl::StatusCode::kDataLoss, lines_[0].line,
                 absl::StrCat(lines_[0].file, " is too short: ", bytes_.size(), " bytes, ", frames,
                              " frames of ", frame_samples_, " samples are needed"));
  }

  // The signals of the group, `frames` averages each. CheckSize(frames) was OK.
  absl::StatusOr<std::vector<WaveformSignal>> Decode(int64_t frames) const {
    std::vector<WaveformSignal> signals;
    int64_t first_sample = 0;
    for (const WfdbSignalLine& line : lines_) {
      WaveformSignal signal = Describe(line, info_);
      uint16_t checksum = 0;
      signal.codes = Averages(line, first_sample, frames, &checksum);
      if (line.checksum.has_value() && static_cast<uint16_t>(*line.checksum) != checksum) {
        return Error(
            absl::StatusCode::kDataLoss, line.line,
            absl::StrCat("checksum of the samples in ", line.file, " differs from the header's"));
      }
      signals.push_back(std::move(signal));
      first_sample += line.samples_per_frame;
    }
    return signals;
  }

 private:
  absl::Status Error(absl::StatusCode code, int line, const std::string& what) const {
    return LineError(code, header_file_, line, what);
  }
  int64_t SizeAfterOffset() const {
    return static_cast<int64_t>(bytes_.size()) - lines_[0].byte_offset;
  }

  // Frame averages, rounded towards zero to a code as the wfdb package does, which also takes
  // invalid samples into the average; a skewed signal is read `skew` frames later and ends in NaN.
  // The checksum is the 16-bit sum of all samples of the file, before skew is undone.
  std::vector<float> Averages(const WfdbSignalLine& line, int64_t first_sample, int64_t frames,
                              uint16_t* checksum) const {
    const auto* data =
        reinterpret_cast<const unsigned char*>(bytes_.data()) + lines_[0].byte_offset;
    const int per_frame = line.samples_per_frame;
    std::vector<float> averages(static_cast<size_t>(frames),
                                std::numeric_limits<float>::quiet_NaN());
    for (int64_t frame = 0; frame < frames; ++frame) {
      const int64_t start = frame * frame_samples_ + first_sample;
      int64_t sum = 0;
      for (int k = 0; k < per_frame; ++k) sum += SampleAt(data, line.format, start + k);
      *checksum = static_cast<uint16_t>(*checksum + static_cast<uint64_t>(sum));
      const int64_t average = sum / per_frame;
      if (average != info_.invalid && frame >= line.skew) {
        averages[static_cast<size_t>(frame - line.skew)] = static_cast<float>(average);
      }
    }
    return averages;
  }

  std::span<const WfdbSignalLine> lines_;
  const std::string& header_file_;
  int64_t frame_samples_ = 0;
  FormatInfo info_{};
  std::string bytes_;
};

}  // namespace

absl::StatusOr<std::vector<WaveformSignal>> ReadWfdbSignals(const WfdbHeader& header,
                                                            const std::string& folder,
                                                            const std::string& header_file,
                                                            int64_t* frames) {
  std::vector<SignalGroup> groups;
  std::span<const WfdbSignalLine> lines(header.signals);
  for (size_t begin = 0, end; begin < lines.size(); begin = end) {
    for (end = begin + 1; end < lines.size() && lines[end].file == lines[begin].file;) ++end;
    groups.emplace_back(lines.subspan(begin, end - begin), header_file);
    BFLOW_RETURN_IF_ERROR(groups.back().Load(folder));
  }
  int64_t length = header.frames.value_or(-1);
  if (length < 0 && !groups.empty()) {
    length = groups[0].FramesInFile();
    for (const SignalGroup& group : groups) length = std::min(length, group.FramesInFile());
  }
  *frames = std::max<int64_t>(length, 0);
  std::vector<WaveformSignal> signals;
  for (const SignalGroup& group : groups) {
    BFLOW_RETURN_IF_ERROR(group.CheckSize(*frames));
    BFLOW_ASSIGN_OR_RETURN(std::vector<WaveformSignal> decoded, group.Decode(*frames));
    for (WaveformSignal& signal : decoded) signals.push_back(std::move(signal));
  }
  return signals;
}

}  // namespace bflow
