#include "model/data/wfdb.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/file.h"
#include "base/status.h"
#include "model/data/wfdb_header.h"
#include "model/data/wfdb_signal.h"

namespace bflow {
namespace {

constexpr int64_t kMaxHeaderBytes = int64_t{16} << 20;
constexpr int64_t kMaxSignalBytes = int64_t{2} << 30;
constexpr int64_t kMaxFlacValues = int64_t{1} << 28;  // 1 GiB of decoded samples in one file
constexpr int64_t kMaxRecordCodes = int64_t{1} << 31;

absl::Status Annotate(const absl::Status& status, const std::string& place) {
  return absl::Status(status.code(), absl::StrCat(place, status.message()));
}

// "~" lines: the layout segment of a variable-layout record, which has no samples of its own.
bool IsLayout(const WfdbHeader& header) {
  return !header.signals.empty() &&
         std::all_of(header.signals.begin(), header.signals.end(),
                     [](const WfdbSignalLine& s) { return s.file == "~"; });
}

absl::StatusOr<WfdbHeader> ReadHeader(const std::string& folder, const std::string& record) {
  const std::string name = absl::StrCat(record, ".hea");
  BFLOW_ASSIGN_OR_RETURN(std::string text, ReadUserFile(JoinPath(folder, name), kMaxHeaderBytes));
  return ParseWfdbHeader(name, text);
}

// Signals [begin, end) of the header lie in one file.
struct FileGroup {
  size_t begin = 0;
  size_t end = 0;
  int64_t offset = 0;
  int64_t samples_per_frame = 0;
};

absl::StatusOr<std::vector<FileGroup>> GroupByFile(const WfdbHeader& header) {
  std::vector<FileGroup> groups;
  for (size_t i = 0; i < header.signals.size(); ++i) {
    const WfdbSignalLine& signal = header.signals[i];
    const std::string place = WfdbPlace(header, signal.line);
    if (!IsSupportedWfdbFormat(signal.format)) {
      return absl::UnimplementedError(
          absl::StrCat(place, "format ", signal.format,
                       " is not supported (16, 80, 212, 508, 516 and 524 are)"));
    }
    if (groups.empty() || header.signals[groups.back().begin].file != signal.file) {
      for (size_t j = 0; j < i; ++j) {
        if (header.signals[j].file == signal.file) {
          return absl::InvalidArgumentError(
              absl::StrCat(place, "signals of one file must stand together"));
        }
      }
      groups.push_back({i, i, signal.byte_offset.value_or(0), 0});
    }
    FileGroup& group = groups.back();
    if (signal.format != header.signals[group.begin].format) {
      return absl::InvalidArgumentError(absl::StrCat(place, "format: ", signal.format,
                                                     " in a file of format ",
                                                     header.signals[group.begin].format));
    }
    if (signal.byte_offset.value_or(group.offset) != group.offset) {
      return absl::InvalidArgumentError(absl::StrCat(place, "byte offset: ", *signal.byte_offset,
                                                     " in a file of offset ", group.offset));
    }
    group.end = i + 1;
    group.samples_per_frame += signal.samples_per_frame;
  }
  return groups;
}

// The 16 low bits of the sum of all samples. Both numbers 0: the writer did not know them.
absl::Status CheckSum(const WfdbHeader& header, const WfdbSignalLine& line,
                      const DecodedWfdbSignal& signal) {
  if (!line.checksum.has_value()) return absl::OkStatus();
  if (*line.checksum == 0 && line.initial_value.value_or(0) == 0) return absl::OkStatus();
  if (((signal.sum - *line.checksum) & 0xFFFF) == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      WfdbPlace(header, line.line), "signal ", line.name, ": the samples of ", line.file,
      " have another checksum than the header says; the file is damaged or not this record's"));
}

WaveformSignal MakeSignal(const WfdbHeader& header, const std::string& record, size_t index,
                          std::vector<float> codes) {
  const WfdbSignalLine& line = header.signals[index];
  WaveformSignal signal;
  signal.name = line.name.empty() ? absl::StrCat("record ", record, ", signal ", index) : line.name;
  signal.unit = line.unit;
  signal.gain = line.gain;
  signal.baseline = line.baseline;
  signal.resolution_bits = line.resolution_bits;
  signal.adc_zero = line.adc_zero;
  const double half = std::ldexp(1.0, line.resolution_bits - 1);
  const double zero = static_cast<double>(line.adc_zero);
  const double invalid = WfdbInvalidCode(line.format);
  signal.input_min = std::max(zero - half, invalid + 1);
  signal.input_max = std::min(zero + half - 1, -invalid - 1);
  signal.codes = std::move(codes);
  return signal;
}

absl::Status TooManySamples(const WfdbHeader& header, const WfdbSignalLine& line) {
  return absl::ResourceExhaustedError(absl::StrCat(WfdbPlace(header, line.line), "signal file ",
                                                   line.file, ": more than ", kMaxFlacValues,
                                                   " samples"));
}

// The stream of a FLAC group, at most what `frames` need: one channel per signal, all of one rate.
absl::StatusOr<FlacSamples> ReadFlac(const WfdbHeader& header, const FileGroup& group,
                                     std::string_view bytes, std::optional<int64_t> frames) {
  const WfdbSignalLine& first = header.signals[group.begin];
  if (group.offset != 0) {
    return absl::UnimplementedError(absl::StrCat(
        WfdbPlace(header, first.line), "a byte offset into a FLAC file is not supported"));
  }
  for (size_t i = group.begin; i < group.end; ++i) {
    if (header.signals[i].samples_per_frame != first.samples_per_frame) {
      return absl::InvalidArgumentError(
          absl::StrCat(WfdbPlace(header, header.signals[i].line),
                       "the signals of a FLAC file must have the same samples per frame"));
    }
  }
  // Of an unknown length: all there is.
  std::optional<int64_t> wanted = kMaxFlacValues;
  if (frames.has_value()) wanted = CheckedMultiply(*frames, group.samples_per_frame);
  if (!wanted.has_value() || *wanted > kMaxFlacValues) return TooManySamples(header, first);
  absl::StatusOr<FlacSamples> samples = DecodeFlac(bytes, *wanted);
  if (!samples.ok()) {
    return Annotate(samples.status(),
                    absl::StrCat(WfdbPlace(header, first.line), "signal file ", first.file, ": "));
  }
  if (!frames.has_value() && !samples->whole) return TooManySamples(header, first);
  const int64_t signals = static_cast<int64_t>(group.end - group.begin);
  if (!samples->values.empty() &&
      (samples->channels != signals || samples->bits > WfdbFormatBits(first.format))) {
    return absl::DataLossError(absl::StrCat(WfdbPlace(header, first.line), "signal file ",
                                            first.file, ": ", samples->channels, " channels of ",
                                            samples->bits, " bits, the header says ", signals,
                                            " of at most ", WfdbFormatBits(first.format)));
  }
  return samples;
}

// The samples of one file, appended to the segment. `frames` unknown: as many as the file holds.
absl::Status ReadFileGroup(const std::string& folder, const std::string& record,
                           const WfdbHeader& header, const FileGroup& group, int64_t* budget,
                           std::optional<int64_t>* frames, WaveformSegment* segment) {
  const WfdbSignalLine& first = header.signals[group.begin];
  const std::string place = WfdbPlace(header, first.line);
  absl::StatusOr<std::string> bytes = ReadFile(JoinPath(folder, first.file), kMaxSignalBytes);
  if (!bytes.ok()) return Annotate(bytes.status(), place);
  const bool flac = IsFlacWfdbFormat(first.format);
  FlacSamples samples;
  if (flac) {
    BFLOW_ASSIGN_OR_RETURN(samples, ReadFlac(header, group, *bytes, *frames));
  }
  const int64_t held = flac ? samples.samples() / first.samples_per_frame
                            : WfdbFramesInFile(first.format, static_cast<int64_t>(bytes->size()),
                                               group.offset, group.samples_per_frame);
  if (!frames->has_value()) *frames = held;
  if (held < **frames) {
    return absl::DataLossError(absl::StrCat(place, "signal file ", first.file,
                                            " is too short: ", held,
                                            " samples per signal, the header says ", **frames));
  }
  const int64_t signals = static_cast<int64_t>(group.end - group.begin);
  std::optional<int64_t> codes = CheckedMultiply(**frames, signals);
  if (!codes.has_value() || *codes > *budget) {
    return absl::ResourceExhaustedError(
        absl::StrCat(place, "the record has more than ", kMaxRecordCodes, " codes"));
  }
  *budget -= *codes;
  if (**frames == 0) bytes->clear();

  std::vector<const WfdbSignalLine*> lines;
  for (size_t i = group.begin; i < group.end; ++i) lines.push_back(&header.signals[i]);
  const int64_t offset = **frames == 0 ? 0 : group.offset;
  std::vector<DecodedWfdbSignal> decoded = flac ? DecodeFlacFile(samples, lines, **frames)
                                                : DecodeWfdbFile(*bytes, offset, lines, **frames);
  for (size_t i = 0; i < decoded.size(); ++i) {
    BFLOW_RETURN_IF_ERROR(CheckSum(header, *lines[i], decoded[i]));
    segment->signals.push_back(
        MakeSignal(header, record, group.begin + i, std::move(decoded[i].codes)));
  }
  return absl::OkStatus();
}

absl::StatusOr<WaveformSegment> ReadSegment(const std::string& folder, const std::string& record,
                                            const WfdbHeader& header, int64_t* budget) {
  if (header.signals.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(WfdbPlace(header, header.record_line), "the record has no signals"));
  }
  if (IsLayout(header)) {
    return absl::InvalidArgumentError(absl::StrCat(WfdbPlace(header, header.signals[0].line),
                                                   "a layout header has no samples; name the "
                                                   "record it belongs to"));
  }
  WaveformSegment segment;
  segment.name = record;
  std::optional<int64_t> frames = header.frames;
  BFLOW_ASSIGN_OR_RETURN(std::vector<FileGroup> groups, GroupByFile(header));
  for (const FileGroup& group : groups) {
    BFLOW_RETURN_IF_ERROR(ReadFileGroup(folder, record, header, group, budget, &frames, &segment));
  }
  segment.frames = *frames;
  return segment;
}

