// The layers of images against the laws, and what is particular to each.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/full.h"
#include "ATen/ops/std.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "model/layers/act_norm.h"
#include "model/layers/butterfly.h"
#include "model/layers/conv1x1.h"
#include "model/layers/conv2d_coupling.h"
#include "model/layers/emerging_conv.h"
#include "model/layers/logit.h"
#include "model/layers/periodic_conv.h"
#include "model/layers/permutation.h"
#include "model/layers/squeeze.h"
#include "model/layers/woodbury.h"
#include "tests/model/layers/bijector_laws.h"

namespace bflow {
namespace {

at::Generator Seeded(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

double MaxAbs(const at::Tensor& t) { return t.detach().abs().max().item<double>(); }

TEST(ActNormOfImages, Laws) {
  at::Generator generator = Seeded(1);
  ActNormLayer layer(3, /*is_image=*/true, generator, at::kDouble);
  Perturb(layer, 0.3);
  ExpectLaws(SubjectOf(layer), Gauss({2, 3, 4, 2}, 1));
}

TEST(ActNormOfImages, InitialisationNormalisesEachChannelOverAllPositions) {
  at::Generator generator = Seeded(2);
  ActNormLayer layer(3, /*is_image=*/true, generator, at::kDouble);
  Perturb(layer, 0.3);
  const at::Tensor x = Gauss({5, 3, 2, 4}, 3) * 4 + 2;
  layer.InitialiseFrom(x);
  const at::Tensor y = layer.Forward(x).value.detach().transpose(0, 1).flatten(1);  // [C, ...]
  EXPECT_LT(MaxAbs(y.mean(1)), 1e-12);
  EXPECT_LT(MaxAbs(at::std(y, at::IntArrayRef{1}, /*unbiased=*/true) - 1), 1e-5);
}

TEST(Conv1x1Layer, Laws) {
  for (const int64_t channels : {1, 4, 5}) {
    at::Generator generator = Seeded(4);
    Conv1x1Layer layer(channels, generator, at::kDouble);
    Perturb(layer, 0.1);
    ExpectLaws(SubjectOf(layer), Gauss({2, channels, 3, 2}, 5));
  }
}

TEST(Conv1x1Layer, StartsOrthogonalAndMultipliesColumns) {
  at::Generator generator = Seeded(6);
  Conv1x1Layer layer(6, generator, at::kDouble);
  const c10::NoGradGuard no_grad;
  const at::Tensor w = layer.parameters()[0];
  EXPECT_LT(MaxAbs(w.matmul(w.t()) - at::eye(6, at::kDouble)), 1e-12);
  const at::Tensor x = Gauss({2, 6, 3, 2}, 7);
  const at::Tensor y = layer.Forward(x).value;
  EXPECT_LT(MaxAbs(y.select(2, 1).select(2, 0).t() - w.matmul(x.select(2, 1).select(2, 0).t())),
            1e-12);
}

TEST(Conv2dCouplingLayer, Laws) {
  for (const int64_t channels : {2, 5}) {
    at::Generator generator = Seeded(8);
    Conv2dCouplingLayer layer(channels, 4, generator, at::kDouble);
    Perturb(layer, 0.2);
    ExpectLaws(SubjectOf(layer), Gauss({2, channels, 3, 2}, 9));
  }
}

TEST(Conv2dCouplingLayer, LeavesTheFirstHalfAlone) {
  at::Generator generator = Seeded(10);
  Conv2dCouplingLayer layer(5, 4, generator, at::kDouble);
  const at::Tensor x = Gauss({2, 5, 3, 4}, 11);
  EXPECT_TRUE(layer.Forward(x).value.narrow(1, 0, 3).equal(x.narrow(1, 0, 3)));
  EXPECT_FALSE(layer.Forward(x).value.narrow(1, 3, 2).equal(x.narrow(1, 3, 2)));
}

// "starts as mu = 0, scale sigmoid(2)": the last convolution is switched off by its gain.
TEST(Conv2dCouplingLayer, StartsAsAConstantContractionOnceInitialised) {
  at::Generator generator = Seeded(12);
  Conv2dCouplingLayer layer(4, 8, generator, at::kDouble);
  const at::Tensor x = Gauss({16, 4, 4, 4}, 13) * 3 + 1;
  layer.InitialiseFrom(x);
  const c10::NoGradGuard no_grad;
  const Transformed y = layer.Forward(x);
  const double scale = 1 / (1 + std::exp(-2.0));
  EXPECT_LT(MaxAbs(y.value.narrow(1, 2, 2) - x.narrow(1, 2, 2) * scale), 1e-12);
  EXPECT_LT(MaxAbs(y.log_det - 2 * 16 * std::log(scale)), 1e-9);
}

// A direction says where a row of the weight points, not how long it is.
TEST(Conv2dCouplingLayer, TheLengthOfADirectionDoesNotMatter) {
  at::Generator generator = Seeded(14);
  Conv2dCouplingLayer layer(4, 5, generator, at::kDouble);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = Gauss({2, 4, 3, 3}, 15);
  const at::Tensor before = layer.Forward(x).value;
  auto parameters = layer.named_parameters();
  parameters["net.1.direction"].mul_(7.5);
  EXPECT_LT(MaxAbs(layer.Forward(x).value - before), 1e-12);
  parameters["net.1.gain"].mul_(2);
  EXPECT_GT(MaxAbs(layer.Forward(x).value - before), 1e-3);
}

TEST(EmergingConvLayer, Laws) {
  for (const int64_t kernel : {1, 3}) {
    at::Generator generator = Seeded(30);
    EmergingConvLayer layer(2, kernel, generator, at::kDouble);
    Perturb(layer, 0.2);  // also what lies outside the order, which must not count
    ExpectLaws(SubjectOf(layer), Gauss({2, 2, 3, 4}, 31));
  }
}

// Changing a pixel of the input changes what is around it on all sides, and nothing further than
// two kernels away.
TEST(EmergingConvLayer, TogetherBothHalvesSeeASquare) {
  at::Generator generator = Seeded(32);
  EmergingConvLayer layer(2, 3, generator, at::kDouble);
  Perturb(layer, 0.2);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = Gauss({1, 2, 7, 7}, 33);
  at::Tensor moved = x.clone();
  moved[0][0][3][3] += 1;
  const at::Tensor change = (layer.Forward(moved).value - layer.Forward(x).value).abs().sum(1)[0];
  for (int64_t h = 0; h < 7; ++h) {
    for (int64_t w = 0; w < 7; ++w) {
      const int64_t distance = std::max(std::abs(h - 3), std::abs(w - 3));
      const double size = change[h][w].item<double>();
      EXPECT_TRUE(distance > 1 || size > 0) << h << " " << w;
      EXPECT_TRUE(distance <= 2 || size == 0) << h << " " << w;
    }
  }
}

TEST(PeriodicConvLayer, Laws) {
  for (const LevelShape& shape : {LevelShape{2, 3, 4, true}, LevelShape{3, 2, 3, true}}) {
    const int64_t kernel = shape.height >= 3 ? 3 : 1;
    at::Generator generator = Seeded(34);
    PeriodicConvLayer layer(shape, kernel, generator, at::kDouble);
    Perturb(layer, 0.1);
    ExpectLaws(SubjectOf(layer), Gauss({2, shape.channels, shape.height, shape.width}, 35));
  }
}

TEST(PeriodicConvLayer, ARolledImageGivesTheRolledResult) {
  at::Generator generator = Seeded(36);
  PeriodicConvLayer layer({2, 4, 5, true}, 3, generator, at::kDouble);
  Perturb(layer, 0.1);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = Gauss({2, 2, 4, 5}, 37);
  const at::Tensor rolled = layer.Forward(x.roll({1, 2}, {2, 3})).value;
  EXPECT_LT(MaxAbs(rolled - layer.Forward(x).value.roll({1, 2}, {2, 3})), 1e-12);
}

TEST(WoodburyLayer, Laws) {
  at::Generator generator = Seeded(38);
  WoodburyLayer layer({3, 2, 4, true}, 2, generator, at::kDouble);
  Perturb(layer, 0.3);
  ExpectLaws(SubjectOf(layer), Gauss({2, 3, 2, 4}, 39));
}

TEST(PermutationLayer, LawsAndDirection) {
  at::Generator generator = Seeded(16);
  PermutationLayer layer(24, generator);
  const at::Tensor x = Gauss({2, 2, 3, 4}, 17);
  ExpectLaws(SubjectOf(layer), x);
  const at::Tensor order = layer.buffers()[0];
  const at::Tensor y = layer.Forward(x).value.flatten(1);
  for (int64_t k = 0; k < 24; ++k) {
    EXPECT_TRUE(y.select(1, k).equal(x.flatten(1).select(1, order[k].item<int64_t>())));
  }
}

TEST(LogitLayer, Laws) {
  LogitLayer layer;
  const at::Tensor x = Gauss({2, 1, 3, 4}, 18).tanh();  // as data: within -1 and 1
  ExpectLaws(SubjectOf(layer), x);
}

TEST(LogitLayer, TheEdgesOfTheRangeAreFiniteAndBeyondIsNot) {
  LogitLayer layer;
  const at::Tensor edge = at::cat(
      {at::full({1, 1, 1, 1}, -1.0, at::kDouble), at::full({1, 1, 1, 1}, 1.0, at::kDouble)});
  const Transformed y = layer.Forward(edge);
  EXPECT_NEAR(y.value[0].item<double>(), std::log(1e-6 / (1 - 1e-6)), 1e-9);
  EXPECT_NEAR(y.value[1].item<double>(), -std::log(1e-6 / (1 - 1e-6)), 1e-9);
  EXPECT_TRUE(y.log_det.isfinite().all().item<bool>());
  EXPECT_FALSE(layer.Forward(edge * 1.1).value.isfinite().any().item<bool>());
}

TEST(ButterflyOfImages, LawsInEitherFlattening) {
  for (const ImageFlattening flatten : {ImageFlattening::kChw, ImageFlattening::kHwc}) {
    ButterflySpec spec;
    spec.factors = 3;
    spec.shared = false;
    spec.flatten = flatten;
    at::Generator generator = Seeded(19);
    ButterflyLayer layer(spec, 24, generator, at::kDouble);
    Perturb(layer, 0.1);
    ExpectLaws(SubjectOf(layer), Gauss({2, 3, 2, 4}, 20));
  }
}

// The narrowest of three factors pairs vector elements 3 apart: three rows of an HWC image are
// three channels of two neighbouring pixels.
TEST(ButterflyOfImages, HwcLetsTheChannelRunFastest) {
  ButterflySpec spec;
  spec.factors = 3;
  spec.shared = false;
  at::Generator generator = Seeded(21), same = Seeded(21);
  ButterflyLayer chw(spec, 24, generator, at::kDouble);
  spec.flatten = ImageFlattening::kHwc;
  ButterflyLayer hwc(spec, 24, same, at::kDouble);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = Gauss({2, 3, 2, 4}, 22);
  const at::Tensor channels_last = x.permute({0, 2, 3, 1}).contiguous();
  const at::Tensor expected = chw.Forward(channels_last).value.permute({0, 3, 1, 2});
  EXPECT_LT(MaxAbs(hwc.Forward(x).value - expected), 1e-12);
}

TEST(Squeeze2d, NewChannelIsRowTimesFactorPlusColumnTimesChannelsPlusChannel) {
  const at::Tensor x = at::arange(2 * 4 * 6, at::kDouble).reshape({1, 2, 4, 6});
  const at::Tensor y = Squeeze2d(x, 2);
  EXPECT_EQ(y.sizes(), at::IntArrayRef({1, 8, 2, 3}));
  for (int64_t c = 0; c < 2; ++c) {
    for (int64_t h = 0; h < 4; ++h) {
      for (int64_t w = 0; w < 6; ++w) {
        const int64_t channel = ((h % 2) * 2 + w % 2) * 2 + c;
        EXPECT_EQ(y[0][channel][h / 2][w / 2].item<double>(), x[0][c][h][w].item<double>());
      }
    }
  }
  EXPECT_TRUE(Unsqueeze2d(y, 2).equal(x));
}

}  // namespace
}  // namespace bflow
