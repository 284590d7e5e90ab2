#include "model/layers/conv2d_coupling.h"

#include <memory>
#include <string>

#include "ATen/ops/_weight_norm.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/conv2d.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/std.h"
#include "ATen/ops/zeros.h"
#include "c10/core/GradMode.h"

namespace bflow {
namespace {

at::Tensor DirectionNorms(const at::Tensor& direction) {
  return direction.flatten(1).square().sum(1).sqrt();
}

}  // namespace

Conv2dCouplingLayer::Conv2dCouplingLayer(int64_t channels, int64_t hidden, at::Generator& generator,
                                         at::ScalarType dtype)
    : channels_(channels) {
  const int64_t half = channels / 2;
  const std::array<int64_t, 4> widths = {channels - half, hidden, hidden, 2 * half};
  const std::array<int64_t, 3> kernels = {3, 1, 3};
  auto net = register_module("net", std::make_shared<torch::nn::Module>("net"));
  for (size_t n = 0; n < net_.size(); ++n) {
    const std::string name = std::to_string(n);
    auto module = net->register_module(name, std::make_shared<torch::nn::Module>(name));
    const at::Tensor direction =
        at::randn({widths[n + 1], widths[n], kernels[n], kernels[n]}, generator, at::kDouble) *
        0.05;
    const at::Tensor gain = DirectionNorms(direction);  // before direction may want a gradient
    Convolution& convolution = net_[n];
    convolution.direction = module->register_parameter("direction", direction.to(dtype));
    convolution.gain = module->register_parameter("gain", gain.to(dtype));
    convolution.bias = module->register_parameter("bias", at::zeros({widths[n + 1]}, dtype));
    convolution.padding = kernels[n] / 2;
  }
}

at::Tensor Conv2dCouplingLayer::Weight(const Convolution& c) {
  if (c.frozen_weight.defined()) return c.frozen_weight;
  return at::_weight_norm(c.direction, c.gain.view({-1, 1, 1, 1}), 0);
}

std::array<at::Tensor, 2> Conv2dCouplingLayer::Net(const at::Tensor& z1) const {
  // Channels last is the order in which the convolutions of both devices are fastest.
  at::Tensor h = z1.contiguous(at::MemoryFormat::ChannelsLast);
  const at::ScalarType outside = z1.scalar_type();
  const at::ScalarType inside = bfloat16_ ? at::kBFloat16 : outside;
  for (size_t n = 0; n < net_.size(); ++n) {
    if (n > 0) h = at::elu(h);
    h = at::conv2d(h.to(inside), Weight(net_[n]).to(inside), net_[n].bias.to(inside), /*stride=*/1,
                   net_[n].padding)
            .to(outside);
  }
  const int64_t half = channels_ / 2;
  return {h.narrow(1, 0, half), h.narrow(1, half, half)};
}

Transformed Conv2dCouplingLayer::Forward(const at::Tensor& x) {
  const int64_t half = channels_ / 2;
  const at::Tensor z1 = x.narrow(1, 0, channels_ - half);
  const auto [mu, s] = Net(z1);
  const at::Tensor z2 = x.narrow(1, channels_ - half, half) * at::sigmoid(s + 2) + mu;
  return {at::cat({z1, z2}, 1), at::log_sigmoid(s + 2).flatten(1).sum(1, false, at::kDouble)};
}

Transformed Conv2dCouplingLayer::Inverse(const at::Tensor& z) {
  const int64_t half = channels_ / 2;
  const at::Tensor z1 = z.narrow(1, 0, channels_ - half);
  const auto [mu, s] = Net(z1);
  // 1 / sigmoid(a) = 1 + exp(-a)
  const at::Tensor x2 = (z.narrow(1, channels_ - half, half) - mu) * (1 + (-2 - s).exp());
  return {at::cat({z1, x2}, 1), -at::log_sigmoid(s + 2).flatten(1).sum(1, false, at::kDouble)};
}

void Conv2dCouplingLayer::InitialiseFrom(const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  at::Tensor h = x.narrow(1, 0, channels_ - channels_ / 2);
  for (size_t n = 0; n + 1 < net_.size(); ++n) {
    Convolution& c = net_[n];
    // In place where it can be: the batch is large, and hidden is often 512.
    at::Tensor y = at::conv2d(h, Weight(c), c.bias, /*stride=*/1, c.padding).to(at::kDouble);
    const at::Tensor mean = y.mean(at::IntArrayRef({0, 2, 3}));
    const at::Tensor scale = at::std(y, at::IntArrayRef({0, 2, 3}), /*unbiased=*/true) + 1e-6;
    c.gain.copy_(c.gain.to(at::kDouble) / scale);
    c.bias.copy_((c.bias.to(at::kDouble) - mean) / scale);
    y.sub_(mean.view({1, -1, 1, 1})).div_(scale.view({1, -1, 1, 1}));
    h = y.to(x.scalar_type());
    y.reset();
    h = at::elu(h);
  }
  net_.back().gain.zero_();
  net_.back().bias.zero_();
}

void Conv2dCouplingLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  for (Convolution& c : net_) {
    const Convolution exact = {c.direction.to(at::kDouble), c.gain.to(at::kDouble), {}, {}, 0};
    c.frozen_weight =
        Weight(exact).to(c.direction.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
  }
}

}  // namespace bflow
