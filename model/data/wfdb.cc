#include "model/data/wfdb.h"

#include <cmath>
#include <cstdint>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/checked_math.h"
#include "base/file.h"
#include "base/status.h"
#include "model/data/wfdb_header.h"
#include "model/data/wfdb_signal.h"

namespace bflow {
namespace {

constexpr int64_t kMaxHeaderBytes = 16 << 20;

absl::StatusOr<WfdbHeader> ReadHeader(const std::string& folder, const std::string& name) {
  const std::string file = absl::StrCat(name, ".hea");
  absl::StatusOr<std::string> text = ReadUserFile(JoinPath(folder, file), kMaxHeaderBytes);
  if (!text.ok()) {
    return absl::Status(text.status().code(), absl::StrCat(file, ": ", text.status().message()));
  }
  return ParseWfdbHeader(*text, file);
}

absl::StatusOr<WaveformSegment> ReadSegment(const WfdbHeader& header, const std::string& folder,
                                            const std::string& name, int64_t start_frame) {
  WaveformSegment segment;
  segment.name = name;
  segment.start_frame = start_frame;
  BFLOW_ASSIGN_OR_RETURN(
      segment.signals,
      ReadWfdbSignals(header, folder, absl::StrCat(name, ".hea"), &segment.frames));
  return segment;
}

// Reads what the segment line names and checks it against the line and the record.
absl::StatusOr<WaveformSegment> ReadListedSegment(const WfdbHeader& record, const std::string& file,
                                                  const std::string& folder,
                                                  const WfdbSegmentLine& line,
                                                  int64_t start_frame) {
  auto error = [&](const std::string& what) {
    return absl::DataLossError(absl::StrCat(file, " line ", line.line, ": ", what));
  };
  absl::StatusOr<WfdbHeader> header = ReadHeader(folder, line.name);
  if (!header.ok()) {
    return absl::Status(header.status().code(),
                        absl::StrCat(file, " line ", line.line, ": ", header.status().message()));
  }
  if (header->is_multi_segment) return error("a segment cannot have segments itself");
  if (std::abs(header->frames_per_second - record.frames_per_second) >
      1e-6 * record.frames_per_second) {
    return error("the segment's sampling frequency differs from the record's");
  }
  BFLOW_ASSIGN_OR_RETURN(WaveformSegment segment,
                         ReadSegment(*header, folder, line.name, start_frame));
  if (segment.frames != line.frames) {
    return error(absl::StrCat("says ", line.frames, " frames, the segment has ", segment.frames));
  }
  return segment;
}

absl::Status ReadSegments(const WfdbHeader& header, const std::string& file,
                          const std::string& folder, WaveformRecord& record) {
  int64_t frame = 0;
  for (size_t i = 0; i < header.segments.size(); ++i) {
    const WfdbSegmentLine& line = header.segments[i];
    // A first segment of length 0 is the layout of a variable-layout record: it holds no samples.
    if (line.name != "~" && line.frames > 0) {
      BFLOW_ASSIGN_OR_RETURN(WaveformSegment segment,
                             ReadListedSegment(header, file, folder, line, frame));
      record.segments.push_back(std::move(segment));
    }
    std::optional<int64_t> next = CheckedAdd(frame, line.frames);
    if (!next.has_value()) return absl::InvalidArgumentError(absl::StrCat(file, ": too long"));
    frame = *next;
  }
  if (header.frames.has_value() && *header.frames != frame) {
    return absl::DataLossError(
        absl::StrCat(file, " line 1: says ", *header.frames, " frames, the segments have ", frame));
  }
  record.frames = frame;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WaveformRecord> ReadWfdbRecord(const std::string& path) {
  const std::string folder = DirName(path);
  std::string name(BaseName(path));
  if (absl::EndsWith(name, ".hea")) name.resize(name.size() - 4);
  BFLOW_ASSIGN_OR_RETURN(WfdbHeader header, ReadHeader(folder, name));
  WaveformRecord record;
  record.name = name;
  record.frames_per_second = header.frames_per_second;
  record.start_time = header.start_time;
  if (header.is_multi_segment) {
    BFLOW_RETURN_IF_ERROR(ReadSegments(header, absl::StrCat(name, ".hea"), folder, record));
    return record;
  }
  BFLOW_ASSIGN_OR_RETURN(WaveformSegment segment, ReadSegment(header, folder, name, 0));
  record.frames = segment.frames;
  record.segments.push_back(std::move(segment));
  return record;
}

}  // namespace bflow
