#include "model/layers/whitening.h"

#include <string>
#include <utility>

#include "ATen/ops/zeros.h"
#include "c10/core/GradMode.h"
#include "model/ops/whitening.h"

namespace bflow {

std::vector<at::Tensor> RegisterWhiteningBuffers(torch::nn::Module& module, int64_t channels,
                                                 int64_t order, at::ScalarType dtype) {
  const int64_t head = order * channels;
  const std::vector<std::pair<std::string, std::vector<int64_t>>> shapes = {
      {"lags", {channels, channels, order}},
      {"instantaneous", {channels, channels}},
      {"bias", {channels}},
      {"log_scale", {channels}},
      {"head_weight", {head, head}},
      {"head_bias", {head}},
      {"head_log_scale", {head}}};
  std::vector<at::Tensor> buffers;
  for (const auto& [name, shape] : shapes) {
    buffers.push_back(module.register_buffer(name, at::zeros(shape, at::TensorOptions(dtype))));
  }
  return buffers;
}

WhiteningLayer::WhiteningLayer(int64_t channels, int64_t order, at::ScalarType dtype)
    : dtype_(dtype), buffers_(RegisterWhiteningBuffers(*this, channels, order, dtype)) {}

std::vector<at::Tensor> WhiteningLayer::Map() const {
  if (!frozen_map_.empty()) return frozen_map_;
  std::vector<at::Tensor> map;
  for (const at::Tensor& buffer : buffers_) map.push_back(buffer.to(at::kDouble));
  return map;
}

Transformed WhiteningLayer::Forward(const at::Tensor& x) {
  // Only the CPU has a kernel of its own.
  const auto [y, log_det] = x.is_cpu()
                                ? whitening(x.to(at::kDouble), Map(), /*inverse=*/false)
                                : WhiteningReference(x.to(at::kDouble), Map(), /*inverse=*/false);
  return {y.to(dtype_), log_det.expand({x.size(0)})};
}

Transformed WhiteningLayer::Inverse(const at::Tensor& z) {
  std::vector<at::Tensor> map = Map();
  for (at::Tensor& tensor : map) tensor = tensor.cpu();
  const auto [x, log_det] = whitening(z.to(at::kCPU, at::kDouble), map, /*inverse=*/true);
  return {x.to(z.device()), log_det.to(z.device()).expand({z.size(0)})};
}

void WhiteningLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_map_ = Map();
}

}  // namespace bflow
