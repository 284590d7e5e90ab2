// Compares autograd's derivatives with central differences, in float64: for every input that
// requires a gradient, every entry of it, of a random projection of all outputs.
#ifndef BFLOW_TESTS_SUPPORT_GRADCHECK_H_
#define BFLOW_TESTS_SUPPORT_GRADCHECK_H_

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/randn_like.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"

namespace bflow::testing {

using DifferentiableFunction =
    std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;

// The inputs must be contiguous float64 (integers are passed through). At most `entries` entries of
// each input are checked, evenly spread. Succeeds where |numeric - analytic| <= tolerance max(1,
// |numeric|).
inline ::testing::AssertionResult GradCheck(const DifferentiableFunction& function,
                                            std::vector<at::Tensor> inputs, double tolerance = 1e-7,
                                            int64_t entries = 1 << 20, double step = 1e-6) {
  for (at::Tensor& input : inputs) {
    input = input.detach().clone();
    if (input.is_floating_point()) input.requires_grad_(true);
  }
  std::vector<at::Tensor> weights;
  at::Tensor loss;
  for (const at::Tensor& output : function(inputs)) {
    weights.push_back(at::randn_like(output.detach()));
    const at::Tensor term = (output * weights.back()).sum();
    loss = loss.defined() ? loss + term : term;
  }
  loss.backward();
  const auto value = [&] {
    const c10::NoGradGuard no_grad;
    const std::vector<at::Tensor> outputs = function(inputs);
    double sum = 0;
    for (size_t i = 0; i < outputs.size(); ++i) {
      sum += (outputs[i] * weights[i]).sum().item<double>();
    }
    return sum;
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].is_floating_point()) continue;
    if (!inputs[i].grad().defined()) {
      return ::testing::AssertionFailure() << "input " << i << " got no gradient";
    }
    const at::Tensor grad = inputs[i].grad().contiguous();
    double* entry = inputs[i].data_ptr<double>();
    const int64_t stride = std::max<int64_t>(1, grad.numel() / entries);
    for (int64_t k = 0; k < grad.numel(); k += stride) {
      const double kept = entry[k];
      entry[k] = kept + step;
      const double above = value();
      entry[k] = kept - step;
      const double below = value();
      entry[k] = kept;
      const double numeric = (above - below) / (2 * step);
      const double analytic = grad.data_ptr<double>()[k];
      if (!(std::abs(numeric - analytic) <= tolerance * std::max(1.0, std::abs(numeric)))) {
        return ::testing::AssertionFailure() << "input " << i << ", entry " << k << ": numeric "
                                             << numeric << ", analytic " << analytic;
      }
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace bflow::testing

#endif  // BFLOW_TESTS_SUPPORT_GRADCHECK_H_
