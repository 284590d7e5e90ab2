#include "model/scoring/flow_tensors.h"

#include <utility>

#include "ATen/core/Tensor.h"
#include "model/flow/flow.h"
#include "model/flow/materialize.h"
#include "model/scoring/torch_guard.h"

namespace bflow {

absl::StatusOr<FlowTensors> CopyFlowTensors(const Flow& flow) {
  return GuardTorchOr("copying the tensors of a flow", [&]() -> absl::StatusOr<FlowTensors> {
    FlowTensors copy;
    for (const auto& [name, tensor] : flow.NamedTensors()) {
      at::Tensor contiguous = tensor.detach().contiguous();
      TensorToWrite view = ToWritable(name, contiguous);
      copy.bytes.emplace_back(view.data.begin(), view.data.end());
      view.data = copy.bytes.back();  // the heap block stays where it is when `bytes` grows
      copy.tensors.push_back(std::move(view));
    }
    return copy;
  });
}

}  // namespace bflow
