#include "server/app/flow_loader.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/scoring/backend.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/torch_guard.h"

namespace bflow {

namespace {

// Of a torch version such as "2.11.0+cu130": "13.0".
std::string CudaVersion() {
  const std::string_view version = BFLOW_TORCH_VERSION;
  const size_t at = version.find("+cu");
  if (at == std::string_view::npos || version.size() < at + 5) return "unknown";
  const std::string_view digits = version.substr(at + 3);
  return absl::StrCat(std::string(digits.substr(0, digits.size() - 1)), ".",
                      std::string(digits.substr(digits.size() - 1)));
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
