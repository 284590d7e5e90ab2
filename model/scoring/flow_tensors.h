// A flow's tensors as bytes for a model file.
#ifndef BFLOW_MODEL_SCORING_FLOW_TENSORS_H_
#define BFLOW_MODEL_SCORING_FLOW_TENSORS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/safetensors.h"

namespace bflow {

class Flow;

// Copies of every tensor of the model file, in the order of ExpectedTensors(spec), and the views
// that WriteCheckpoint and SerializeSafetensors take. Move-only: the views point into `bytes`.
struct FlowTensors {
  FlowTensors() = default;
  FlowTensors(FlowTensors&&) = default;
  FlowTensors& operator=(FlowTensors&&) = default;

  std::vector<std::vector<std::byte>> bytes;
  std::vector<TensorToWrite> tensors;
};

// Errors: Internal (a dtype that model files do not have), ResourceExhausted.
absl::StatusOr<FlowTensors> CopyFlowTensors(const Flow& flow);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_FLOW_TENSORS_H_
