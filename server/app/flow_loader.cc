#include "server/app/flow_loader.h"

#include <memory>

#include "base/status.h"
#include "model/scoring/backend.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/torch_guard.h"

namespace bflow {

Backend FlowBackend() {
  UseSingleThreadedTorch();
  Backend backend;
  backend.select = [](const std::string& device) -> absl::StatusOr<BackendFacts> {
    BFLOW_ASSIGN_OR_RETURN(const DevicePreference preference, ParseDevicePreference(device));
    BFLOW_ASSIGN_OR_RETURN(const BackendInfo info, SelectBackend(preference));
    return BackendFacts{info.device, info.reason, BFLOW_TORCH_VERSION};
  };
  backend.make_scorer = [](const Checkpoint& checkpoint) { return MakeFlowScorer(checkpoint); };
  return backend;
}

}  // namespace bflow
