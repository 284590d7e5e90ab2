#include "model/layers/affine_coupling.h"

#include <array>
#include <memory>
#include <string>

#include "ATen/ops/zeros.h"
#include "model/layers/initialise.h"
#include "model/ops/affine_coupling.h"

namespace bflow {
namespace {

// Registers layers 0, 1, 2 of an MLP under `name`; their weights and biases in order.
std::vector<at::Tensor> RegisterNet(torch::nn::Module& parent, const std::string& name,
                                    const std::array<int64_t, 4>& widths, at::Generator& generator,
                                    at::ScalarType dtype) {
  const auto child = [](torch::nn::Module& of, const std::string& child_name) {
    return of.register_module(child_name, std::make_shared<torch::nn::Module>(child_name));
  };
  auto net = child(parent, name);
  std::vector<at::Tensor> tensors;
  for (size_t n = 0; n < 3; ++n) {
    auto linear = child(*net, std::to_string(n));
    const at::Tensor weight = RandomOrthogonal(widths[n + 1], widths[n], generator);
    tensors.push_back(linear->register_parameter("weight", weight.to(dtype)));
    tensors.push_back(linear->register_parameter("bias", at::zeros({widths[n + 1]}, dtype)));
  }
  return tensors;
}

}  // namespace

AffineCouplingLayer::AffineCouplingLayer(int64_t channels, int64_t hidden, at::Generator& generator,
                                         at::ScalarType dtype) {
  const std::array<int64_t, 4> widths = {channels / 2, hidden, hidden, channels / 2};
  scale_net_ = RegisterNet(*this, "scale_net", widths, generator, dtype);
  shift_net_ = RegisterNet(*this, "shift_net", widths, generator, dtype);
}

Transformed AffineCouplingLayer::Forward(const at::Tensor& x) {
  auto [y, log_det] = affine_coupling(x, scale_net_, shift_net_, /*inverse=*/false);
  return {y, log_det};
}

Transformed AffineCouplingLayer::Inverse(const at::Tensor& z) {
  auto [x, log_det] = affine_coupling(z, scale_net_, shift_net_, /*inverse=*/true);
  return {x, log_det};
}

}  // namespace bflow
