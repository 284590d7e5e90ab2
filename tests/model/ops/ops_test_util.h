// What the operator tests share: random layers, every compiled SIMD version, and the accuracy rule.
#ifndef BFLOW_TESTS_MODEL_OPS_OPS_TEST_UTIL_H_
#define BFLOW_TESTS_MODEL_OPS_OPS_TEST_UTIL_H_

#include <algorithm>
#include <functional>
#include <tuple>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/abs.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/randperm.h"
#include "gtest/gtest.h"
#include "model/ops/cpu/simd_dispatch.h"

namespace bflow::testing {

// Runs body once with every SIMD version of this machine.
inline void ForEachSimd(const std::function<void()>& body) {
  for (const cpu::Simd simd : cpu::AvailableSimd()) {
    SCOPED_TRACE(cpu::SimdName(simd));
    cpu::ForceSimd(simd);
    body();
  }
  cpu::ForceSimd(std::nullopt);
}

// max |a - b| / max(1, |b|); NaN if either holds one. With `of_tensor` |b| is the largest of the
// tensor: the measure for gradients of parameters, which are sums over rows and steps with much
// cancellation.
inline double Error(const at::Tensor& a, const at::Tensor& b, bool of_tensor = false) {
  if (b.numel() == 0) return 0;
  const at::Tensor wide = b.detach().to(at::kDouble);
  const at::Tensor difference = (a.detach().to(at::kDouble) - wide).abs();
  const at::Tensor scale = of_tensor ? wide.abs().max() : wide.abs();
  return (difference / scale.clamp_min(1)).max().item<double>();
}

using Op = std::function<std::tuple<at::Tensor, at::Tensor>(const std::vector<at::Tensor>&)>;

// Outputs, then gradients of sum(y w) + sum(log_det v) for every floating input.
inline std::vector<at::Tensor> RunOp(const Op& op, const std::vector<at::Tensor>& inputs,
                                     at::ScalarType dtype) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(
        input.is_floating_point() ? input.detach().to(dtype).clone().requires_grad_(true) : input);
  }
  auto [y, log_det] = op(leaves);
  std::vector<at::Tensor> results = {y.detach(), log_det.detach()};
  // Fixed projections, the same for every version compared; of one sign, so that the sums over
  // steps in the gradients are well conditioned.
  const at::Tensor w = ((at::arange(y.numel(), at::kDouble) * 0.7).sin() * 0.5 + 1)
                           .to(at::kFloat)
                           .reshape(y.sizes());
  const at::Tensor v =
      (at::arange(log_det.numel(), at::kDouble) + 1).cos().to(at::kFloat).reshape(log_det.sizes());
  ((y * w.to(dtype)).sum() + (log_det * v.to(dtype)).sum()).backward();
  for (const at::Tensor& leaf : leaves) {
    if (leaf.is_floating_point() && leaf.grad().defined()) results.push_back(leaf.grad());
  }
  return results;
}

// Kernels against the oracle: 1e-12 in float64; in float32 under twice the oracle's own error.
// The inputs are rounded to float32 first, so that only the errors of computing are compared.
inline void ExpectAgrees(const Op& op, const Op& reference, std::vector<at::Tensor> inputs) {
  for (at::Tensor& input : inputs) {
    if (input.is_floating_point()) input = input.to(at::kFloat).to(at::kDouble);
  }
  at::set_num_threads(1);  // small tensors: barriers would cost more than the work
  const std::vector<at::Tensor> truth = RunOp(reference, inputs, at::kDouble);
  const std::vector<at::Tensor> plain = RunOp(reference, inputs, at::kFloat);
  ForEachSimd([&] {
    const std::vector<at::Tensor> wide = RunOp(op, inputs, at::kDouble);
    const std::vector<at::Tensor> narrow = RunOp(op, inputs, at::kFloat);
    ASSERT_EQ(wide.size(), truth.size());
    for (size_t i = 0; i < truth.size(); ++i) {
      EXPECT_LE(Error(wide[i], truth[i]), 1e-12) << "float64, result " << i;
      const bool parameter = i >= 3;  // after y, log_det and the gradient of x
      EXPECT_LE(Error(narrow[i], truth[i], parameter),
                2 * std::max(Error(plain[i], truth[i], parameter), 1e-6))
          << "float32, result " << i;
    }
  });
}

// All rows at once, in float32, against one row alone.
inline void ExpectRowsIndependent(const Op& op, std::vector<at::Tensor> inputs, int64_t row) {
  for (at::Tensor& input : inputs) {
    if (input.is_floating_point()) input = input.to(at::kFloat);
  }
  ForEachSimd([&] {
    const auto [y, log_det] = op(inputs);
    std::vector<at::Tensor> one = inputs;
    one[0] = inputs[0].narrow(0, row, 1);
    const auto [y_one, log_det_one] = op(one);
    EXPECT_TRUE(at::equal(y_one[0], y[row]));
    if (log_det.dim() == 1) {
      EXPECT_TRUE(at::equal(log_det_one[0], log_det[row]));
    }
  });
}

}  // namespace bflow::testing

#endif  // BFLOW_TESTS_MODEL_OPS_OPS_TEST_UTIL_H_
