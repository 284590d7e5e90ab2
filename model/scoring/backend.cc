#include "model/scoring/backend.h"

namespace bflow {

absl::StatusOr<DevicePreference> ParseDevicePreference(const std::string& text) {
  if (text == "auto") return DevicePreference::kAuto;
  if (text == "cpu") return DevicePreference::kCpu;
  if (text == "cuda") return DevicePreference::kCuda;
  return absl::InvalidArgumentError("device: expected auto, cpu or cuda");
}

absl::StatusOr<BackendInfo> SelectBackend(DevicePreference preference) {
  switch (preference) {
    case DevicePreference::kAuto:
      return BackendInfo{"cpu", "built_without_cuda"};
    case DevicePreference::kCpu:
      return BackendInfo{"cpu", "requested"};
    case DevicePreference::kCuda:
      return absl::FailedPreconditionError(
          "device: cuda was asked for, this build has the CPU backend only; use auto or cpu");
  }
  return absl::InternalError("device: unknown preference");
}

}  // namespace bflow
