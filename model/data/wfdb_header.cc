#include "model/data/wfdb_header.h"

#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace bflow {
namespace {

constexpr int64_t kMaxSignals = 256, kMaxSegments = 100'000;
constexpr int64_t kMaxFrames = int64_t{1} << 40;

struct Line {
  int number;
  std::string text;
};

// Splits off the longest prefix of `text` that holds none of `stops`.
std::string TakeUntil(std::string& text, const char* stops) {
  size_t end = text.find_first_of(stops);
  std::string head = text.substr(0, end);
  text = end == std::string::npos ? "" : text.substr(end);
  return head;
}

class HeaderParser {
 public:
  explicit HeaderParser(const std::string& file) : file_(file) {}

  absl::StatusOr<WfdbHeader> Parse(std::string_view text) {
    std::vector<Line> lines = SignificantLines(text);
    if (lines.empty()) return Error(1, "holds no record line");
    BFLOW_RETURN_IF_ERROR(ParseRecordLine(lines[0]));
    const int64_t wanted = header_.is_multi_segment ? segment_count_ : signal_count_;
    const char* what = header_.is_multi_segment ? "segment" : "signal";
    if (static_cast<int64_t>(lines.size()) - 1 < wanted) {
      return Error(lines.back().number, absl::StrCat("is the last line, but the record line says ",
                                                     wanted, " ", what, " lines"));
    }
    for (int64_t i = 1; i <= wanted; ++i) {
      const Line& line = lines[static_cast<size_t>(i)];
      BFLOW_RETURN_IF_ERROR(header_.is_multi_segment ? ParseSegmentLine(line)
                                                     : ParseSignalLine(line));
    }
    return std::move(header_);
  }

