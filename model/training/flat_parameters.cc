#include "model/training/flat_parameters.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "ATen/ops/_foreach_copy.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/zeros.h"
#include "base/status.h"
#include "c10/core/GradMode.h"

namespace bflow {
namespace {

constexpr int64_t kAlignedFloats = 16;

int64_t Padded(int64_t size) {
  return (size + kAlignedFloats - 1) / kAlignedFloats * kAlignedFloats;
}

// All values of `tensors` in host memory, one after the other.
std::vector<float> Pack(const std::vector<at::Tensor>& tensors) {
  if (tensors.empty()) return {};
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors) flat.push_back(tensor.detach().reshape({-1}));
  const at::Tensor packed = at::cat(flat).cpu();
  return {packed.const_data_ptr<float>(), packed.const_data_ptr<float>() + packed.numel()};
}

void Unpack(std::span<const float> packed, const std::vector<at::Tensor>& tensors) {
  const c10::NoGradGuard no_grad;
  size_t next = 0;
  for (const at::Tensor& tensor : tensors) {
    const size_t size = static_cast<size_t>(tensor.numel());
    TORCH_CHECK(next + size <= packed.size(), "as many values as the parameters have");
    const at::Tensor of_tensor = at::from_blob(const_cast<float*>(packed.data()) + next,
                                               tensor.sizes(), at::TensorOptions(at::kFloat));
    tensor.copy_(of_tensor);
    next += size;
  }
}

}  // namespace

FlatParameters::FlatParameters(std::vector<at::Tensor> tensors) : tensors_(std::move(tensors)) {
  int64_t size = 0;
  for (const at::Tensor& tensor : tensors_) {
    TORCH_CHECK(tensor.scalar_type() == at::kFloat, "parameters are float");
    size += Padded(tensor.numel());
  }
  const at::Device device = tensors_.empty() ? at::kCPU : tensors_.front().device();
  values_ = at::zeros({size}, at::TensorOptions(at::kFloat).device(device));
  const std::vector<at::Tensor> views = Views(values_);
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    views[i].copy_(tensors_[i]);
    tensors_[i].set_data(views[i]);
  }
}

std::vector<at::Tensor> FlatParameters::Views(const at::Tensor& flat) const {
  std::vector<at::Tensor> views;
  views.reserve(tensors_.size());
  int64_t next = 0;
  for (const at::Tensor& tensor : tensors_) {
    views.push_back(flat.narrow(0, next, tensor.numel()).view(tensor.sizes()));
    next += Padded(tensor.numel());
  }
  return views;
}

at::Tensor FlatParameters::Gather(const std::vector<at::Tensor>& like) const {
  at::Tensor flat = at::zeros_like(values_);
  if (!tensors_.empty()) at::_foreach_copy_(Views(flat), like);
  return flat;
}

std::vector<float> FlatParameters::ToHost(const at::Tensor& flat) const {
  return Pack(Views(flat));
}

at::Tensor FlatParameters::FromHost(std::span<const float> packed) const {
  at::Tensor flat = at::zeros_like(values_);
  Unpack(packed, Views(flat));
  return flat;
}

size_t FlatParameters::packed_size() const {
  size_t size = 0;
  for (const at::Tensor& tensor : tensors_) size += static_cast<size_t>(tensor.numel());
  return size;
}

std::vector<float> ParameterValues(const Flow& flow) { return Pack(flow.parameters()); }

void SetParameterValues(std::span<const float> values, const Flow& flow) {
  Unpack(values, flow.parameters());
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
