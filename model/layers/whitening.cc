#include "model/layers/whitening.h"

#include <string>
#include <utility>

#include "ATen/ops/zeros.h"
#include "c10/core/GradMode.h"
#include "model/ops/whitening.h"

namespace bflow {

WhiteningLayer::WhiteningLayer(int64_t channels, int64_t order, at::ScalarType dtype)
    : dtype_(dtype) {
  const int64_t head = order * channels;
  const std::vector<std::pair<std::string, std::vector<int64_t>>> shapes = {
      {"lags", {channels, channels, order}},
      {"instantaneous", {channels, channels}},
      {"bias", {channels}},
      {"log_scale", {channels}},
      {"head_weight", {head, head}},
      {"head_bias", {head}},
      {"head_log_scale", {head}}};
  for (const auto& [name, shape] : shapes) {
    buffers_.push_back(register_buffer(name, at::zeros(shape, at::TensorOptions(dtype))));
  }
}

std::vector<at::Tensor> WhiteningLayer::Map() const {
  if (!frozen_map_.empty()) return frozen_map_;
  std::vector<at::Tensor> map;
  for (const at::Tensor& buffer : buffers_) map.push_back(buffer.to(at::kCPU, at::kDouble));
  return map;
}

Transformed WhiteningLayer::Apply(const at::Tensor& x, bool inverse) const {
  auto [y, log_det] = whitening(x.to(at::kCPU, at::kDouble), Map(), inverse);
  return {y.to(x.device(), inverse ? at::kDouble : dtype_),
          log_det.to(x.device()).expand({x.size(0)})};
}

Transformed WhiteningLayer::Forward(const at::Tensor& x) { return Apply(x, /*inverse=*/false); }

Transformed WhiteningLayer::Inverse(const at::Tensor& z) { return Apply(z, /*inverse=*/true); }

void WhiteningLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_map_ = Map();
}

}  // namespace bflow
