#include "model/layers/act_norm.h"

#include "ATen/ops/mean.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/std.h"
#include "ATen/ops/zeros.h"
#include "c10/core/GradMode.h"
#include "model/ops/act_norm.h"

namespace bflow {

ActNormLayer::ActNormLayer(int64_t channels, at::Generator& generator, at::ScalarType dtype) {
  const at::Tensor start = at::randn({channels}, generator, at::kDouble) * 0.05;
  log_scale_ = register_parameter("log_scale", start.to(dtype));
  bias_ = register_parameter("bias", at::zeros({channels}, dtype));
}

Transformed ActNormLayer::Forward(const at::Tensor& x) {
  auto [y, log_det] = act_norm(x, log_scale_, bias_);
  if (frozen_log_det_.defined()) log_det = frozen_log_det_ * x.size(1);
  return {y, log_det.expand({x.size(0)})};
}

Transformed ActNormLayer::Inverse(const at::Tensor& z) {
  const at::Tensor log_det =
      (frozen_log_det_.defined() ? frozen_log_det_ : log_scale_.sum()) * -z.size(1);
  return {(z - bias_) * (-log_scale_).exp(), log_det.expand({z.size(0)})};
}

void ActNormLayer::InitialiseFrom(const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  const at::Tensor y = Forward(x).value.flatten(0, 1).to(at::kDouble);
  const at::Tensor scale = at::std(y, /*dim=*/at::IntArrayRef{0}, /*unbiased=*/true) + 1e-6;
  const at::Tensor bias = (bias_.to(at::kDouble) - y.mean(0)) / scale;
  log_scale_.copy_(log_scale_.to(at::kDouble) - scale.log());
  bias_.copy_(bias);
}

void ActNormLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_log_det_ = log_scale_.to(at::kDouble).sum();
}

}  // namespace bflow
