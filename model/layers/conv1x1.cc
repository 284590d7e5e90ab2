#include "model/layers/conv1x1.h"

#include <tuple>

#include "ATen/ops/linalg_inv.h"
#include "ATen/ops/linalg_slogdet.h"
#include "ATen/ops/matmul.h"
#include "c10/core/GradMode.h"
#include "model/layers/initialise.h"

namespace bflow {
namespace {

// matrix [C, C] times every position of x [B, C, H, W].
at::Tensor AtEveryPosition(const at::Tensor& matrix, const at::Tensor& x) {
  return at::matmul(matrix, x.flatten(2)).reshape(x.sizes());
}

at::Tensor LogAbsDet(const at::Tensor& matrix) {
  return std::get<1>(at::linalg_slogdet(matrix.to(at::kDouble)));
}

}  // namespace

Conv1x1Layer::Conv1x1Layer(int64_t channels, at::Generator& generator, at::ScalarType dtype) {
  weight_ = register_parameter("weight", RandomOrthogonal(channels, channels, generator).to(dtype));
}

Transformed Conv1x1Layer::Forward(const at::Tensor& x) {
  const at::Tensor log_det = frozen_log_det_.defined() ? frozen_log_det_ : LogAbsDet(weight_);
  return {AtEveryPosition(weight_, x), (log_det * (x.size(2) * x.size(3))).expand({x.size(0)})};
}

Transformed Conv1x1Layer::Inverse(const at::Tensor& z) {
  const at::Tensor inverse = frozen_inverse_.defined()
                                 ? frozen_inverse_
                                 : at::linalg_inv(weight_.to(at::kDouble)).to(z.scalar_type());
  const at::Tensor log_det = frozen_log_det_.defined() ? frozen_log_det_ : LogAbsDet(weight_);
  return {AtEveryPosition(inverse, z), (log_det * -(z.size(2) * z.size(3))).expand({z.size(0)})};
}

void Conv1x1Layer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_inverse_ = at::linalg_inv(weight_.to(at::kDouble)).to(weight_.scalar_type());
  frozen_log_det_ = LogAbsDet(weight_);
}

}  // namespace bflow
