#include "model/data/wfdb_header.h"

#include <charconv>
#include <cmath>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "model/data/wfdb_signal.h"

namespace bflow {
namespace {

// Bound of counts in a header; far beyond any file, far from overflow.
constexpr int64_t kMaxCount = int64_t{1} << 40;

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// What is left of a line, consumed from the left.
class LineReader {
 public:
  LineReader(std::string_view text, std::string place) : rest_(text), place_(std::move(place)) {}

  // The next word, empty at the end of the line.
  std::string_view Word() {
    SkipBlanks();
    size_t end = rest_.find_first_of(" \t");
    std::string_view word = rest_.substr(0, end);
    rest_.remove_prefix(word.size());
    return word;
  }
  std::string_view Rest() {
    SkipBlanks();
    while (!rest_.empty() && (rest_.back() == ' ' || rest_.back() == '\t')) rest_.remove_suffix(1);
    return rest_;
  }
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(place_, Absl(what)));
  }

 private:
  void SkipBlanks() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t"), rest_.size())); }

  std::string_view rest_;
  std::string place_;
};

// Takes a number off the front of `text`; false if there is none or it is out of range.
bool TakeInteger(std::string_view* text, int64_t low, int64_t high, int64_t* value) {
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *value);
  if (error != std::errc() || *value < low || *value > high) return false;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return true;
}

bool TakeReal(std::string_view* text, double* value) {
  if (text->starts_with('+')) text->remove_prefix(1);
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *value);
  if (error != std::errc() || !std::isfinite(*value)) return false;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return true;
}

bool TakeChar(std::string_view* text, char c) {
  if (!text->starts_with(c)) return false;
  text->remove_prefix(1);
  return true;
}

