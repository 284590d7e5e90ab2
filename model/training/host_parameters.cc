#include "model/training/host_parameters.h"

#include <cstdint>
#include <string>
#include <utility>

#include "ATen/ops/cat.h"
#include "absl/strings/match.h"
#include "base/status.h"
#include "c10/core/GradMode.h"

namespace bflow {
namespace {

// All values of `tensors` in host memory, one after the other.
at::Tensor Flatten(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors) flat.push_back(tensor.detach().reshape({-1}));
  return at::cat(flat).to(at::kCPU);
}

}  // namespace

HostParameters::HostParameters(const Flow& flow) {
  for (const auto& parameter : flow.named_parameters()) {
    TORCH_CHECK(parameter.value().scalar_type() == at::kFloat && parameter.value().is_contiguous(),
                "parameters are float, contiguous");
    tensors_.push_back(parameter.value());
    butterfly_.push_back(absl::StrContains(parameter.key(), ".factors."));
  }
  const bool in_place = flow.device().is_cpu();
  if (!in_place) host_ = Flatten(tensors_);
  float* next = in_place ? nullptr : host_.data_ptr<float>();
  for (const at::Tensor& tensor : tensors_) {
    const size_t size = static_cast<size_t>(tensor.numel());
    buffers_.emplace_back(in_place ? tensor.data_ptr<float>() : next, size);
    if (!in_place) next += size;
  }
}

void HostParameters::Upload() {
  if (!host_.defined()) return;
  const c10::NoGradGuard no_grad;
  const at::Tensor on_device = host_.to(tensors_.front().device());
  int64_t next = 0;
  for (at::Tensor& tensor : tensors_) {
    tensor.copy_(on_device.narrow(0, next, tensor.numel()).view(tensor.sizes()));
    next += tensor.numel();
  }
}

HostGradients::HostGradients(std::vector<at::Tensor> gradients) : held_(std::move(gradients)) {
  if (held_.empty()) return;
  if (held_.front().is_cpu()) {
    for (at::Tensor& gradient : held_) {
      gradient = gradient.contiguous();
      buffers_.emplace_back(gradient.data_ptr<float>(), static_cast<size_t>(gradient.numel()));
    }
    return;
  }
  const at::Tensor flat = Flatten(held_);
  const float* next = flat.const_data_ptr<float>();
  for (const at::Tensor& gradient : held_) {
    buffers_.emplace_back(next, static_cast<size_t>(gradient.numel()));
    next += gradient.numel();
  }
  held_ = {flat};
}

double HostGradients::SquaredNorm() const {
  double sum = 0;  // the square of a finite float is a finite double
  for (const std::span<const float> buffer : buffers_) {
    for (const float g : buffer) sum += static_cast<double>(g) * static_cast<double>(g);
  }
  return sum;
}

void HostGradients::Scale(double factor) {
  for (at::Tensor& gradient : held_) gradient.mul_(factor);
}

absl::StatusOr<std::shared_ptr<Flow>> OnCpu(std::shared_ptr<Flow> flow) {
  if (flow->device().is_cpu()) return flow;
  BFLOW_ASSIGN_OR_RETURN(std::shared_ptr<Flow> copy,
                         Flow::Create(flow->spec(), /*seed=*/0, flow->dtype()));
  const c10::NoGradGuard no_grad;
  const auto from = flow->NamedTensors(), to = copy->NamedTensors();
  for (size_t i = 0; i < from.size(); ++i) to[i].second.copy_(from[i].second);
  return copy;
}

}  // namespace bflow
