// Inputs of the benchmarks: one block of the waveform flow, with our operators or with the eager
// ATen references.
#ifndef BFLOW_BENCH_MICRO_WAVEFORM_BLOCK_H_
#define BFLOW_BENCH_MICRO_WAVEFORM_BLOCK_H_

#include <cmath>
#include <numbers>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/randperm.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros.h"
#include "model/ops/act_norm.h"
#include "model/ops/affine_coupling.h"
#include "model/ops/butterfly.h"
#include "model/ops/lu_matmul.h"

namespace bflow::bench {

// Rotations by random angles, the widest stride first; `matrices` 1 shares them within a block.
inline std::vector<at::Tensor> RotationFactors(int64_t size, int factors, bool shared) {
  std::vector<at::Tensor> result;
  for (int level = 0; level < factors; ++level) {
    const int64_t blocks = int64_t{1} << level;
    const at::Tensor angle =
        at::rand({blocks, shared ? 1 : size / (2 * blocks)}) * (2 * std::numbers::pi);
    const at::Tensor cosine = angle.cos(), sine = angle.sin();
    result.push_back(
        at::stack({at::stack({cosine, -sine}, 2), at::stack({sine, cosine}, 2)}, 1).contiguous());
  }
  return result;
}

// ActNorm, LU matmul, butterfly and coupling on [B, steps, 4], hidden width 16.
struct WaveformBlock {
  WaveformBlock(int64_t steps, int factors_count) {
    factors = RotationFactors(steps * 4, factors_count, true);
    for (int net = 0; net < 2; ++net) {
      nets[net] = {at::randn({16, 2}) * 0.5, at::zeros({16}),          at::randn({16, 16}) * 0.25,
                   at::zeros({16}),          at::randn({2, 16}) * 0.2, at::zeros({2})};
    }
    for (at::Tensor* tensor : Parameters()) tensor->requires_grad_(true);
  }
  std::vector<at::Tensor*> Parameters() {
    std::vector<at::Tensor*> all = {&log_scale, &bias, &lower, &upper, &log_diagonal};
    for (at::Tensor& tensor : factors) all.push_back(&tensor);
    for (auto& net : nets) {
      for (at::Tensor& tensor : net) all.push_back(&tensor);
    }
    return all;
  }
  // {output [B, T, 4], log_det [B]}
  std::vector<at::Tensor> Run(const at::Tensor& x, bool eager) const {
    auto [a, log_det_a] = (eager ? ActNormReference : act_norm)(x, log_scale, bias);
    auto [l, log_det_l] = (eager ? LuMatmulReference : lu_matmul)(a, lower, upper, log_diagonal,
                                                                  diagonal_sign, permutation);
    auto [b, log_det_b] = (eager ? ButterflyReference : butterfly)(l.flatten(1), factors);
    auto [y, log_det_c] = (eager ? AffineCouplingReference : affine_coupling)(
        b.reshape(x.sizes()), nets[0], nets[1], false);
    return {y, log_det_c + (log_det_a + log_det_l + log_det_b)};
  }

  at::Tensor log_scale = at::randn({4}) * 0.05, bias = at::zeros({4});
  at::Tensor lower = at::randn({4, 4}) * 0.5, upper = at::randn({4, 4}) * 0.5;
  at::Tensor log_diagonal = at::randn({4}) * 0.1, diagonal_sign = at::ones({4});
  at::Tensor permutation = at::randperm(4);
  std::vector<at::Tensor> factors;
  std::vector<at::Tensor> nets[2];
};

}  // namespace bflow::bench

#endif  // BFLOW_BENCH_MICRO_WAVEFORM_BLOCK_H_