// A segment named by line `line` of the record's header.
absl::StatusOr<WaveformSegment> ReadNamedSegment(const std::string& folder,
                                                 const WfdbHeader& record,
                                                 const WfdbSegmentLine& line, bool fixed_layout,
                                                 int64_t* budget) {
  const std::string place = absl::StrCat(WfdbPlace(record, line.line), "segment ", line.name, ": ");
  absl::StatusOr<WfdbHeader> header = ReadHeader(folder, line.name);
  if (!header.ok()) return Annotate(header.status(), place);
  const auto inconsistent = [&](const std::string& what) {
    return absl::DataLossError(absl::StrCat(place, WfdbPlace(*header, header->record_line), what));
  };
  if (header->multi_segment) return inconsistent("a segment must not have segments itself");
  if (std::abs(header->frames_per_second - record.frames_per_second) >
      1e-6 * record.frames_per_second) {
    return inconsistent(absl::StrCat(header->frames_per_second, " frames per second, the record ",
                                     record.frames_per_second));
  }
  if (header->frames.value_or(line.frames) != line.frames) {
    return inconsistent(
        absl::StrCat(*header->frames, " samples per signal, the record says ", line.frames));
  }
  if (fixed_layout && header->signal_count != record.signal_count) {
    return inconsistent(
        absl::StrCat(header->signal_count, " signals, the record ", record.signal_count));
  }
  header->frames = line.frames;
  absl::StatusOr<WaveformSegment> segment = ReadSegment(folder, line.name, *header, budget);
  if (!segment.ok()) return Annotate(segment.status(), place);
  return segment;
}

