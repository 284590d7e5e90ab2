#include "model/layers/permutation.h"

#include "ATen/ops/argsort.h"
#include "ATen/ops/randperm.h"
#include "ATen/ops/zeros.h"

namespace bflow {
namespace {

Transformed Rearranged(const at::Tensor& x, const at::Tensor& index) {
  return {x.flatten(1).index_select(1, index).reshape(x.sizes()),
          at::zeros({x.size(0)}, x.options().dtype(at::kDouble))};
}

}  // namespace

PermutationLayer::PermutationLayer(int64_t size, at::Generator& generator) {
  permutation_ = register_buffer("permutation", at::randperm(size, generator, at::kLong));
}

Transformed PermutationLayer::Forward(const at::Tensor& x) { return Rearranged(x, permutation_); }

Transformed PermutationLayer::Inverse(const at::Tensor& z) {
  return Rearranged(z, frozen_inverse_.defined() ? frozen_inverse_ : permutation_.argsort());
}

void PermutationLayer::Freeze() { frozen_inverse_ = permutation_.argsort(); }

}  // namespace bflow
