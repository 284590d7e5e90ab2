// The operators on the GPU at the sizes of the published waveform flow, and their derivatives.
#include "ATen/ops/equal.h"
#include "ATen/ops/sign.h"
#include "tests/gpu/gpu_test_util.h"
#include "tests/model/ops/op_cases.h"

namespace bflow::testing {
namespace {

TEST(GpuOps, ButterflyAtFullSize) {
  at::manual_seed(1);
  for (const bool shared : {false, true}) {
    for (const bool widest_first : {false, true}) {
      ExpectGpuAgrees(kButterfly, kButterflyReference,
                      ButterflyInputs(67, {2048, 10}, shared, widest_first));
      ExpectGpuAgrees(kButterfly, kButterflyReference,
                      ButterflyInputs(3, {1024, 9}, shared, widest_first));
    }
  }
  ExpectGpuAgrees(kButterfly, kButterflyReference, ButterflyInputs(9, {2048, 11}, true, true));
}

TEST(GpuOps, PerStepOperatorsAtFullSize) {
  at::manual_seed(2);
  ExpectGpuAgrees(kActNorm, kActNormReference, ActNormInputs(67, 512, 4));
  const at::Tensor sign = at::sign(Randn({4}));
  ExpectGpuAgrees(LuOp(false, sign), LuOp(true, sign), LuInputs(67, 512, 4));
  for (const bool inverse : {false, true}) {
    ExpectGpuAgrees(CouplingOp(false, inverse), CouplingOp(true, inverse),
                    CouplingInputs(67, 512, 4, 16));
  }
}

TEST(GpuOps, GradCheck) {
  at::manual_seed(3);
  for (const bool shared : {false, true}) {
    EXPECT_TRUE(GradCheck(Function(OnGpu(kButterfly)), ButterflyInputs(3, {32, 5}, shared, true),
                          1e-6, 40));
  }
  EXPECT_TRUE(GradCheck(Function(OnGpu(kActNorm)), ActNormInputs(3, 5, 4)));
  const at::Tensor sign = at::sign(Randn({4}));
  EXPECT_TRUE(GradCheck(Function(OnGpu(LuOp(false, sign))), LuInputs(3, 5, 4)));
  for (const bool inverse : {false, true}) {
    EXPECT_TRUE(GradCheck(Function(OnGpu(CouplingOp(false, inverse))), CouplingInputs(2, 9, 4, 5),
                          1e-6, 40));
  }
}

// A row's numbers do not depend on its batch.
TEST(GpuOps, RowsAreIndependent) {
  at::manual_seed(4);
  const auto expect = [](const Op& op, std::vector<at::Tensor> inputs) {
    for (at::Tensor& input : inputs) {
      if (input.is_floating_point()) input = input.to(at::kFloat);
    }
    const at::Tensor all = std::get<0>(OnGpu(op)(inputs));
    inputs[0] = inputs[0].narrow(0, 17, 1);
    EXPECT_TRUE(at::equal(std::get<0>(OnGpu(op)(inputs))[0], all[17]));
  };
  expect(kButterfly, ButterflyInputs(37, {2048, 10}, true, true));
  expect(kActNorm, ActNormInputs(37, 512, 4));
  expect(LuOp(false, at::sign(Randn({4}))), LuInputs(37, 512, 4));
  expect(CouplingOp(false, false), CouplingInputs(37, 512, 4, 16));
}

}  // namespace
}  // namespace bflow::testing