absl::Status ReadSegments(const std::string& folder, const WfdbHeader& header, int64_t* budget,
                          WaveformRecord* record) {
  const bool fixed_layout = header.segments[0].frames > 0;
  int64_t start = 0;
  for (size_t i = 0; i < header.segments.size(); ++i) {
    const WfdbSegmentLine& line = header.segments[i];
    if (line.frames == 0) {
      if (i == 0) {  // the layout: its signals come with the segments
        absl::StatusOr<WfdbHeader> layout = ReadHeader(folder, line.name);
        if (!layout.ok()) {
          return Annotate(layout.status(),
                          absl::StrCat(WfdbPlace(header, line.line), "layout ", line.name, ": "));
        }
        if (layout->multi_segment || layout->signal_count != header.signal_count) {
          return absl::DataLossError(absl::StrCat(WfdbPlace(header, line.line), "layout ",
                                                  line.name, ": ", layout->signal_count,
                                                  " signals, the record ", header.signal_count));
        }
      }
      continue;
    }
    if (line.name != "~") {
      BFLOW_ASSIGN_OR_RETURN(WaveformSegment segment,
                             ReadNamedSegment(folder, header, line, fixed_layout, budget));
      segment.start_frame = start;
      record->segments.push_back(std::move(segment));
    }
    start += line.frames;  // 100,000 segments of 2^40 frames stay below 2^63
  }
  if (header.frames.value_or(start) != start) {
    return absl::DataLossError(absl::StrCat(WfdbPlace(header, header.record_line),
                                            "number of samples: ", *header.frames,
                                            ", the segments add up to ", start));
  }
  record->frames = start;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WaveformRecord> ReadWfdbRecord(const std::string& path) {
  const std::string folder = DirName(path);
  std::string name(BaseName(path));
  if (name.ends_with(".hea")) name.resize(name.size() - 4);
  if (name.empty()) return absl::InvalidArgumentError("path: the name of a WFDB record is empty");
  BFLOW_ASSIGN_OR_RETURN(WfdbHeader header, ReadHeader(folder, name));

  WaveformRecord record;
  record.name = name;
  record.frames_per_second = header.frames_per_second;
  record.start_time = header.start_time;
  int64_t budget = kMaxRecordCodes;
  if (header.multi_segment) {
    BFLOW_RETURN_IF_ERROR(ReadSegments(folder, header, &budget, &record));
  } else {
    BFLOW_ASSIGN_OR_RETURN(WaveformSegment segment, ReadSegment(folder, name, header, &budget));
    record.frames = segment.frames;
    record.segments.push_back(std::move(segment));
  }
  return record;
}

}  // namespace bflow