 private:
  absl::Status Error(int line, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, " line ", line, ": ", what));
  }

  // Lines that are neither empty nor comments, with their numbers.
  static std::vector<Line> SignificantLines(std::string_view text) {
    std::vector<Line> lines;
    int number = 0;
    for (absl::string_view raw :
         absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
      ++number;
      absl::string_view line = absl::StripAsciiWhitespace(raw);
      if (!line.empty() && line[0] != '#') lines.push_back({number, std::string(line)});
    }
    return lines;
  }

  static std::vector<std::string> Fields(const std::string& text, int most) {
    std::vector<std::string> fields;
    absl::string_view rest = text;
    while (static_cast<int>(fields.size()) < most - 1) {
      rest = absl::StripLeadingAsciiWhitespace(rest);
      size_t end = rest.find_first_of(" \t");
      if (rest.empty()) return fields;
      fields.emplace_back(rest.substr(0, end));
      if (end == absl::string_view::npos) return fields;
      rest = rest.substr(end);
    }
    rest = absl::StripAsciiWhitespace(rest);
    if (!rest.empty()) fields.emplace_back(rest);
    return fields;
  }

  absl::StatusOr<int64_t> Integer(const std::string& text, int line, const char* field, int64_t low,
                                  int64_t high) const {
    int64_t value;
    if (!absl::SimpleAtoi(text, &value) || value < low || value > high) {
      return Error(line, absl::StrCat(field, ": takes an integer from ", low, " to ", high));
    }
    return value;
  }

  absl::StatusOr<double> Number(const std::string& text, int line, const char* field) const {
    double value;
    if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
      return Error(line, absl::StrCat(field, ": takes a number"));
    }
    return value;
  }

  // A file or segment name from a header never leads out of the record's folder.
  absl::Status CheckName(const std::string& name, int line, const char* field) const {
    if (name.empty() || name.size() > 255 || name[0] == '.' ||
        name.find_first_of("/\\") != std::string::npos || name.find('\0') != std::string::npos) {
      return Error(line, absl::StrCat(field, ": takes the name of a file in the record's folder"));
    }
    return absl::OkStatus();
  }

  // NAME[/SEGMENTS] SIGNALS [FREQUENCY[/COUNTER[(BASE)]] [FRAMES [TIME [DATE]]]]
  absl::Status ParseRecordLine(const Line& line) {
    std::vector<std::string> fields = Fields(line.text, 7);
    if (fields.size() < 2) return Error(line.number, "needs a record name and a number of signals");
    header_.name = TakeUntil(fields[0], "/");
    BFLOW_RETURN_IF_ERROR(CheckName(header_.name, line.number, "record name"));
    if (!fields[0].empty()) {
      header_.is_multi_segment = true;
      BFLOW_ASSIGN_OR_RETURN(segment_count_, Integer(fields[0].substr(1), line.number,
                                                     "number of segments", 1, kMaxSegments));
    }
    BFLOW_ASSIGN_OR_RETURN(signal_count_,
                           Integer(fields[1], line.number, "number of signals", 0, kMaxSignals));
    if (fields.size() > 2) {
      BFLOW_ASSIGN_OR_RETURN(header_.frames_per_second,
                             Number(TakeUntil(fields[2], "/("), line.number, "sampling frequency"));
      if (header_.frames_per_second <= 0) {
        return Error(line.number, "sampling frequency: takes a number above 0");
      }
    }
    if (fields.size() > 3) {
      BFLOW_ASSIGN_OR_RETURN(int64_t frames,
                             Integer(fields[3], line.number, "number of samples", 0, kMaxFrames));
      if (frames > 0 || header_.is_multi_segment || signal_count_ > 0) header_.frames = frames;
    }
    if (fields.size() > 4) return ParseStart(line, fields);
    return absl::OkStatus();
  }

  // TIME is [[HH:]MM:]SS[.fraction], DATE is DD/MM/YYYY.
  absl::Status ParseStart(const Line& line, const std::vector<std::string>& fields) {
    std::vector<std::string> parts = absl::StrSplit(fields[4], ':');
    if (parts.size() > 3) return Error(line.number, "base time: takes HH:MM:SS");
    double seconds = 0;
    for (const std::string& part : parts) {
      BFLOW_ASSIGN_OR_RETURN(double value, Number(part, line.number, "base time"));
      if (value < 0 || value >= 60) return Error(line.number, "base time: takes HH:MM:SS");
      seconds = seconds * 60 + value;
    }
    const int64_t ms = std::llround(seconds * 1000);
    std::string text = absl::StrFormat("%02d:%02d:%02d.%03d", ms / 3'600'000, ms / 60'000 % 60,
                                       ms / 1000 % 60, ms % 1000);
    if (fields.size() > 5) {
      std::vector<std::string> date = absl::StrSplit(fields[5], '/');
      if (date.size() != 3) return Error(line.number, "base date: takes DD/MM/YYYY");
      BFLOW_ASSIGN_OR_RETURN(int64_t day, Integer(date[0], line.number, "base date: day", 1, 31));
      BFLOW_ASSIGN_OR_RETURN(int64_t month,
                             Integer(date[1], line.number, "base date: month", 1, 12));
      BFLOW_ASSIGN_OR_RETURN(int64_t year,
                             Integer(date[2], line.number, "base date: year", 0, 9999));
      text = absl::StrFormat("%04d-%02d-%02d %s", year, month, day, text);
    }
    header_.start_time = text;
    return absl::OkStatus();
  }

  absl::Status ParseSegmentLine(const Line& line) {
    std::vector<std::string> fields = Fields(line.text, 3);
    if (fields.size() != 2) return Error(line.number, "needs a segment name and its length");
    WfdbSegmentLine segment;
    segment.line = line.number;
    segment.name = fields[0];
    if (segment.name != "~") {
      BFLOW_RETURN_IF_ERROR(CheckName(segment.name, line.number, "segment name"));
    }
    BFLOW_ASSIGN_OR_RETURN(segment.frames,
                           Integer(fields[1], line.number, "segment length", 0, kMaxFrames));
    header_.segments.push_back(std::move(segment));
    return absl::OkStatus();
  }

  // FORMAT[xSAMPLES][:SKEW][+OFFSET]
  absl::Status ParseFormat(std::string text, WfdbSignalLine& signal) const {
    BFLOW_ASSIGN_OR_RETURN(int64_t format,
                           Integer(TakeUntil(text, "x:+"), signal.line, "format", 0, 9999));
    signal.format = static_cast<int>(format);
    while (!text.empty()) {
      const char kind = text[0];
      text.erase(0, 1);
      std::string value = TakeUntil(text, "x:+");
      if (kind == 'x') {
        BFLOW_ASSIGN_OR_RETURN(int64_t n,
                               Integer(value, signal.line, "samples per frame", 1, 10'000));
        signal.samples_per_frame = static_cast<int>(n);
      } else if (kind == ':') {
        BFLOW_ASSIGN_OR_RETURN(signal.skew, Integer(value, signal.line, "skew", 0, 1'000'000));
      } else {
        BFLOW_ASSIGN_OR_RETURN(signal.byte_offset,
                               Integer(value, signal.line, "byte offset", 0, int64_t{1} << 31));
      }
    }
    return absl::OkStatus();
  }

  // GAIN[(BASELINE)][/UNIT]
  absl::Status ParseGain(std::string text, WfdbSignalLine& signal, bool& has_baseline) const {
    BFLOW_ASSIGN_OR_RETURN(double gain, Number(TakeUntil(text, "(/"), signal.line, "gain"));
    if (gain < 0) return Error(signal.line, "gain: takes a number above 0");
    if (gain > 0) signal.gain = gain;  // 0: not calibrated, the default of header(5) stands
    if (!text.empty() && text[0] == '(') {
      text.erase(0, 1);
      BFLOW_ASSIGN_OR_RETURN(signal.baseline,
                             Number(TakeUntil(text, ")"), signal.line, "baseline"));
      if (text.empty()) return Error(signal.line, "baseline: lacks the closing bracket");
      text.erase(0, 1);
      has_baseline = true;
    }
    if (!text.empty() && text[0] == '/') signal.unit = text.substr(1, 64);
    return absl::OkStatus();
  }

  // FILE FORMAT [GAIN [RESOLUTION [ZERO [INITIAL [CHECKSUM [BLOCK [DESCRIPTION]]]]]]]
  absl::Status ParseSignalLine(const Line& line) {
    std::vector<std::string> fields = Fields(line.text, 9);
    if (fields.size() < 2) return Error(line.number, "needs a file name and a format");
    WfdbSignalLine signal;
    signal.line = line.number;
    signal.file = fields[0];
    if (signal.file != "~") BFLOW_RETURN_IF_ERROR(CheckName(signal.file, line.number, "file name"));
    BFLOW_RETURN_IF_ERROR(ParseFormat(fields[1], signal));
    bool has_baseline = false;
    if (fields.size() > 2) BFLOW_RETURN_IF_ERROR(ParseGain(fields[2], signal, has_baseline));
    if (fields.size() > 3) {
      BFLOW_ASSIGN_OR_RETURN(int64_t bits,
                             Integer(fields[3], line.number, "ADC resolution", 0, 32));
      signal.resolution_bits = static_cast<int>(bits);
    }
    constexpr int64_t kLow = INT32_MIN, kHigh = INT32_MAX;
    if (fields.size() > 4) {
      BFLOW_ASSIGN_OR_RETURN(signal.adc_zero,
                             Integer(fields[4], line.number, "ADC zero", kLow, kHigh));
    }
    if (!has_baseline) signal.baseline = static_cast<double>(signal.adc_zero);
    if (fields.size() > 5) {
      BFLOW_RETURN_IF_ERROR(Integer(fields[5], line.number, "initial value", kLow, kHigh).status());
    }
    if (fields.size() > 6) {
      BFLOW_ASSIGN_OR_RETURN(signal.checksum,
                             Integer(fields[6], line.number, "checksum", kLow, kHigh));
    }
    if (fields.size() > 7) {
      BFLOW_RETURN_IF_ERROR(Integer(fields[7], line.number, "block size", kLow, kHigh).status());
    }
    signal.name = fields.size() > 8 ? fields[8] : absl::StrCat("signal ", header_.signals.size());
    header_.signals.push_back(std::move(signal));
    return absl::OkStatus();
  }

  const std::string& file_;
  WfdbHeader header_;
  int64_t segment_count_ = 0, signal_count_ = 0;
};

}  // namespace

absl::StatusOr<WfdbHeader> ParseWfdbHeader(std::string_view text, const std::string& file) {
  return HeaderParser(file).Parse(text);
}

}  // namespace bflow
