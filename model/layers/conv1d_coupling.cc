#include "model/layers/conv1d_coupling.h"

#include <array>
#include <cmath>
#include <memory>
#include <string>

#include "ATen/ops/rand.h"
#include "ATen/ops/zeros.h"
#include "model/ops/conv1d_coupling.h"

namespace bflow {

Conv1dCouplingLayer::Conv1dCouplingLayer(const Conv1dCouplingSpec& spec, int64_t channels,
                                         at::Generator& generator, at::ScalarType dtype)
    : dilation_(spec.dilation) {
  const std::array<int64_t, 4> widths = {channels / 2, spec.hidden, spec.hidden, channels};
  const std::array<int64_t, 3> taps = {spec.kernel, spec.kernel, 1};
  auto net = register_module("net", std::make_shared<torch::nn::Module>("net"));
  for (size_t n = 0; n < taps.size(); ++n) {
    const std::string name = std::to_string(n);
    auto module = net->register_module(name, std::make_shared<torch::nn::Module>(name));
    const std::array<int64_t, 3> shape = {widths[n + 1], widths[n], taps[n]};
    const bool last = n + 1 == taps.size();
    const double bound = last ? 0 : 1 / std::sqrt(static_cast<double>(widths[n] * taps[n]));
    const auto start = [&](at::IntArrayRef sizes) {
      return ((at::rand(sizes, generator, at::kDouble) * 2 - 1) * bound).to(dtype);
    };
    net_.push_back(module->register_parameter("weight", start(shape)));
    net_.push_back(module->register_parameter("bias", start({shape[0]})));
  }
}

Transformed Conv1dCouplingLayer::Apply(const at::Tensor& x, bool inverse) const {
  // Only the CPU has a kernel of its own.
  auto [y, log_det] = x.is_cpu() ? conv1d_coupling(x, net_, dilation_, inverse)
                                 : Conv1dCouplingReference(x, net_, dilation_, inverse);
  return {y, log_det};
}

Transformed Conv1dCouplingLayer::Forward(const at::Tensor& x) {
  return Apply(x, /*inverse=*/false);
}

Transformed Conv1dCouplingLayer::Inverse(const at::Tensor& z) { return Apply(z, /*inverse=*/true); }

}  // namespace bflow
