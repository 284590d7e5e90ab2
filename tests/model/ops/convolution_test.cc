// conv1d_coupling.
#include "model/ops/conv1d_coupling.h"

#include "tests/model/ops/op_cases.h"
#include "tests/model/ops/ops_test_util.h"

namespace bflow::testing {
namespace {

TEST(Conv1dCouplingOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(1);
  for (const bool inverse : {false, true}) {
    // Rows of several chunks, shorter than a vector and not a multiple of one; every kernel width;
    // a dilation that reaches past both ends.
    for (const auto& [c, dilation] : {std::pair<ConvolutionCase, int64_t>{{9, 130, 4, 24, 5}, 2},
                                      {{3, 64, 2, 16, 3}, 2},
                                      {{2, 21, 6, 7, 1}, 1},
                                      {{1, 1, 4, 3, 5}, 4},
                                      {{2, 5, 4, 9, 7}, 3},
                                      {{2, 512, 4, 24, 5}, 2}}) {
      SCOPED_TRACE(c.steps);
      ExpectAgrees(ConvolutionOp(false, dilation, inverse), ConvolutionOp(true, dilation, inverse),
                   ConvolutionInputs(c));
    }
  }
}

TEST(Conv1dCouplingOp, GradCheckAndRows) {
  at::manual_seed(2);
  for (const bool inverse : {false, true}) {
    const Op op = ConvolutionOp(false, 2, inverse);
    EXPECT_TRUE(GradCheck(Function(op), ConvolutionInputs({2, 9, 4, 5, 3}), 1e-6));
    EXPECT_TRUE(GradCheck(Function(op), ConvolutionInputs({2, 3, 2, 6, 5}), 1e-6));
    ExpectRowsIndependent(op, ConvolutionInputs({19, 70, 4, 16, 5}), 11);
    EXPECT_EQ(std::get<1>(op(ConvolutionInputs({0, 3, 4, 16, 3}))).size(0), 0);
  }
}

TEST(Conv1dCouplingOp, InverseUndoesForward) {
  at::manual_seed(3);
  std::vector<at::Tensor> inputs = ConvolutionInputs({3, 100, 4, 24, 5});
  const at::Tensor x = inputs[0];
  const auto [y, log_det] = ConvolutionOp(false, 2, false)(inputs);
  inputs[0] = y;
  const auto [back, inverse_log_det] = ConvolutionOp(false, 2, true)(inputs);
  EXPECT_LE(Error(back, x), 1e-12);
  EXPECT_LE(Error(inverse_log_det, -log_det), 1e-12);
}

TEST(Conv1dCouplingOp, NamesWhatDoesNotFit) {
  const std::vector<at::Tensor> inputs = ConvolutionInputs({2, 9, 4, 5, 3});
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<at::Tensor> wrong = inputs;
    wrong[i] = wrong[i].narrow(0, 0, 1).squeeze(0);
    EXPECT_THROW(ConvolutionOp(false, 2, false)(wrong), c10::Error) << i;
  }
  EXPECT_THROW(ConvolutionOp(false, 0, false)(inputs), c10::Error);
}

}  // namespace
}  // namespace bflow::testing
