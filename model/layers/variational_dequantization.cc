#include "model/layers/variational_dequantization.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/TensorOperators.h"
#include "ATen/ops/asinh.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/conv1d.h"
#include "ATen/ops/conv2d.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"

namespace bflow {
namespace {

// Noise nearer than this to a border of its cell counts as being there: logit stays finite, and
// k + u keeps its code under rounding. Noise is drawn in multiples of 2^-24: this meets 0 alone.
constexpr double kMargin = 0x1p-26;
constexpr double kLargestLogSlope = 3;
constexpr double kShiftUnit = 4;

at::Tensor Inside(const at::Tensor& u) { return u.clamp(kMargin, 1 - kMargin); }

at::Tensor Logit(const at::Tensor& u) { return u.log() - (-u).log1p(); }

// log of the derivative of the sigmoid.
at::Tensor LogSlope(const at::Tensor& logit) {
  return at::log_sigmoid(logit) + at::log_sigmoid(-logit);
}

at::Tensor SumRows(const at::Tensor& terms) { return terms.flatten(1).sum(1); }

}  // namespace

VariationalDequantizationLayer::VariationalDequantizationLayer(
    const VariationalDequantizationSpec& spec, const LevelShape& shape, at::Generator& generator,
    at::ScalarType dtype)
    : grid_(shape), is_image_(shape.is_image), dtype_(dtype) {
  // Of its own, so that the flow behind starts as it does without the layer.
  at::Generator own = at::make_generator<at::CPUGeneratorImpl>(~generator.current_seed());
  const int64_t channels = shape.channels;
  mean_ = register_parameter("mean", at::zeros({channels}, dtype));
  log_scale_ = register_parameter("log_scale", at::zeros({channels}, dtype));
  auto net = register_module("net", std::make_shared<torch::nn::Module>("net"));
  int64_t width = is_image_ ? channels : 2 * channels;
  for (size_t n = 0; n <= spec.dilations.size(); ++n) {
    const std::string name = std::to_string(n);
    auto module = net->register_module(name, std::make_shared<torch::nn::Module>(name));
    const bool last = n == spec.dilations.size();
    const int64_t taps = last ? 1 : spec.kernel;
    std::vector<int64_t> sizes = {last ? 2 * channels : spec.hidden, width, taps};
    if (is_image_) sizes.push_back(taps);
    const int64_t seen = width * taps * (is_image_ ? taps : 1);
    const double bound = last ? 0 : 1 / std::sqrt(static_cast<double>(seen));
    const auto start = [&](at::IntArrayRef of) {
      return ((at::rand(of, own, at::kDouble) * 2 - 1) * bound).to(dtype);
    };
    Convolution& convolution = net_.emplace_back();
    convolution.weight = module->register_parameter("weight", start(sizes));
    convolution.bias = module->register_parameter("bias", start({sizes[0]}));
    convolution.dilation = last ? 1 : spec.dilations[n];
    width = sizes[0];
  }
}

at::Tensor VariationalDequantizationLayer::PerChannel(const at::Tensor& values) const {
  const at::Tensor wide = values.to(at::kDouble);
  return is_image_ ? wide.view({1, -1, 1, 1}) : wide.view({1, 1, -1});
}

at::Tensor VariationalDequantizationLayer::Features(const at::Tensor& index) const {
  const at::Tensor middle = grid_.Join({index, at::zeros_like(index) + 0.5});
  at::Tensor features = (middle - PerChannel(mean_)) * (-PerChannel(log_scale_)).exp();
  if (!is_image_) {
    const int64_t steps = index.size(1);
    const at::Tensor change = index.narrow(1, 1, steps - 1) - index.narrow(1, 0, steps - 1);
    const at::Tensor first = at::zeros_like(index.narrow(1, 0, 1));
    features = at::cat({at::asinh(2 * at::cat({first, change}, 1)), features}, 2).transpose(1, 2);
  }
  return features.to(dtype_).contiguous();
}

at::Tensor VariationalDequantizationLayer::Convolve(const at::Tensor& h, size_t n) const {
  const Convolution& c = net_[n];
  const int64_t taps = c.weight.size(2), padding = taps / 2 * c.dilation;
  if (is_image_) {
    return at::conv2d(h, c.weight, c.bias, /*stride=*/1, padding, c.dilation);
  }
  return at::conv1d(h, c.weight, c.bias, /*stride=*/1, padding, c.dilation);
}

std::array<at::Tensor, 2> VariationalDequantizationLayer::Net(const at::Tensor& index) const {
  at::Tensor h = Features(index);
  for (size_t n = 0; n < net_.size(); ++n) {
    if (n > 0) h = at::elu(h);
    h = Convolve(h, n);
  }
  h = h.to(at::kDouble);
  const int64_t channels = h.size(1) / 2;
  std::array<at::Tensor, 2> halves;
  for (int64_t i : {0, 1}) {
    const at::Tensor half = h.narrow(1, i * channels, channels);
    halves[static_cast<size_t>(i)] = (is_image_ ? half : half.transpose(1, 2)).contiguous();
  }
  return {kShiftUnit * halves[0], kLargestLogSlope * (halves[1] / kLargestLogSlope).tanh()};
}

Transformed VariationalDequantizationLayer::Together(const at::Tensor& x, bool inverse) const {
  const auto [index, noise] = grid_.Split(x);
  const auto [shift, log_slope] = Net(index);
  const at::Tensor from = Logit(Inside(noise));
  const at::Tensor to =
      inverse ? (from - shift) * (-log_slope).exp() : shift + log_slope.exp() * from;
  const at::Tensor log_det = SumRows(LogSlope(to) - LogSlope(from));
  return {grid_.Join({index, Inside(at::sigmoid(to))}),
          inverse ? log_det - SumRows(log_slope) : log_det + SumRows(log_slope)};
}

Transformed VariationalDequantizationLayer::Apply(const at::Tensor& x, bool inverse) const {
  if (is_image_ || !x.is_cpu() || x.size(0) <= 1) return Together(x, inverse);
  std::vector<at::Tensor> values, log_dets;
  for (int64_t row = 0; row < x.size(0); ++row) {
    Transformed y = Together(x.narrow(0, row, 1), inverse);
    values.push_back(std::move(y.value));
    log_dets.push_back(std::move(y.log_det));
  }
  return {at::cat(values), at::cat(log_dets)};
}

Transformed VariationalDequantizationLayer::Forward(const at::Tensor& x) {
  return Apply(x, /*inverse=*/false);
}

Transformed VariationalDequantizationLayer::Inverse(const at::Tensor& z) {
  return Apply(z, /*inverse=*/true);
}

void VariationalDequantizationLayer::InitialiseFrom(const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  const auto [index, noise] = grid_.Split(x);
  const at::Tensor codes = grid_.Join({index, at::zeros_like(index) + 0.5});
  const at::Tensor by_channel =
      is_image_ ? codes.transpose(0, 1).flatten(1) : codes.flatten(0, 1).t();
  const at::Tensor step = 1 / grid_.scale().flatten().to(x.device());
  mean_.copy_(by_channel.mean(1));
  log_scale_.copy_(by_channel.std(1, /*unbiased=*/false).maximum(step).log());
}

}  // namespace bflow
