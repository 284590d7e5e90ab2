// act_norm, lu_matmul and affine_coupling.
#include <cmath>
#include <limits>

#include "ATen/Context.h"
#include "ATen/Parallel.h"
#include "ATen/core/dispatch/Dispatcher.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/linspace.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/sign.h"
#include "model/ops/act_norm.h"
#include "model/ops/affine_coupling.h"
#include "model/ops/lu_matmul.h"
#include "tests/model/ops/op_cases.h"
#include "tests/model/ops/ops_test_util.h"
#include "tests/support/gradcheck.h"

namespace bflow::testing {
namespace {

struct Shape {
  int64_t rows, steps, channels;
};
constexpr Shape kShapes[] = {{9, 13, 4}, {3, 64, 4}, {2, 7, 2}, {4, 5, 6}, {1, 1, 4}, {40, 21, 8}};

TEST(ActNormOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(1);
  for (const auto& [rows, steps, channels] : kShapes) {
    ExpectAgrees(kActNorm, kActNormReference, ActNormInputs(rows, steps, channels));
  }
}

TEST(ActNormOp, GradCheckAndRows) {
  at::manual_seed(2);
  EXPECT_TRUE(GradCheck(Function(kActNorm), ActNormInputs(3, 5, 4)));
  EXPECT_TRUE(GradCheck(Function(kActNorm), ActNormInputs(2, 3, 6)));
  ExpectRowsIndependent(kActNorm, ActNormInputs(19, 13, 4), 7);
  ExpectRowsIndependent(kActNorm, ActNormInputs(19, 7, 2), 18);
  EXPECT_EQ(std::get<0>(kActNorm(ActNormInputs(0, 3, 4))).size(0), 0);
}

TEST(LuMatmulOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(3);
  for (const auto& [rows, steps, channels] : kShapes) {
    const at::Tensor sign = at::sign(Randn({channels}));
    ExpectAgrees(LuOp(false, sign), LuOp(true, sign), LuInputs(rows, steps, channels));
  }
}

TEST(LuMatmulOp, GradCheckAndRows) {
  at::manual_seed(4);
  for (const int64_t channels : {2, 4, 5}) {
    const at::Tensor sign = at::sign(Randn({channels}));
    EXPECT_TRUE(GradCheck(Function(LuOp(false, sign)), LuInputs(3, 5, channels)));
    ExpectRowsIndependent(LuOp(false, sign), LuInputs(19, 13, channels), 7);
    EXPECT_EQ(std::get<0>(LuOp(false, sign)(LuInputs(0, 3, channels))).size(0), 0);
  }
}

TEST(LuMatmulOp, WeightIsWhatIsApplied) {
  at::manual_seed(5);
  const std::vector<at::Tensor> in = LuInputs(2, 3, 4);
  const at::Tensor sign = at::sign(Randn({4}));
  const at::Tensor w = LuWeight(in[1], in[2], in[3], sign, in[4]);
  EXPECT_LE(Error(std::get<0>(LuOp(false, sign)(in)), at::matmul(in[0], w)), 1e-14);
  EXPECT_THROW(LuOp(false, sign)({in[0], in[1], in[2], in[3], in[4] + 4}), c10::Error);
}

TEST(AffineCouplingOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(6);
  for (const bool inverse : {false, true}) {
    const Op op = CouplingOp(false, inverse), reference = CouplingOp(true, inverse);
    ExpectAgrees(op, reference, CouplingInputs(9, 130, 4, 16));
    ExpectAgrees(op, reference, CouplingInputs(3, 64, 2, 16));
    ExpectAgrees(op, reference, CouplingInputs(2, 21, 6, 7));
    ExpectAgrees(op, reference, CouplingInputs(1, 1, 4, 3));
    ExpectAgrees(op, reference, CouplingInputs(2, 512, 4, 16));
  }
}

TEST(AffineCouplingOp, GradCheckAndRows) {
  at::manual_seed(7);
  for (const bool inverse : {false, true}) {
    const Op op = CouplingOp(false, inverse);
    EXPECT_TRUE(GradCheck(Function(op), CouplingInputs(2, 9, 4, 5), 1e-6));
    EXPECT_TRUE(GradCheck(Function(op), CouplingInputs(2, 3, 6, 16), 1e-6));
    ExpectRowsIndependent(op, CouplingInputs(19, 70, 4, 16), 11);
    EXPECT_EQ(std::get<1>(op(CouplingInputs(0, 3, 4, 16))).size(0), 0);
  }
}

TEST(AffineCouplingOp, InverseUndoesForward) {
  at::manual_seed(8);
  std::vector<at::Tensor> inputs = CouplingInputs(3, 100, 4, 16);
  const at::Tensor x = inputs[0];
  const auto [y, log_det] = CouplingOp(false, false)(inputs);
  inputs[0] = y;
  const auto [back, inverse_log_det] = CouplingOp(false, true)(inputs);
  EXPECT_LE(Error(back, x), 1e-12);
  EXPECT_LE(Error(inverse_log_det, -log_det), 1e-12);
}

TEST(AffineCouplingOp, NanAndInfinityPropagate) {
  at::manual_seed(9);
  std::vector<at::Tensor> inputs = CouplingInputs(3, 70, 4, 16);
  for (at::Tensor& input : inputs) input = input.to(at::kFloat);
  inputs[0][1][69][0] = std::numeric_limits<float>::quiet_NaN();
  inputs[0][2][3][2] = std::numeric_limits<float>::infinity();
  ForEachSimd([&] {
    const auto [y, log_det] = CouplingOp(false, false)(inputs);
    EXPECT_TRUE(y[0].isfinite().all().item<bool>());
    EXPECT_TRUE(y[1][69].narrow(0, 2, 2).isnan().all().item<bool>());
    EXPECT_TRUE(y[1].narrow(0, 0, 69).isfinite().all().item<bool>());
    EXPECT_TRUE(log_det[1].isnan().item<bool>());
    EXPECT_TRUE(y[2][3][2].isinf().item<bool>());
    EXPECT_TRUE(log_det[2].isfinite().item<bool>());
  });
}

// Weight gradients must not depend on how rows fall to threads.
TEST(Ops, GradientsDoNotDependOnTheNumberOfThreads) {
  at::manual_seed(10);
  const std::vector<at::Tensor> inputs = CouplingInputs(67, 33, 4, 16);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const std::vector<at::Tensor> one = RunOp(CouplingOp(false, false), inputs, at::kFloat);
  at::set_num_threads(3);
  const std::vector<at::Tensor> three = RunOp(CouplingOp(false, false), inputs, at::kFloat);
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], three[i])) << i;
}

