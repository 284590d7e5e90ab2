// The parameters of a flow as plain buffers of floats, for the optimiser and the averages: the
// tensors' own memory on the CPU; a copy that is written back on another device, where a tensor
// library's optimiser would launch a kernel for each of a hundred small tensors.
#ifndef BFLOW_MODEL_TRAINING_HOST_PARAMETERS_H_
#define BFLOW_MODEL_TRAINING_HOST_PARAMETERS_H_

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "model/flow/flow.h"

namespace bflow {

class HostParameters {
 public:
  // Where the flow's tensors are now: it must not be moved afterwards.
  explicit HostParameters(const Flow& flow);
  HostParameters(const HostParameters&) = delete;
  HostParameters& operator=(const HostParameters&) = delete;

  // In the order of flow.parameters(); `butterfly` tells which are butterfly factors.
  const std::vector<at::Tensor>& tensors() const { return tensors_; }
  const std::vector<std::span<float>>& buffers() const { return buffers_; }
  const std::vector<bool>& butterfly() const { return butterfly_; }

  // Makes the flow see what the buffers hold. Nothing to do on the CPU.
  void Upload();

 private:
  std::vector<at::Tensor> tensors_;
  std::vector<std::span<float>> buffers_;
  std::vector<bool> butterfly_;
  at::Tensor host_;  // one float after the other; undefined on the CPU
};

// Gradients as buffers in host memory.
class HostGradients {
 public:
  explicit HostGradients(std::vector<at::Tensor> gradients);

  const std::vector<std::span<const float>>& buffers() const { return buffers_; }
  // The square of the Euclidean norm of all; not finite exactly where one of them is not.
  double SquaredNorm() const;
  void Scale(double factor);

 private:
  std::vector<at::Tensor> held_;
  std::vector<std::span<const float>> buffers_;
};

// The flow itself if it is on the CPU, else a copy of it there. Errors: those of Flow::Create.
absl::StatusOr<std::shared_ptr<Flow>> OnCpu(std::shared_ptr<Flow> flow);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_HOST_PARAMETERS_H_
