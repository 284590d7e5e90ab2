// The operators and their references as functions of a list of tensors, with random inputs: for the
// tests on the CPU and on a GPU.
#ifndef BFLOW_TESTS_MODEL_OPS_OP_CASES_H_
#define BFLOW_TESTS_MODEL_OPS_OP_CASES_H_

#include <cmath>
#include <tuple>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/randperm.h"
#include "model/ops/act_norm.h"
#include "model/ops/affine_coupling.h"
#include "model/ops/butterfly.h"
#include "model/ops/conv1d_coupling.h"
#include "model/ops/lu_matmul.h"
#include "model/ops/whitening.h"
#include "tests/model/ops/ops_test_util.h"
#include "tests/support/gradcheck.h"

namespace bflow::testing {

inline at::Tensor Randn(at::IntArrayRef sizes) { return at::randn(sizes, at::kDouble); }

inline const Op kActNorm = [](const std::vector<at::Tensor>& in) {
  return act_norm(in[0], in[1], in[2]);
};
inline const Op kActNormReference = [](const std::vector<at::Tensor>& in) {
  return ActNormReference(in[0], in[1], in[2]);
};
inline std::vector<at::Tensor> ActNormInputs(int64_t rows, int64_t steps, int64_t channels) {
  return {Randn({rows, steps, channels}), Randn({channels}) * 0.3, Randn({channels})};
}

// The sign carries no gradient: it is not among the inputs, but part of the function.
inline Op LuOp(bool reference, const at::Tensor& sign) {
  return [reference, sign](const std::vector<at::Tensor>& in) {
    return (reference ? LuMatmulReference : lu_matmul)(
        in[0], in[1], in[2], in[3], sign.to(in[0].device(), in[0].scalar_type()), in[4]);
  };
}
inline std::vector<at::Tensor> LuInputs(int64_t rows, int64_t steps, int64_t channels) {
  return {Randn({rows, steps, channels}), Randn({channels, channels}) * 0.5,
          Randn({channels, channels}) * 0.5, Randn({channels}) * 0.3, at::randperm(channels)};
}

inline Op CouplingOp(bool reference, bool inverse) {
  return [=](const std::vector<at::Tensor>& in) {
    const at::TensorList all(in);
    return (reference ? AffineCouplingReference : affine_coupling)(in[0], all.slice(1, 6),
                                                                   all.slice(7), inverse);
  };
}
inline std::vector<at::Tensor> CouplingInputs(int64_t rows, int64_t steps, int64_t channels,
                                              int64_t hidden) {
  std::vector<at::Tensor> inputs = {Randn({rows, steps, channels})};
  const int64_t half = channels / 2;
  for (int net = 0; net < 2; ++net) {
    const double wide = 1 / std::sqrt(static_cast<double>(hidden));
    inputs.push_back(Randn({hidden, half}));
    inputs.push_back(Randn({hidden}) * 0.3);
    inputs.push_back(Randn({hidden, hidden}) * wide);
    inputs.push_back(Randn({hidden}) * 0.3);
    inputs.push_back(Randn({half, hidden}) * wide);
    inputs.push_back(Randn({half}) * 0.3);
  }
  return inputs;
}

// Inputs: x and the six tensors of the net.
inline Op ConvolutionOp(bool reference, int64_t dilation, bool inverse) {
  return [=](const std::vector<at::Tensor>& in) {
    return (reference ? Conv1dCouplingReference : conv1d_coupling)(
        in[0], at::TensorList(in).slice(1), dilation, inverse);
  };
}
struct ConvolutionCase {
  int64_t rows, steps, channels, hidden, kernel;
};
inline std::vector<at::Tensor> ConvolutionInputs(const ConvolutionCase& c) {
  const int64_t half = c.channels / 2;
  const double narrow = 1 / std::sqrt(static_cast<double>(half * c.kernel));
  const double wide = 1 / std::sqrt(static_cast<double>(c.hidden * c.kernel));
  return {Randn({c.rows, c.steps, c.channels}),
          Randn({c.hidden, half, c.kernel}) * narrow,
          Randn({c.hidden}) * 0.3,
          Randn({c.hidden, c.hidden, c.kernel}) * wide,
          Randn({c.hidden}) * 0.3,
          Randn({c.channels, c.hidden, 1}) * 0.3,
          Randn({c.channels}) * 0.3};
}

// The map carries no gradient: it is not among the inputs, but part of the function.
inline Op WhiteningOp(bool reference, bool inverse, const std::vector<at::Tensor>& map) {
  return [=](const std::vector<at::Tensor>& in) {
    std::vector<at::Tensor> cast;
    for (const at::Tensor& tensor : map) cast.push_back(tensor.to(in[0].scalar_type()));
    return (reference ? WhiteningReference : whitening)(in[0], cast, inverse);
  };
}
// Weights small enough that the recursion of the inverse is stable. Entries on and above the
// diagonals, which must not count, are as large as the others.
inline std::vector<at::Tensor> WhiteningMapInputs(int64_t channels, int64_t order) {
  const int64_t head = channels * order;
  const double size = 0.5 / static_cast<double>(head);
  return {Randn({channels, channels, order}) * size,
          Randn({channels, channels}) * 0.5,
          Randn({channels}),
          Randn({channels}) * 0.3 - 1,
          Randn({head, head}) * size,
          Randn({head}),
          Randn({head}) * 0.3 - 1};
}

struct ButterflyShape {
  int64_t size;
  int levels;
};

// factors near rotations: well away from singular, so that the rule on errors is meaningful.
inline std::vector<at::Tensor> ButterflyInputs(int64_t rows, ButterflyShape shape, bool shared,
                                               bool widest_first) {
  std::vector<at::Tensor> inputs = {at::randn({rows, shape.size}, at::kDouble)};
  for (int i = 0; i < shape.levels; ++i) {
    const int64_t blocks = int64_t{1} << (widest_first ? i : shape.levels - 1 - i);
    const int64_t matrices = shared ? 1 : shape.size / (2 * blocks);
    at::Tensor w = at::randn({blocks, 2, matrices, 2}, at::kDouble) * 0.2;
    w.select(1, 0).select(2, 0) += 0.8;
    w.select(1, 1).select(2, 1) += 0.8;
    w.select(1, 0).select(2, 1) -= 0.5;
    w.select(1, 1).select(2, 0) += 0.5;
    inputs.push_back(w);
  }
  return inputs;
}

inline const Op kButterfly = [](const std::vector<at::Tensor>& in) {
  return butterfly(in[0], at::TensorList(in).slice(1));
};
inline const Op kButterflyReference = [](const std::vector<at::Tensor>& in) {
  return ButterflyReference(in[0], at::TensorList(in).slice(1));
};

inline std::vector<at::Tensor> AsVector(const std::tuple<at::Tensor, at::Tensor>& result) {
  return {std::get<0>(result), std::get<1>(result)};
}
inline DifferentiableFunction Function(const Op& op) {
  return [op](const std::vector<at::Tensor>& in) { return AsVector(op(in)); };
}

}  // namespace bflow::testing

#endif  // BFLOW_TESTS_MODEL_OPS_OP_CASES_H_
