// Times as people write them: offsets into a record ("2:19:10", "90.5"), and a record's wall-clock
// start time moved by an offset. Resolution is a millisecond.
#ifndef BFLOW_CLIENT_TIME_TEXT_H_
#define BFLOW_CLIENT_TIME_TEXT_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace bflow::client {

// Seconds of "SECONDS", "MM:SS" or "HH:MM:SS", each with an optional fraction. Errors:
// InvalidArgument.
absl::StatusOr<double> ParseOffset(const std::string& text);

// "HH:MM:SS.mmm"; hours may have more than two digits.
std::string FormatOffset(double seconds);

// `start` ("HH:MM:SS[.mmm]", with or without "YYYY-MM-DD " in front) plus `seconds`, in the same
// form. Without a date, days that passed are written as "+1d" behind the time. Empty if there is no
// start time or it cannot be read.
std::string AddToStartTime(const std::optional<std::string>& start, double seconds);

// "30s", "500ms", "1m30s", or a plain number of seconds; must be positive. Errors: InvalidArgument.
absl::StatusOr<absl::Duration> ParseDeadline(const std::string& text);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_TIME_TEXT_H_
