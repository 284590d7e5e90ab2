#include "server/app/flow_loader.h"

#include <memory>

#include "base/status.h"
#include "model/scoring/backend.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/torch_guard.h"

namespace bflow {

Backend FlowBackend() {
  const auto options = std::make_shared<ScorerOptions>();  // complete once select has run
  Backend backend;
  backend.select = [options](const std::string& device) -> absl::StatusOr<BackendFacts> {
    BFLOW_ASSIGN_OR_RETURN(const DevicePreference preference, ParseDevicePreference(device));
    BFLOW_ASSIGN_OR_RETURN(BackendInfo info, LoadBackend(preference));
    UseSingleThreadedTorch();
    options->device = info.device;
    return BackendFacts{info.device, info.reason, std::move(info.detail), BFLOW_TORCH_VERSION};
  };
  backend.make_scorer = [options](const Checkpoint& checkpoint) {
    return MakeFlowScorer(checkpoint, *options);
  };
  return backend;
}

}  // namespace bflow
