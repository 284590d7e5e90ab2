#include "model/layers/emerging_conv.h"

#include <memory>
#include <string>
#include <vector>

#include "ATen/ops/conv2d.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/flip.h"
#include "ATen/ops/linalg_solve_triangular.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros.h"

namespace bflow {

EmergingConvLayer::EmergingConvLayer(int64_t channels, int64_t kernel, at::Generator& generator,
                                     at::ScalarType dtype)
    : kernel_(kernel) {
  const int64_t centre = kernel / 2;
  at::Tensor before = at::zeros({channels, channels, kernel * kernel}, dtype);
  before.narrow(2, 0, centre * kernel + centre).fill_(1);
  before.select(2, centre * kernel + centre).copy_(at::ones({channels, channels}, dtype).tril(-1));
  before = before.view({channels, channels, kernel, kernel});
  for (size_t n = 0; n < 2; ++n) {
    const std::string name = std::to_string(n);
    auto module = register_module(name, std::make_shared<torch::nn::Module>(name));
    const at::Tensor start =
        at::randn({channels, channels, kernel, kernel}, generator, at::kDouble) * 0.01;
    Half& half = halves_[n];
    half.weight = module->register_parameter("weight", start.to(dtype));
    half.log_diagonal = module->register_parameter("log_diagonal", at::zeros({channels}, dtype));
    // Turned by half a circle and with the channels in the opposite order, "before" is "after".
    half.mask = n == 0 ? before : at::flip(before, {0, 1, 2, 3});
  }
}

at::Tensor EmergingConvLayer::Kernel(const Half& half) const {
  const int64_t centre = kernel_ / 2;
  at::Tensor at_centre = at::zeros({kernel_, kernel_}, half.weight.options());
  at_centre[centre][centre].fill_(1);
  const at::Tensor diagonal = at::diag_embed(half.log_diagonal.exp());
  return half.weight * half.mask.to(half.weight.device()) +
         diagonal.view({diagonal.size(0), diagonal.size(1), 1, 1}) * at_centre;
}

at::Tensor EmergingConvLayer::LogDet(const at::Tensor& x) const {
  at::Tensor sum = halves_[0].log_diagonal.sum(at::kDouble);
  sum = sum + halves_[1].log_diagonal.sum(at::kDouble);
  return (sum * (x.size(2) * x.size(3))).expand({x.size(0)});
}

Transformed EmergingConvLayer::Forward(const at::Tensor& x) {
  at::Tensor y = x;
  for (const Half& half : halves_) {
    y = at::conv2d(y, Kernel(half), {}, /*stride=*/1, /*padding=*/kernel_ / 2);
  }
  return {y, LogDet(x)};
}

// The pixels in the order in which they depend on each other: what is known is subtracted, the rest
// is a triangular system of the channels.
at::Tensor EmergingConvLayer::Solve(const Half& half, const at::Tensor& z, bool backwards) const {
  const at::Tensor kernel = Kernel(half);
  const int64_t height = z.size(2), width = z.size(3), centre = kernel_ / 2;
  const at::Tensor own = kernel.select(3, centre).select(2, centre);    // [C, C], triangular
  std::vector<at::Tensor> pixels(static_cast<size_t>(height * width));  // [C, B] each
  for (int64_t i = 0; i < height * width; ++i) {
    const int64_t p = backwards ? height * width - 1 - i : i;
    const int64_t h = p / width, w = p % width;
    at::Tensor rest = z.select(3, w).select(2, h).t();
    for (int64_t kh = 0; kh < kernel_; ++kh) {
      for (int64_t kw = 0; kw < kernel_; ++kw) {
        const int64_t from_h = h + kh - centre, from_w = w + kw - centre;
        const bool inside = from_h >= 0 && from_h < height && from_w >= 0 && from_w < width;
        const int64_t from = from_h * width + from_w;
        if (!inside || from == p || (from > p) != backwards) continue;
        rest = rest -
               at::matmul(kernel.select(3, kw).select(2, kh), pixels[static_cast<size_t>(from)]);
      }
    }
    pixels[static_cast<size_t>(p)] = at::linalg_solve_triangular(own, rest, /*upper=*/backwards);
  }
  // [HW, C, B] -> [B, C, H, W]
  return at::stack(pixels).permute({2, 1, 0}).reshape(z.sizes());
}

Transformed EmergingConvLayer::Inverse(const at::Tensor& z) {
  const at::Tensor middle = Solve(halves_[1], z, /*backwards=*/true);
  return {Solve(halves_[0], middle, /*backwards=*/false), -LogDet(z)};
}

}  // namespace bflow
