#include "server/app/flow_loader.h"

#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "model/scoring/backend.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/torch_guard.h"

namespace bflow {

namespace {

// Of a torch version such as "2.11.0+cu130": "13.0".
std::string CudaVersion() {
  std::string version = BFLOW_TORCH_VERSION;
  const size_t at = version.find("+cu");
  if (at == std::string::npos || version.size() < at + 5) return "unknown";
  version.erase(0, at + 3);
  return version.insert(version.size() - 1, ".");
}

}  // namespace

Backend FlowBackend() {
  const auto options = std::make_shared<ScorerOptions>();  // complete once select has run
  Backend backend;
  backend.select = [options](const std::string& device) -> absl::StatusOr<BackendFacts> {
    BFLOW_ASSIGN_OR_RETURN(const DevicePreference preference, ParseDevicePreference(device));
    BFLOW_ASSIGN_OR_RETURN(BackendInfo info, LoadBackend(preference));
    UseSingleThreadedTorch();
    options->device = info.device;
    BackendFacts facts{info.device, info.reason, std::move(info.detail), BFLOW_TORCH_VERSION};
    if (info.device != "cpu") facts.cuda_version = CudaVersion();
    return facts;
  };
  backend.make_scorer = [options](const Checkpoint& checkpoint) {
    return MakeFlowScorer(checkpoint, *options);
  };
  return backend;
}

}  // namespace bflow