TEST(Ops, ApproximationsOfTanhExpAndAsinh) {
  at::Tensor x = at::linspace(-110, 110, 1 << 16, at::kFloat);
  x = at::cat({x, at::linspace(-10, 10, 1 << 16, at::kFloat), at::linspace(-1e-3, 1e-3, 64)});
  at::Tensor y = at::empty_like(x);
  ForEachSimd([&] {
    const cpu::Kernels<float>& kernels = cpu::CurrentKernels<float>();
    kernels.tanh(x.data_ptr<float>(), y.data_ptr<float>(), x.numel());
    const at::Tensor tanh = x.to(at::kDouble).tanh();
    const at::Tensor tanh_error = (y - tanh).abs() / tanh.abs().clamp_min(1e-30);
    EXPECT_LE(tanh_error.max().item<double>(), 4e-7);
    kernels.exp(x.data_ptr<float>(), y.data_ptr<float>(), x.numel());
    const at::Tensor exp = x.to(at::kDouble).exp();
    const at::Tensor normal = x.abs() < 87;
    const at::Tensor exp_error = ((y - exp).abs() / exp).masked_select(normal);
    EXPECT_LE(exp_error.max().item<double>(), 2e-7);
    EXPECT_TRUE(y.masked_select(x > 88.8).isinf().all().item<bool>());
    EXPECT_LE(y.masked_select(x < -87).max().item<double>(), 2e-38);
    for (const double scale : {1.0, 1e-6, 1e8, 1e35}) {
      const at::Tensor scaled = x * scale;
      kernels.asinh(scaled.data_ptr<float>(), y.data_ptr<float>(), x.numel());
      const at::Tensor asinh = scaled.to(at::kDouble).asinh();
      const at::Tensor asinh_error = (y - asinh).abs() / asinh.abs().clamp_min(1e-30);
      EXPECT_LE(asinh_error.max().item<double>(), 4e-7) << scale;
    }
  });
}

TEST(Ops, DispatcherKnowsEveryOperator) {
  for (const char* name :
       {"butterfly", "act_norm", "lu_matmul", "affine_coupling", "conv1d_coupling", "whitening"}) {
    for (const std::string suffix : {"", "_backward"}) {
      const auto op =
          c10::Dispatcher::singleton().findSchema({std::string("bflow::") + name + suffix, ""});
      ASSERT_TRUE(op.has_value()) << name << suffix;
      EXPECT_TRUE(op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) << name << suffix;
    }
  }
}

}  // namespace
}  // namespace bflow::testing
