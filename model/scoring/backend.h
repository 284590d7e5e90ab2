// Which backend computes, decided once at start and reported by GetModel, the metrics and the log.
// Torch-free.
#ifndef BFLOW_MODEL_SCORING_BACKEND_H_
#define BFLOW_MODEL_SCORING_BACKEND_H_

#include <string>

#include "absl/status/statusor.h"

namespace bflow {

enum class DevicePreference { kAuto, kCpu, kCuda };

// Why the CPU computes although a GPU was not ruled out.
enum class CudaFault {
  kNone,
  kPluginAbsent,    // no libbflow_cuda.so beside the program
  kPluginFailed,    // it, or a library that it needs, cannot be loaded
  kBuildMismatch,   // made for another version of this program or of torch
  kNoDevice,        // no GPU, or no driver
  kSelfTestFailed,  // a first kernel failed or computed something else than the CPU
};

struct BackendInfo {
  std::string device = "cpu";  // or "cuda:0"
  std::string reason;          // why this one: "requested", "available", or a CudaFault's name
  CudaFault fault = CudaFault::kNone;
  std::string detail;  // for the log: what the loader or the driver said
};

// "auto", "cpu" or "cuda". Errors: InvalidArgument naming `device`.
absl::StatusOr<DevicePreference> ParseDevicePreference(const std::string& text);

// Loads the CUDA plugin unless the CPU was asked for; the only place that loads code. To be called
// before anything else of torch: it looks for CUDA once per process. Errors: FailedPrecondition
// naming `device` and the fault if CUDA was asked for and cannot be used.
absl::StatusOr<BackendInfo> LoadBackend(DevicePreference preference);

// The same with the plugin's file given: tests show what a broken one does.
absl::StatusOr<BackendInfo> LoadBackendFrom(const std::string& plugin, DevicePreference preference);

// "plugin_absent" and so on.
std::string CudaFaultName(CudaFault fault);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_BACKEND_H_
