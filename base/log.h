// JSON lines on stderr, by spdlog. A line holds an event name and fields chosen by the caller;
// callers never pass patient data, client strings or paths beyond a file's last component.
#ifndef BFLOW_BASE_LOG_H_
#define BFLOW_BASE_LOG_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "base/json.h"

namespace bflow {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning" or "error"; InvalidArgument for anything else.
absl::Status SetLogLevel(std::string_view name);

using LogField = std::pair<const char*, Json>;

// {"time":"2026-01-31T12:00:00.000Z","level":"info","event":"model_loaded","rows":3}
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

}  // namespace bflow

#endif  // BFLOW_BASE_LOG_H_
