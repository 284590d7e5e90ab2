#include "model/ops/butterfly.h"

#include <cmath>
#include <limits>

#include "ATen/Context.h"
#include "ATen/ops/full.h"
#include "tests/model/ops/op_cases.h"
#include "tests/model/ops/ops_test_util.h"
#include "tests/support/gradcheck.h"

namespace bflow::testing {
namespace {

// Every D with all the levels it allows, so that wide, narrow and odd strides all occur.
constexpr ButterflyShape kShapes[] = {{2, 1},  {6, 1},  {12, 2}, {20, 2},   {24, 3},
                                      {30, 1}, {32, 5}, {48, 4}, {2048, 11}};

TEST(ButterflyOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(1);
  for (const ButterflyShape& shape : kShapes) {
    for (const bool shared : {false, true}) {
      for (const bool widest_first : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "D " << shape.size << " shared " << shared
                                          << " widest first " << widest_first);
        ExpectAgrees(kButterfly, kButterflyReference,
                     ButterflyInputs(11, shape, shared, widest_first));
      }
    }
  }
}

TEST(ButterflyOp, MixedSharingAndMirroredOrder) {
  at::manual_seed(2);
  std::vector<at::Tensor> inputs = ButterflyInputs(5, {64, 6}, true, true);
  const std::vector<at::Tensor> mirrored = ButterflyInputs(5, {64, 6}, false, false);
  inputs.insert(inputs.end(), mirrored.begin() + 1, mirrored.end());
  ExpectAgrees(kButterfly, kButterflyReference, inputs);
}

TEST(ButterflyOp, GradCheck) {
  at::manual_seed(3);
  for (const ButterflyShape& shape : kShapes) {
    for (const bool shared : {false, true}) {
      const auto function = [](const std::vector<at::Tensor>& in) {
        auto [y, log_det] = kButterfly(in);
        return std::vector<at::Tensor>{y, log_det};
      };
      EXPECT_TRUE(GradCheck(function, ButterflyInputs(3, shape, shared, true), 1e-6, 40))
          << shape.size << " " << shared;
    }
  }
}

TEST(ButterflyOp, RowDoesNotDependOnItsBatch) {
  at::manual_seed(4);
  for (const ButterflyShape& shape : kShapes) {
    std::vector<at::Tensor> inputs = ButterflyInputs(37, shape, true, true);
    for (at::Tensor& input : inputs) input = input.to(at::kFloat);
    ForEachSimd([&] {
      const at::Tensor all = std::get<0>(kButterfly(inputs));
      std::vector<at::Tensor> one = inputs;
      one[0] = inputs[0].narrow(0, 17, 1);
      EXPECT_TRUE(at::equal(std::get<0>(kButterfly(one))[0], all[17])) << shape.size;
    });
  }
}

TEST(ButterflyOp, NoFactorsAndNoRows) {
  const at::Tensor x = at::randn({3, 8});
  auto [y, log_det] = butterfly(x, {});
  EXPECT_TRUE(at::equal(y, x));
  EXPECT_EQ(log_det.item<float>(), 0);
  const std::vector<at::Tensor> empty = ButterflyInputs(0, {32, 5}, true, true);
  EXPECT_EQ(std::get<0>(kButterfly(empty)).sizes(), at::IntArrayRef({0, 32}));
  EXPECT_TRUE(std::isfinite(std::get<1>(kButterfly(empty)).item<double>()));
  EXPECT_EQ(RunOp(kButterfly, empty, at::kDouble).size(), 2u + empty.size());
}

TEST(ButterflyOp, NanReachesEveryOutputThatDependsOnIt) {
  std::vector<at::Tensor> inputs = ButterflyInputs(2, {32, 5}, true, true);
  for (at::Tensor& input : inputs) input = input.to(at::kFloat);
  inputs[0][1][7] = std::numeric_limits<float>::quiet_NaN();
  ForEachSimd([&] {
    const at::Tensor y = std::get<0>(kButterfly(inputs));
    EXPECT_TRUE(y[0].isfinite().all().item<bool>());
    EXPECT_TRUE(y[1].isnan().all().item<bool>());
  });
}

TEST(ButterflyOp, LogDetIsFiniteAtAQuarterTurn) {
  at::Tensor w = at::full({1, 2, 1, 2}, 0.0, at::kDouble);
  w[0][0][0][1] = -1;
  w[0][1][0][0] = 1;
  EXPECT_EQ(std::get<1>(butterfly(at::randn({1, 2}, at::kDouble), {w})).item<double>(), 0);
}

TEST(ButterflyOp, RefusesFactorsThatDoNotFit) {
  const at::Tensor x = at::randn({1, 6});
  EXPECT_THROW(butterfly(x, {at::randn({2, 2, 1, 2})}), c10::Error);
  EXPECT_THROW(butterfly(x, {at::randn({1, 2, 2, 2})}), c10::Error);
  EXPECT_THROW(butterfly(x, {at::randn({1, 2, 3, 2}, at::kDouble)}), c10::Error);
}

}  // namespace
}  // namespace bflow::testing
