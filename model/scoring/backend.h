// Which backend computes, decided once at start and reported by GetModel and the log. Torch-free.
#ifndef BFLOW_MODEL_SCORING_BACKEND_H_
#define BFLOW_MODEL_SCORING_BACKEND_H_

#include <string>

#include "absl/status/statusor.h"

namespace bflow {

enum class DevicePreference { kAuto, kCpu, kCuda };

struct BackendInfo {
  std::string device;  // "cpu"
  std::string reason;  // why this one: "requested", "built_without_cuda"
};

// "auto", "cpu" or "cuda". Errors: InvalidArgument naming `device`.
absl::StatusOr<DevicePreference> ParseDevicePreference(const std::string& text);

// Errors: FailedPrecondition naming `device` when the preferred one cannot be used by this build.
absl::StatusOr<BackendInfo> SelectBackend(DevicePreference preference);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_BACKEND_H_
