// The parameters of a flow as one tensor, so that an optimiser and an average make one pass over
// memory: a flow has hundreds of small tensors, and on a GPU an operation on each costs a launch.
#ifndef BFLOW_MODEL_TRAINING_FLAT_PARAMETERS_H_
#define BFLOW_MODEL_TRAINING_FLAT_PARAMETERS_H_

#include <span>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "model/flow/flow.h"

namespace bflow {

class FlatParameters {
 public:
  // Moves the values of `tensors` (float32, all on one device) into one tensor there. They become
  // views of it: what changes one changes the other. They must not be moved afterwards.
  explicit FlatParameters(std::vector<at::Tensor> tensors);

  const std::vector<at::Tensor>& tensors() const { return tensors_; }
  // [N]: one tensor after the other, each from a multiple of 64 bytes on, as an allocation of its
  // own would begin; zeros between them.
  const at::Tensor& values() const { return values_; }

  // One tensor for each of tensors(), of its shape, in the layout of values().
  at::Tensor Gather(const std::vector<at::Tensor>& like) const;

  // A tensor in the layout of values() without the zeros between, in host memory, and back.
  std::vector<float> ToHost(const at::Tensor& flat) const;
  at::Tensor FromHost(std::span<const float> packed) const;
  size_t packed_size() const;  // of ToHost

 private:
  std::vector<at::Tensor> Views(const at::Tensor& flat) const;

  std::vector<at::Tensor> tensors_;
  at::Tensor values_;
};

// All parameters of a flow in host memory, in the order of flow.parameters(), and back.
std::vector<float> ParameterValues(const Flow& flow);
void SetParameterValues(std::span<const float> values, const Flow& flow);

// The flow itself if it is on the CPU, else a copy of it there. Errors: those of Flow::Create.
absl::StatusOr<std::shared_ptr<Flow>> OnCpu(std::shared_ptr<Flow> flow);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_FLAT_PARAMETERS_H_
