#include "model/layers/woodbury.h"

#include <memory>
#include <tuple>

#include "ATen/ops/eye.h"
#include "ATen/ops/linalg_slogdet.h"
#include "ATen/ops/linalg_solve.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/randn.h"

namespace bflow {
namespace {

// I + right left, [r, r] float64.
at::Tensor Core(const at::Tensor& left, const at::Tensor& right) {
  const at::Tensor product = at::matmul(right.to(at::kDouble), left.to(at::kDouble));
  return at::eye(product.size(0), product.options()) + product;
}

at::Tensor LogAbsDet(const at::Tensor& matrix) { return std::get<1>(at::linalg_slogdet(matrix)); }

// (I + left right) x for x [B, n, m].
at::Tensor Apply(const at::Tensor& left, const at::Tensor& right, const at::Tensor& x) {
  return x + at::matmul(left, at::matmul(right, x));
}

// (I + left right)^-1 y = y - left (I + right left)^-1 right y.
at::Tensor Undo(const at::Tensor& left, const at::Tensor& right, const at::Tensor& y) {
  const at::Tensor inner =
      at::linalg_solve(Core(left, right), right.to(at::kDouble)).to(y.scalar_type());
  return y - at::matmul(left, at::matmul(inner, y));
}

}  // namespace

WoodburyLayer::WoodburyLayer(const LevelShape& shape, int64_t rank, at::Generator& generator,
                             at::ScalarType dtype)
    : channel_(Register("channel", shape.channels, rank, generator, dtype)),
      spatial_(Register("spatial", shape.positions(), rank, generator, dtype)) {}

WoodburyLayer::Factors WoodburyLayer::Register(const std::string& name, int64_t size, int64_t rank,
                                               at::Generator& generator, at::ScalarType dtype) {
  auto module = register_module(name, std::make_shared<torch::nn::Module>(name));
  const at::Tensor left = at::randn({size, rank}, generator, at::kDouble) * 0.01;
  const at::Tensor right = at::randn({rank, size}, generator, at::kDouble) * 0.01;
  return {module->register_parameter("left", left.to(dtype)),
          module->register_parameter("right", right.to(dtype))};
}

at::Tensor WoodburyLayer::LogDet(const at::Tensor& x) const {
  const at::Tensor sum = LogAbsDet(Core(channel_.left, channel_.right)) * (x.size(2) * x.size(3)) +
                         LogAbsDet(Core(spatial_.left, spatial_.right)) * x.size(1);
  return sum.expand({x.size(0)});
}

Transformed WoodburyLayer::Forward(const at::Tensor& x) {
  const at::Tensor mixed = Apply(channel_.left, channel_.right, x.flatten(2));
  const at::Tensor y = Apply(spatial_.left, spatial_.right, mixed.transpose(1, 2));
  return {y.transpose(1, 2).reshape(x.sizes()), LogDet(x)};
}

Transformed WoodburyLayer::Inverse(const at::Tensor& z) {
  const at::Tensor mixed = Undo(spatial_.left, spatial_.right, z.flatten(2).transpose(1, 2));
  const at::Tensor x = Undo(channel_.left, channel_.right, mixed.transpose(1, 2));
  return {x.reshape(z.sizes()), -LogDet(z)};
}

}  // namespace bflow
