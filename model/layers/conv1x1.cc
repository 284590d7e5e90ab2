#include "model/layers/conv1x1.h"

#include <map>
#include <tuple>
#include <utility>

#include "ATen/ops/linalg_inv.h"
#include "ATen/ops/linalg_slogdet.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/stack.h"
#include "c10/core/GradMode.h"
#include "model/layers/initialise.h"

namespace bflow {
namespace {

// matrix [C, C] times every position of x [B, C, H, W].
at::Tensor AtEveryPosition(const at::Tensor& matrix, const at::Tensor& x) {
  return at::matmul(matrix, x.flatten(2)).reshape(x.sizes());
}

// Of a matrix, or of each matrix [N, C, C].
at::Tensor LogAbsDet(const at::Tensor& matrix) {
  return std::get<1>(at::linalg_slogdet(matrix.to(at::kDouble)));
}

}  // namespace

Conv1x1Layer::Conv1x1Layer(int64_t channels, at::Generator& generator, at::ScalarType dtype) {
  weight_ = register_parameter("weight", RandomOrthogonal(channels, channels, generator).to(dtype));
}

Conv1x1Layer::SharedLogDets::SharedLogDets(const std::vector<Conv1x1Layer*>& layers)
    : layers_(layers) {
  std::map<int64_t, std::vector<Conv1x1Layer*>> by_size;
  for (Conv1x1Layer* layer : layers_) by_size[layer->weight_.size(0)].push_back(layer);
  std::vector<std::pair<Conv1x1Layer*, at::Tensor>> found;
  for (const auto& [size, alike] : by_size) {
    std::vector<at::Tensor> weights;
    for (const Conv1x1Layer* layer : alike) weights.push_back(layer->weight_);
    const std::vector<at::Tensor> log_dets = LogAbsDet(at::stack(weights)).unbind();
    for (size_t i = 0; i < alike.size(); ++i) found.emplace_back(alike[i], log_dets[i]);
  }
  // Last, as no destructor takes back what a constructor that throws has handed out.
  for (auto& [layer, log_det] : found) layer->shared_log_det_ = std::move(log_det);
}

Conv1x1Layer::SharedLogDets::~SharedLogDets() {
  for (Conv1x1Layer* layer : layers_) layer->shared_log_det_.reset();
}

at::Tensor Conv1x1Layer::LogDet() const {
  if (frozen_log_det_.defined()) return frozen_log_det_;
  return shared_log_det_.defined() ? shared_log_det_ : LogAbsDet(weight_);
}

Transformed Conv1x1Layer::Forward(const at::Tensor& x) {
  return {AtEveryPosition(weight_, x), (LogDet() * (x.size(2) * x.size(3))).expand({x.size(0)})};
}

Transformed Conv1x1Layer::Inverse(const at::Tensor& z) {
  const at::Tensor inverse = frozen_inverse_.defined()
                                 ? frozen_inverse_
                                 : at::linalg_inv(weight_.to(at::kDouble)).to(z.scalar_type());
  return {AtEveryPosition(inverse, z), (LogDet() * -(z.size(2) * z.size(3))).expand({z.size(0)})};
}

void Conv1x1Layer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_inverse_ = at::linalg_inv(weight_.to(at::kDouble)).to(weight_.scalar_type());
  frozen_log_det_ = LogAbsDet(weight_);
}

}  // namespace bflow