// A file or segment name: one component, nothing that leads out of the folder.
bool IsPlainName(std::string_view name) {
  return !name.empty() && name != "." && name.find('/') == std::string_view::npos &&
         name.find('\\') == std::string_view::npos && name.find("..") == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// "FORMATxSAMPLES:SKEW+OFFSET".
absl::Status ParseFormat(LineReader& line, WfdbSignalLine* signal) {
  std::string_view word = line.Word();
  int64_t format = 0;
  if (!TakeInteger(&word, 0, 100'000, &format)) return line.Error("format: not a number");
  signal->format = static_cast<int>(format);
  if (TakeChar(&word, 'x') && !TakeInteger(&word, 1, 1'000'000, &signal->samples_per_frame)) {
    return line.Error("samples per frame: expected 1 to 1000000 after 'x'");
  }
  if (TakeChar(&word, ':') && !TakeInteger(&word, 0, kMaxCount, &signal->skew)) {
    return line.Error("skew: expected a number of frames after ':'");
  }
  if (TakeChar(&word, '+')) {
    int64_t offset = 0;
    if (!TakeInteger(&word, 0, kMaxCount, &offset)) {
      return line.Error("byte offset: expected a number of bytes after '+'");
    }
    signal->byte_offset = offset;
  }
  if (!word.empty()) return line.Error("format: expected FORMAT[xSAMPLES][:SKEW][+OFFSET]");
  return absl::OkStatus();
}

// "GAIN(BASELINE)/UNIT", perhaps absent. `has_baseline`: the line gives one.
absl::Status ParseGain(LineReader& line, WfdbSignalLine* signal, bool* has_baseline) {
  std::string_view word = line.Word();
  *has_baseline = false;
  if (word.empty()) return absl::OkStatus();
  if (!TakeReal(&word, &signal->gain)) return line.Error("gain: not a number");
  if (signal->gain == 0) signal->gain = 200;  // 0: not calibrated
  if (TakeChar(&word, '(')) {
    int64_t baseline = 0;
    if (!TakeInteger(&word, -kMaxCount, kMaxCount, &baseline) || !TakeChar(&word, ')')) {
      return line.Error("baseline: expected an integer in parentheses");
    }
    signal->baseline = static_cast<double>(baseline);
    *has_baseline = true;
  }
  if (TakeChar(&word, '/')) {
    if (word.empty()) return line.Error("unit: missing after '/'");
    signal->unit = std::string(word);
  } else if (!word.empty()) {
    return line.Error("gain: expected GAIN[(BASELINE)][/UNIT]");
  }
  return absl::OkStatus();
}

// The next word as an integer; `present` tells whether the line had one.
absl::Status ParseOptionalInteger(LineReader& line, const char* what, int64_t low, int64_t high,
                                  int64_t* value, bool* present) {
  std::string_view word = line.Word();
  *present = !word.empty();
  if (*present && (!TakeInteger(&word, low, high, value) || !word.empty())) {
    return line.Error(absl::StrCat(what, ": expected an integer from ", low, " to ", high));
  }
  return absl::OkStatus();
}

absl::StatusOr<WfdbSignalLine> ParseSignalLine(std::string_view text, std::string place) {
  LineReader line(text, std::move(place));
  WfdbSignalLine signal;
  std::string_view file = line.Word();
  if (!IsPlainName(file)) {
    return line.Error("signal file: expected a plain name of a file in the record's folder");
  }
  signal.file = std::string(file);
  BFLOW_RETURN_IF_ERROR(ParseFormat(line, &signal));
  bool has_baseline = false, present = false;
  BFLOW_RETURN_IF_ERROR(ParseGain(line, &signal, &has_baseline));

  int64_t bits = 0, value = 0;
  BFLOW_RETURN_IF_ERROR(ParseOptionalInteger(line, "ADC resolution", 0, 32, &bits, &present));
  const bool known = IsSupportedWfdbFormat(signal.format);
  signal.resolution_bits =
      bits > 0 ? static_cast<int>(bits) : (known ? WfdbFormatBits(signal.format) : 12);
  constexpr int64_t kMaxCode = int64_t{1} << 31;
  BFLOW_RETURN_IF_ERROR(
      ParseOptionalInteger(line, "ADC zero", -kMaxCode, kMaxCode, &signal.adc_zero, &present));
  if (!has_baseline) signal.baseline = static_cast<double>(signal.adc_zero);
  BFLOW_RETURN_IF_ERROR(
      ParseOptionalInteger(line, "initial value", -kMaxCode, kMaxCode, &value, &present));
  if (present) signal.initial_value = value;
  BFLOW_RETURN_IF_ERROR(
      ParseOptionalInteger(line, "checksum", -kMaxCode, kMaxCode, &value, &present));
  if (present) signal.checksum = value;
  BFLOW_RETURN_IF_ERROR(ParseOptionalInteger(line, "block size", 0, kMaxCode, &value, &present));
  signal.name = std::string(line.Rest());
  return signal;
}

absl::StatusOr<WfdbSegmentLine> ParseSegmentLine(std::string_view text, std::string place) {
  LineReader line(text, std::move(place));
  WfdbSegmentLine segment;
  std::string_view name = line.Word();
  if (!IsPlainName(name)) {
    return line.Error("segment: expected a plain name of a record in the same folder, or ~");
  }
  segment.name = std::string(name);
  bool present = false;
  BFLOW_RETURN_IF_ERROR(
      ParseOptionalInteger(line, "segment length", 0, kMaxCount, &segment.frames, &present));
  if (!present) return line.Error("segment length: missing");
  if (!line.Rest().empty()) return line.Error("segment: expected NAME and LENGTH alone");
  return segment;
}

// "[[HH:]MM:]SS[.fff]" as "HH:MM:SS.mmm".
bool ParseTime(std::string_view word, std::string* time) {
  int64_t part[3] = {0, 0, 0};
  int parts = 0;
  do {
    if (parts == 3) return false;
    part[0] = part[1];
    part[1] = part[2];
    if (!TakeInteger(&word, 0, 59, &part[2])) return false;
    ++parts;
  } while (TakeChar(&word, ':'));
  std::string milliseconds = "000";
  if (TakeChar(&word, '.')) {
    for (size_t i = 0; i < word.size(); ++i) {
      if (word[i] < '0' || word[i] > '9') return false;
      if (i < 3) milliseconds[i] = word[i];
    }
    word = {};
  }
  if (!word.empty() || part[0] > 23) return false;
  *time = absl::StrFormat("%02d:%02d:%02d.%s", part[0], part[1], part[2], milliseconds);
  return true;
}

// "DD/MM/YYYY" as "YYYY-MM-DD".
bool ParseDate(std::string_view word, std::string* date) {
  int64_t day = 0, month = 0, year = 0;
  if (!TakeInteger(&word, 1, 31, &day) || !TakeChar(&word, '/') ||
      !TakeInteger(&word, 1, 12, &month) || !TakeChar(&word, '/') ||
      !TakeInteger(&word, 0, 9999, &year) || !word.empty()) {
    return false;
  }
  *date = absl::StrFormat("%04d-%02d-%02d", year, month, day);
  return true;
}

// "RATE/COUNTER(BASE)"; only the rate matters here.
absl::Status ParseRate(LineReader& line, std::string_view word, double* rate) {
  double counter = 0;
  if (!TakeReal(&word, rate) || !(*rate > 0)) {
    return line.Error("frames per second: expected a number above 0");
  }
  if (TakeChar(&word, '/') && !TakeReal(&word, &counter)) {
    return line.Error("counter frequency: not a number");
  }
  if (TakeChar(&word, '(') && !(TakeReal(&word, &counter) && TakeChar(&word, ')'))) {
    return line.Error("base counter value: expected a number in parentheses");
  }
  if (!word.empty()) return line.Error("frames per second: expected RATE[/COUNTER[(BASE)]]");
  return absl::OkStatus();
}

// "NAME[/SEGMENTS] SIGNALS [RATE [FRAMES [TIME [DATE]]]]". `segments` stays 0 without "/SEGMENTS".
absl::Status ParseRecordLine(LineReader line, WfdbHeader* header, int64_t* segments) {
  std::string_view name = line.Word();
  size_t slash = name.find('/');
  if (slash == 0) return line.Error("record name: missing");
  if (slash != std::string_view::npos) {
    header->multi_segment = true;
    std::string_view count = name.substr(slash + 1);
    if (!TakeInteger(&count, 1, kMaxCount, segments) || !count.empty()) {
      return line.Error("number of segments: expected a number from 1 after '/'");
    }
  }
  bool present = false;
  BFLOW_RETURN_IF_ERROR(ParseOptionalInteger(line, "number of signals", 0, kMaxCount,
                                             &header->signal_count, &present));
  if (!present) return line.Error("number of signals: missing");
  std::string_view rate = line.Word();
  if (rate.empty()) return absl::OkStatus();
  BFLOW_RETURN_IF_ERROR(ParseRate(line, rate, &header->frames_per_second));

  int64_t frames = 0;
  BFLOW_RETURN_IF_ERROR(
      ParseOptionalInteger(line, "number of samples", 0, kMaxCount, &frames, &present));
  if (frames > 0) header->frames = frames;
  std::string_view word = line.Word();
  if (word.empty()) return absl::OkStatus();
  std::string time, date;
  if (!ParseTime(word, &time)) return line.Error("start time: expected HH:MM:SS");
  std::string_view day = line.Word();
  if (!day.empty()) {
    if (!ParseDate(day, &date)) return line.Error("start date: expected DD/MM/YYYY");
    date += ' ';
  }
  header->start_time = date + time;
  if (!line.Rest().empty()) return line.Error("record line: nothing is expected after the date");
  return absl::OkStatus();
}

struct NumberedLine {
  int number;
  std::string_view text;
};

// Lines that are neither blank nor comments.
std::vector<NumberedLine> ContentLines(std::string_view text) {
  std::vector<NumberedLine> lines;
  for (int number = 1; !text.empty(); ++number) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) {
      line.remove_suffix(1);
    }
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (!line.empty() && line.front() != '#') lines.push_back({number, line});
  }
  return lines;
}

}  // namespace

