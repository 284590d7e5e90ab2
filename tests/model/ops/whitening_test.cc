// whitening.
#include "model/ops/whitening.h"

#include "tests/model/ops/op_cases.h"
#include "tests/model/ops/ops_test_util.h"

namespace bflow::testing {
namespace {

struct WhiteningCase {
  int64_t rows, steps, channels, order;
};
constexpr WhiteningCase kCases[] = {{9, 40, 2, 16}, {3, 30, 1, 4}, {2, 11, 3, 3},
                                    {1, 4, 2, 4},   {2, 50, 2, 9}, {1, 2, 5, 1}};

TEST(WhiteningOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(1);
  for (const bool inverse : {false, true}) {
    for (const auto& [rows, steps, channels, order] : kCases) {
      SCOPED_TRACE(steps);
      const std::vector<at::Tensor> map = WhiteningMapInputs(channels, order);
      ExpectAgrees(WhiteningOp(false, inverse, map), WhiteningOp(true, inverse, map),
                   {Randn({rows, steps, channels})});
    }
  }
}

TEST(WhiteningOp, GradCheckRowsAndInverse) {
  at::manual_seed(2);
  for (const auto& [rows, steps, channels, order] : kCases) {
    const std::vector<at::Tensor> map = WhiteningMapInputs(channels, order);
    const at::Tensor x = Randn({rows, steps, channels});
    for (const bool inverse : {false, true}) {
      EXPECT_TRUE(GradCheck(Function(WhiteningOp(false, inverse, map)), {x}));
    }
    const auto [y, log_det] = WhiteningOp(false, false, map)({x});
    const auto [back, inverse_log_det] = WhiteningOp(false, true, map)({y});
    EXPECT_LE(Error(back, x), 1e-13);
    EXPECT_EQ(inverse_log_det.item<double>(), -log_det.item<double>());
  }
  const std::vector<at::Tensor> map = WhiteningMapInputs(2, 16);
  for (const bool inverse : {false, true}) {
    ExpectRowsIndependent(WhiteningOp(false, inverse, map), {Randn({70, 40, 2})}, 33);
    EXPECT_EQ(std::get<0>(WhiteningOp(false, inverse, map)({Randn({0, 40, 2})})).size(0), 0);
  }
}

TEST(WhiteningOp, NamesWhatDoesNotFit) {
  const std::vector<at::Tensor> map = WhiteningMapInputs(2, 3);
  EXPECT_THROW(whitening(Randn({1, 2, 2}), map, false), c10::Error);  // fewer steps than the order
  for (size_t i = 0; i < map.size(); ++i) {
    std::vector<at::Tensor> wrong = map;
    wrong[i] = wrong[i].narrow(0, 0, 1);
    EXPECT_THROW(whitening(Randn({1, 5, 2}), wrong, false), c10::Error) << i;
  }
}

}  // namespace
}  // namespace bflow::testing
