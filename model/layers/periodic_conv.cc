#include "model/layers/periodic_conv.h"

#include <numbers>
#include <tuple>

#include "ATen/ops/arange.h"
#include "ATen/ops/conv2d.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/linalg_slogdet.h"
#include "ATen/ops/linalg_solve.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/outer.h"
#include "ATen/ops/pad.h"
#include "ATen/ops/polar.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/real.h"
#include "c10/core/GradMode.h"

namespace bflow {
namespace {

// exp(i sign 2 pi u t / n) for u = 0 .. n-1 and each t: [n, t], complex128. As a matrix product the
// transform needs no FFT library, and the images are small.
at::Tensor Waves(int64_t n, const at::Tensor& t, double sign) {
  const at::Tensor u = at::arange(n, t.options());
  const at::Tensor angle = at::outer(u, t) * (sign * 2 * std::numbers::pi / static_cast<double>(n));
  return at::polar(at::ones_like(angle), angle);
}

// Both dimensions of x [..., H, W] complex.
at::Tensor Transform(const at::Tensor& x, double sign) {
  const auto options = at::TensorOptions(at::kDouble).device(x.device());
  const int64_t height = x.size(-2), width = x.size(-1);
  const at::Tensor rows = Waves(height, at::arange(height, options), sign);
  const at::Tensor columns = Waves(width, at::arange(width, options), sign);
  return at::matmul(at::matmul(rows, x), columns.t());
}

}  // namespace

PeriodicConvLayer::PeriodicConvLayer(const LevelShape& shape, int64_t kernel,
                                     at::Generator& generator, at::ScalarType dtype)
    : kernel_(kernel), height_(shape.height), width_(shape.width) {
  const int64_t c = shape.channels, centre = kernel / 2;
  at::Tensor start = at::randn({c, c, kernel, kernel}, generator, at::kDouble) * 0.01;
  start.select(3, centre).select(2, centre).add_(at::eye(c, at::kDouble));
  weight_ = register_parameter("weight", start.to(dtype));
}

Transformed PeriodicConvLayer::Forward(const at::Tensor& x) {
  const int64_t reach = kernel_ / 2;
  const at::Tensor padded = at::pad(x, {reach, reach, reach, reach}, "circular");
  const at::Tensor log_det = frozen_log_det_.defined() ? frozen_log_det_ : LogDet();
  return {at::conv2d(padded, weight_), log_det.expand({x.size(0)})};
}

// y[h] = sum_k weight[k] x[h + k - reach] has the spectrum sum_k weight[k] exp(+2 pi i u (k -
// reach) / n) where x has exp(-2 pi i u h / n).
at::Tensor PeriodicConvLayer::Spectrum() const {
  const auto options = at::TensorOptions(at::kDouble).device(weight_.device());
  const at::Tensor offset = at::arange(kernel_, options) - static_cast<double>(kernel_ / 2);
  const at::Tensor weight = weight_.to(at::kComplexDouble);
  const at::Tensor of_columns = at::matmul(weight, Waves(width_, offset, 1).t());  // [C, C, k, W]
  const at::Tensor both = at::matmul(Waves(height_, offset, 1), of_columns);       // [C, C, H, W]
  return both.permute({2, 3, 0, 1});
}

at::Tensor PeriodicConvLayer::LogDet() const {
  return std::get<1>(at::linalg_slogdet(Spectrum())).sum();
}

Transformed PeriodicConvLayer::Inverse(const at::Tensor& z) {
  const at::Tensor spectrum = Transform(z.to(at::kComplexDouble), -1).permute({2, 3, 1, 0});
  const at::Tensor solved = at::linalg_solve(Spectrum(), spectrum);  // [H, W, C, B]
  const at::Tensor x = Transform(solved.permute({3, 2, 0, 1}), 1);
  const at::Tensor log_det = frozen_log_det_.defined() ? frozen_log_det_ : LogDet();
  return {(at::real(x) / static_cast<double>(height_ * width_)).to(z.scalar_type()),
          (-log_det).expand({z.size(0)})};
}

void PeriodicConvLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_log_det_ = LogDet();
}

}  // namespace bflow
