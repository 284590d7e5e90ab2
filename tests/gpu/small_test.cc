// Every operator of the waveform flow on small shapes, forward, inverse and backward: small enough
// for compute-sanitizer, odd enough for every tail of a grid.
#include "ATen/ops/sign.h"
#include "tests/gpu/gpu_test_util.h"
#include "tests/model/ops/op_cases.h"

namespace bflow::testing {
namespace {

TEST(GpuSmall, Butterfly) {
  at::manual_seed(1);
  for (const ButterflyShape& shape :
       {ButterflyShape{2, 1}, {6, 1}, {20, 2}, {24, 3}, {32, 5}, {48, 4}, {256, 8}}) {
    for (const bool shared : {false, true}) {
      for (const bool widest_first : {false, true}) {
        for (const int64_t rows : {1, 5}) {
          SCOPED_TRACE(::testing::Message()
                       << "D " << shape.size << " shared " << shared << " widest first "
                       << widest_first << " rows " << rows);
          ExpectGpuAgrees(kButterfly, kButterflyReference,
                          ButterflyInputs(rows, shape, shared, widest_first));
        }
      }
    }
  }
}

TEST(GpuSmall, ActNorm) {
  at::manual_seed(2);
  ExpectGpuAgrees(kActNorm, kActNormReference, ActNormInputs(3, 7, 2));
  ExpectGpuAgrees(kActNorm, kActNormReference, ActNormInputs(1, 33, 6));
}

TEST(GpuSmall, LuMatmul) {
  at::manual_seed(3);
  for (const int64_t channels : {2, 4, 5}) {
    const at::Tensor sign = at::sign(Randn({channels}));
    ExpectGpuAgrees(LuOp(false, sign), LuOp(true, sign), LuInputs(3, 7, channels));
  }
}

TEST(GpuSmall, AffineCouplingBothWays) {
  at::manual_seed(4);
  for (const bool inverse : {false, true}) {
    const Op op = CouplingOp(false, inverse), reference = CouplingOp(true, inverse);
    ExpectGpuAgrees(op, reference, CouplingInputs(3, 9, 4, 16));
    ExpectGpuAgrees(op, reference, CouplingInputs(1, 1, 2, 16));
    ExpectGpuAgrees(op, reference, CouplingInputs(2, 21, 6, 7));
  }
}

TEST(GpuSmall, NoRows) {
  const Op butterfly = OnGpu(kButterfly), coupling = OnGpu(CouplingOp(false, false));
  EXPECT_EQ(std::get<0>(butterfly(ButterflyInputs(0, {32, 5}, true, true))).size(0), 0);
  EXPECT_EQ(std::get<0>(OnGpu(kActNorm)(ActNormInputs(0, 3, 4))).size(0), 0);
  EXPECT_EQ(std::get<0>(coupling(CouplingInputs(0, 3, 4, 16))).size(0), 0);
}

}  // namespace
}  // namespace bflow::testing
