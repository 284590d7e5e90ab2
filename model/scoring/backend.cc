#include "model/scoring/backend.h"

#include <dlfcn.h>
#include <elf.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "ATen/Context.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/allclose.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/full.h"
#include "absl/strings/str_cat.h"
#include "model/ops/act_norm.h"
#include "model/ops/cuda/build_id.h"

namespace bflow {
namespace {

struct Finding {
  CudaFault fault = CudaFault::kNone;
  std::string detail;
};

// A kernel of ours on the first device, against the CPU.
Finding TestDevice() {
  try {
    const at::Tensor x = at::arange(24, at::kFloat).view({2, 3, 4});
    const at::Tensor scale = at::full({4}, 0.25f), bias = at::full({4}, -1.5f);
    const at::Device device("cuda:0");
    const auto [expected, log_det] = act_norm(x, scale, bias);
    const auto [y, y_log_det] = act_norm(x.to(device), scale.to(device), bias.to(device));
    if (at::allclose(y.cpu(), expected, 1e-5, 1e-6) &&
        at::allclose(y_log_det.cpu(), log_det, 1e-5, 1e-6)) {
      return {};
    }
    return {CudaFault::kSelfTestFailed, "a kernel computed wrong values"};
  } catch (const std::exception& error) {
    return {CudaFault::kSelfTestFailed, error.what()};
  }
}

// Whether the file is a whole ELF: the loader maps one that was cut off all the same, and the first
// touch of what is missing ends the process. The table of sections is the last thing in a file.
bool IsWholeElf(const std::string& path) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header;
  if (error || !file.read(reinterpret_cast<char*>(&header), sizeof(header))) return false;
  return std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_shoff <= size &&
         uint64_t{header.e_shnum} * header.e_shentsize <= size - header.e_shoff;
}

Finding LoadPlugin(const std::string& plugin) {
  std::error_code error;
  if (!std::filesystem::exists(plugin, error))
    return {CudaFault::kPluginAbsent, absl::StrCat("no ", kCudaPluginFile, " beside the program")};
  if (!IsWholeElf(plugin)) return {CudaFault::kPluginFailed, "not a whole shared library"};
  // Global: torch_cuda finds the symbols of torch_cpu by name. Never closed: torch keeps what it
  // registered.
  void* const library = dlopen(plugin.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const char* const said = dlerror();
    return {CudaFault::kPluginFailed, said == nullptr ? "" : said};
  }
  using BuildId = const char* (*)();
  const auto build_id = reinterpret_cast<BuildId>(dlsym(library, kCudaBuildIdSymbol));
  const std::string theirs = build_id == nullptr ? "a file without a build id" : build_id();
  if (theirs != CudaBuildId()) {
    return {CudaFault::kBuildMismatch, absl::StrCat(theirs, "; this is ", CudaBuildId())};
  }
  try {
    if (!at::hasCUDA() || at::getNumGPUs() < 1) return {CudaFault::kNoDevice, "no CUDA device"};
  } catch (const std::exception& no_driver) {
    return {CudaFault::kNoDevice, no_driver.what()};
  }
  return TestDevice();
}

// The plugin lies beside the program: never a path from outside.
std::string PluginPath() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return (program.parent_path() / kCudaPluginFile).string();
}

}  // namespace

absl::StatusOr<DevicePreference> ParseDevicePreference(const std::string& text) {
  if (text == "auto") return DevicePreference::kAuto;
  if (text == "cpu") return DevicePreference::kCpu;
  if (text == "cuda") return DevicePreference::kCuda;
  return absl::InvalidArgumentError("device: expected auto, cpu or cuda");
}

std::string CudaFaultName(CudaFault fault) {
  switch (fault) {
    case CudaFault::kNone:
      return "available";
    case CudaFault::kPluginAbsent:
      return "plugin_absent";
    case CudaFault::kPluginFailed:
      return "plugin_failed";
    case CudaFault::kBuildMismatch:
      return "build_mismatch";
    case CudaFault::kNoDevice:
      return "no_device";
    case CudaFault::kSelfTestFailed:
      return "self_test_failed";
  }
  return "unknown";
}

absl::StatusOr<BackendInfo> LoadBackendFrom(const std::string& plugin,
                                            DevicePreference preference) {
  if (preference == DevicePreference::kCpu) return BackendInfo{"cpu", "requested", {}, {}};
  // cuDNN takes TF32 unless it is told not to: ten bits of mantissa, and no score is reproduced.
  at::globalContext().setAllowTF32CuDNN(false);
  Finding finding = LoadPlugin(plugin);
  const bool cuda = finding.fault == CudaFault::kNone;
  if (!cuda && preference == DevicePreference::kCuda) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device: cuda was asked for and cannot be used: ", CudaFaultName(finding.fault), " (",
        finding.detail, "); use auto or cpu"));
  }
  return BackendInfo{cuda ? "cuda:0" : "cpu", CudaFaultName(finding.fault), finding.fault,
                     std::move(finding.detail)};
}

absl::StatusOr<BackendInfo> LoadBackend(DevicePreference preference) {
  return LoadBackendFrom(PluginPath(), preference);
}

}  // namespace bflow
