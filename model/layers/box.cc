#include "model/layers/box.h"

#include <cmath>
#include <memory>
#include <string>

#include "ATen/ops/rand.h"
#include "ATen/ops/zeros.h"
#include "c10/core/GradMode.h"
#include "model/layers/whitening.h"

namespace bflow {
namespace {

constexpr double kBlockGain = 0.3;
constexpr double kHeadGain = 0.05;

std::shared_ptr<torch::nn::Module> Child(torch::nn::Module& parent, const std::string& name) {
  return parent.register_module(name, std::make_shared<torch::nn::Module>(name));
}

std::vector<at::Tensor> OnHost(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> on_host;
  for (const at::Tensor& tensor : tensors) {
    on_host.push_back(tensor.detach().to(at::kCPU, at::kDouble));
  }
  return on_host;
}

}  // namespace

BoxLayer::BoxLayer(const BoxSpec& spec, const LevelShape& shape, at::Generator& generator,
                   at::ScalarType dtype)
    : grid_(shape),
      dtype_(dtype),
      adaptive_(spec.adaptive),
      dilations_(spec.dilations.begin(), spec.dilations.end()) {
  const int64_t channels = shape.channels, width = spec.width;
  map_ = RegisterWhiteningBuffers(*Child(*this, "whitening"), channels, spec.order, dtype);
  mean_ = register_buffer("mean", at::zeros({channels}, dtype));
  log_deviation_ = register_buffer("log_deviation", at::zeros({channels}, dtype));
  AddConvolution(*this, "trunk", {width, 3 * channels + 1, spec.kernel}, 1, 1, generator);
  auto blocks = Child(*this, "blocks");
  for (size_t n = 0; n < spec.dilations.size(); ++n) {
    auto block = Child(*blocks, std::to_string(n));
    AddConvolution(*block, "0", {width, width, 3}, 1, 1, generator);
    AddConvolution(*block, "1", {width, width, 1}, kBlockGain, 1, generator);
  }
  auto heads = Child(*this, "heads");
  for (int64_t c = 0; c < channels; ++c) {
    auto of_channel = Child(*heads, std::to_string(c));
    AddConvolution(*of_channel, "0", {width, width + 2 + 2 * c, 1}, 1, 1, generator);
    AddConvolution(*of_channel, "1", {kBoxOutputs, width, 1}, kHeadGain, 0, generator);
  }
}

void BoxLayer::AddConvolution(torch::nn::Module& parent, const std::string& name,
                              at::IntArrayRef shape, double gain, double bias_gain,
                              at::Generator& generator) {
  auto module = Child(parent, name);
  const double bound = 1 / std::sqrt(static_cast<double>(shape[1] * shape[2]));
  const auto start = [&](at::IntArrayRef sizes, double by) {
    return ((at::rand(sizes, generator, at::kDouble) * 2 - 1) * (bound * by)).to(dtype_);
  };
  net_.push_back(module->register_parameter("weight", start(shape, gain)));
  net_.push_back(module->register_parameter("bias", start({shape[0]}, bias_gain)));
}

BoxLayer::Fixed BoxLayer::MakeFixed(bool with_net) const {
  if (!frozen_.net.empty()) return frozen_;
  const c10::NoGradGuard no_grad;
  const std::vector<at::Tensor> moments = OnHost({mean_, log_deviation_});
  return {{OnHost(map_), moments[0], moments[1], adaptive_},
          with_net ? OnHost(net_) : std::vector<at::Tensor>()};
}

double BoxLayer::LogSteps(const at::Tensor& x) const {
  return static_cast<double>(x.size(1)) * grid_.scale().log().sum().item<double>();
}

Transformed BoxLayer::Forward(const at::Tensor& x) {
  const CodePosition position = grid_.Split(x.to(at::kCPU));
  const Fixed fixed = MakeFixed(/*with_net=*/false);
  const BoxContext context = MakeBoxContext(position.index, fixed.fit);
  const auto to_net = [&](const at::Tensor& t) { return t.to(x.device(), dtype_); };
  const at::Tensor features = to_net(context.features), heads = to_net(context.heads);
  // Only the CPU has kernels of its own.
  const at::Tensor raw = x.is_cpu() ? box_net(features, heads, net_, dilations_)
                                    : BoxNetReference(features, heads, net_, dilations_);
  auto [z, log_det, share] =
      box_cells(raw.to(at::kCPU, at::kDouble), context.frame, position.noise);
  return {z.to(x.device()), (log_det + LogSteps(x)).to(x.device())};
}

Transformed BoxLayer::Inverse(const at::Tensor& z) {
  const c10::NoGradGuard no_grad;
  const Fixed fixed = MakeFixed(/*with_net=*/true);
  const BoxCodes back = BoxInverse(z.to(at::kCPU, at::kDouble), fixed.fit, fixed.net, dilations_);
  return {grid_.Join({back.codes, back.u}).to(z.device()),
          (back.log_det - LogSteps(z)).to(z.device())};
}

void BoxLayer::Freeze() { frozen_ = MakeFixed(/*with_net=*/true); }

}  // namespace bflow