std::string WfdbPlace(const WfdbHeader& header, int line) {
  return absl::StrCat(header.file_name, " line ", line, ": ");
}

absl::StatusOr<WfdbHeader> ParseWfdbHeader(const std::string& file_name, std::string_view text) {
  WfdbHeader header;
  header.file_name = file_name;
  std::vector<NumberedLine> lines = ContentLines(text);
  if (lines.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(WfdbPlace(header, 1), "record line: missing"));
  }
  header.record_line = lines[0].number;
  const std::string place = WfdbPlace(header, header.record_line);
  int64_t segments = 0;
  BFLOW_RETURN_IF_ERROR(ParseRecordLine(LineReader(lines[0].text, place), &header, &segments));
  if (header.signal_count > kWfdbMaxSignals) {
    return absl::ResourceExhaustedError(absl::StrCat(
        place, "number of signals: ", header.signal_count, ", at most ", kWfdbMaxSignals));
  }
  if (segments > kWfdbMaxSegments) {
    return absl::ResourceExhaustedError(
        absl::StrCat(place, "number of segments: ", segments, ", at most ", kWfdbMaxSegments));
  }
  const int64_t expected = header.multi_segment ? segments : header.signal_count;
  const char* kind = header.multi_segment ? "segment" : "signal";
  if (static_cast<int64_t>(lines.size()) - 1 != expected) {
    return absl::InvalidArgumentError(absl::StrCat(place, "the record line announces ", expected,
                                                   " ", kind, " lines, the file has ",
                                                   lines.size() - 1));
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::string here = WfdbPlace(header, lines[i].number);
    if (header.multi_segment) {
      BFLOW_ASSIGN_OR_RETURN(WfdbSegmentLine segment, ParseSegmentLine(lines[i].text, here));
      segment.line = lines[i].number;
      header.segments.push_back(std::move(segment));
    } else {
      BFLOW_ASSIGN_OR_RETURN(WfdbSignalLine signal, ParseSignalLine(lines[i].text, here));
      signal.line = lines[i].number;
      header.signals.push_back(std::move(signal));
    }
  }
  return header;
}

}  // namespace bflow
