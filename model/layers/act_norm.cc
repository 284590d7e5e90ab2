#include "model/layers/act_norm.h"

#include <tuple>

#include "ATen/ops/mean.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/std.h"
#include "ATen/ops/zeros.h"
#include "c10/core/GradMode.h"
#include "model/ops/act_norm.h"

namespace bflow {

ActNormLayer::ActNormLayer(int64_t channels, bool is_image, at::Generator& generator,
                           at::ScalarType dtype)
    : is_image_(is_image) {
  const at::Tensor start = at::randn({channels}, generator, at::kDouble) * 0.05;
  log_scale_ = register_parameter("log_scale", start.to(dtype));
  bias_ = register_parameter("bias", at::zeros({channels}, dtype));
}

at::Tensor ActNormLayer::PerChannel(const at::Tensor& values) const {
  return is_image_ ? values.view({-1, 1, 1}) : values;
}

int64_t ActNormLayer::Positions(const at::Tensor& x) const {
  return is_image_ ? x.size(2) * x.size(3) : x.size(1);
}

Transformed ActNormLayer::Forward(const at::Tensor& x) {
  at::Tensor y, log_det;
  if (is_image_) {
    y = x * PerChannel(log_scale_.exp()) + PerChannel(bias_);
    log_det = log_scale_.sum(at::kDouble) * Positions(x);
  } else {
    std::tie(y, log_det) = act_norm(x, log_scale_, bias_);
  }
  if (frozen_log_det_.defined()) log_det = frozen_log_det_ * Positions(x);
  return {y, log_det.expand({x.size(0)})};
}

Transformed ActNormLayer::Inverse(const at::Tensor& z) {
  const at::Tensor log_det =
      (frozen_log_det_.defined() ? frozen_log_det_ : log_scale_.sum(at::kDouble)) * -Positions(z);
  return {(z - PerChannel(bias_)) * PerChannel((-log_scale_).exp()), log_det.expand({z.size(0)})};
}

void ActNormLayer::InitialiseFrom(const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  const at::Tensor value = Forward(x).value;
  const at::Tensor rows =  // [positions of all, C]
      is_image_ ? value.permute({0, 2, 3, 1}).flatten(0, 2) : value.flatten(0, 1);
  const at::Tensor y = rows.to(at::kDouble);
  at::Tensor centre, scale;
  if (robust_) {
    const at::Tensor by_row = y.view({x.size(0), -1, y.size(1)});
    centre = std::get<0>(std::get<0>(by_row.median(1)).median(0));
    scale = ((y - centre).abs().mean(0) * 1.25).clamp_min(1e-6);
  } else {
    centre = y.mean(0);
    scale = at::std(y, /*dim=*/at::IntArrayRef{0}, /*unbiased=*/true) + 1e-6;
  }
  const at::Tensor bias = (bias_.to(at::kDouble) - centre) / scale;
  log_scale_.copy_(log_scale_.to(at::kDouble) - scale.log());
  bias_.copy_(bias);
}

void ActNormLayer::StartNearIdentity(int64_t /*block*/) {
  const c10::NoGradGuard no_grad;
  log_scale_.zero_();
  bias_.zero_();
  robust_ = true;
}

void ActNormLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_log_det_ = log_scale_.to(at::kDouble).sum();
}

}  // namespace bflow
