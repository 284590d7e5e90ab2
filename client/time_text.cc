#include "client/time_text.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/civil_time.h"

namespace bflow::client {
namespace {

constexpr int64_t kDayMs = 86'400'000;

bool ParseField(absl::string_view text, bool fraction, double* value) {
  if (text.empty()) return false;
  int points = 0;
  for (const char c : text) {
    if (c == '.') {
      ++points;
    } else if (c < '0' || c > '9') {
      return false;
    }
  }
  if (points > (fraction ? 1 : 0)) return false;
  return absl::SimpleAtod(text, value) && std::isfinite(*value);
}

std::string FormatMs(int64_t ms) {
  return absl::StrFormat("%02d:%02d:%02d.%03d", ms / 3'600'000, ms / 60'000 % 60, ms / 1000 % 60,
                         ms % 1000);
}

}  // namespace

absl::StatusOr<double> ParseOffset(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  double seconds = 0;
  bool ok = parts.size() <= 3;
  for (size_t i = 0; ok && i < parts.size(); ++i) {
    double value = 0;
    ok = ParseField(parts[i], i + 1 == parts.size(), &value) && (i == 0 || value < 60);
    seconds = seconds * 60 + value;
  }
  if (!ok) {
    return absl::InvalidArgumentError("a time must be SECONDS, MM:SS or HH:MM:SS, as in 2:19:10");
  }
  return seconds;
}

std::string FormatOffset(double seconds) {
  const int64_t ms = std::llround(seconds * 1000);
  return ms < 0 ? absl::StrCat("-", FormatMs(-ms)) : FormatMs(ms);
}

std::string AddToStartTime(const std::optional<std::string>& start, double seconds) {
  if (!start.has_value()) return "";
  const size_t blank = start->rfind(' ');
  const bool dated = blank != std::string::npos;
  const absl::StatusOr<double> clock = ParseOffset(dated ? start->substr(blank + 1) : *start);
  if (!clock.ok()) return "";
  const int64_t ms = std::llround(*clock * 1000) + std::llround(seconds * 1000);
  const int64_t days = ms >= 0 ? ms / kDayMs : -((-ms + kDayMs - 1) / kDayMs);
  const std::string time = FormatMs(ms - days * kDayMs);
  if (!dated) return days == 0 ? time : absl::StrFormat("%s%+dd", time, days);
  const std::vector<std::string> date = absl::StrSplit(start->substr(0, blank), '-');
  int64_t year = 0, month = 0, day = 0;
  if (date.size() != 3 || !absl::SimpleAtoi(date[0], &year) || !absl::SimpleAtoi(date[1], &month) ||
      !absl::SimpleAtoi(date[2], &day)) {
    return "";
  }
  const absl::CivilDay moved = absl::CivilDay(year, month, day) + days;
  return absl::StrFormat("%04d-%02d-%02d %s", moved.year(), moved.month(), moved.day(), time);
}

absl::StatusOr<absl::Duration> ParseDeadline(const std::string& text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) duration = absl::Seconds(seconds);
  const bool ok = absl::SimpleAtod(text, &seconds) || absl::ParseDuration(text, &duration);
  if (!ok || duration < absl::Milliseconds(1) || duration > absl::Hours(24)) {
    return absl::InvalidArgumentError(
        "--deadline: takes a time from 1ms to 24h, as in 30s, 500ms or 2m");
  }
  return duration;
}

}  // namespace bflow::client
