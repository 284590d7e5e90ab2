// Each layer against the laws, and what is particular to it.
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/std.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "model/layers/act_norm.h"
#include "model/layers/affine_coupling.h"
#include "model/layers/butterfly.h"
#include "model/layers/conv1d_coupling.h"
#include "model/layers/initialise.h"
#include "model/layers/lu_matmul.h"
#include "model/layers/squeeze.h"
#include "model/layers/whitening.h"
#include "tests/model/layers/bijector_laws.h"

namespace bflow {
namespace {

at::Generator Seeded(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

double MaxAbs(const at::Tensor& t) { return t.detach().abs().max().item<double>(); }

TEST(ActNormLayer, Laws) {
  at::Generator generator = Seeded(1);
  ActNormLayer layer(3, /*is_image=*/false, generator, at::kDouble);
  Perturb(layer, 0.3);
  ExpectLaws(SubjectOf(layer), Gauss({2, 4, 3}, 1));
}

TEST(ActNormLayer, InitialisationNormalisesItsOutput) {
  at::Generator generator = Seeded(2);
  ActNormLayer layer(3, /*is_image=*/false, generator, at::kDouble);
  Perturb(layer, 0.3);
  const at::Tensor x = Gauss({5, 7, 3}, 3) * 4 + 2;
  layer.InitialiseFrom(x);
  const at::Tensor y = layer.Forward(x).value.detach().flatten(0, 1);
  EXPECT_LT(MaxAbs(y.mean(0)), 1e-12);
  EXPECT_LT(MaxAbs(at::std(y, at::IntArrayRef{0}, /*unbiased=*/true) - 1), 1e-5);
  EXPECT_GT(MaxAbs(at::std(y, at::IntArrayRef{0}, /*unbiased=*/false) - 1), 1e-3);
}

TEST(LuMatmulLayer, Laws) {
  for (const int64_t channels : {1, 2, 5}) {
    at::Generator generator = Seeded(4);
    LuMatmulLayer layer(channels, generator, at::kDouble);
    Perturb(layer, 0.2);  // also the entries outside the triangles, which must not count
    ExpectLaws(SubjectOf(layer), Gauss({3, 2, channels}, 5));
  }
}

TEST(LuMatmulLayer, StartsOrthogonal) {
  at::Generator generator = Seeded(6);
  LuMatmulLayer layer(6, generator, at::kDouble);
  const c10::NoGradGuard no_grad;
  const at::Tensor w = layer.Forward(at::eye(6, at::kDouble).unsqueeze(0)).value[0];
  EXPECT_LT(MaxAbs(w.matmul(w.t()) - at::eye(6, at::kDouble)), 1e-12);
}

ButterflySpec Spec(int factors, bool shared, ButterflyOrder order, bool bi_direction) {
  ButterflySpec spec;
  spec.factors = factors;
  spec.shared = shared;
  spec.order = order;
  spec.bi_direction = bi_direction;
  return spec;
}

ButterflySpec PartitionSpec(bool rotate, bool shared) {
  ButterflySpec spec;
  spec.shared = shared;
  spec.partitions = {16, 8, 4, 2};
  spec.partition_factors = {4, 3, 2, 1};
  spec.rotate = rotate;
  return spec;
}

struct ButterflyCase {
  ButterflySpec spec;
  int64_t time_steps, channels;
};

std::vector<ButterflyCase> ButterflyCases() {
  std::vector<ButterflyCase> cases;
  for (const bool shared : {true, false}) {
    for (const bool bi_direction : {true, false}) {
      for (const auto order : {ButterflyOrder::kWidestFirst, ButterflyOrder::kNarrowestFirst}) {
        cases.push_back({Spec(3, shared, order, bi_direction), 4, 6});
      }
    }
    cases.push_back({PartitionSpec(/*rotate=*/true, shared), 15, 2});
    cases.push_back({PartitionSpec(/*rotate=*/false, shared), 10, 3});
  }
  return cases;
}

TEST(ButterflyLayer, Laws) {
  int index = 0;
  for (const ButterflyCase& c : ButterflyCases()) {
    SCOPED_TRACE(index++);
    at::Generator generator = Seeded(7);
    ButterflyLayer layer(c.spec, c.time_steps * c.channels, generator, at::kDouble);
    Perturb(layer, 0.1);
    ExpectLaws(SubjectOf(layer), Gauss({2, c.time_steps, c.channels}, 8));
  }
}

TEST(ButterflyLayer, StartsAsARotation) {
  for (const ButterflyCase& c : ButterflyCases()) {
    at::Generator generator = Seeded(9);
    ButterflyLayer layer(c.spec, c.time_steps * c.channels, generator, at::kDouble);
    const c10::NoGradGuard no_grad;
    const at::Tensor x = Gauss({4, c.time_steps, c.channels}, 10);
    const Transformed y = layer.Forward(x);
    EXPECT_LT(MaxAbs(y.value.square().sum() - x.square().sum()), 1e-10);
    EXPECT_LT(MaxAbs(y.log_det), 1e-12);
    EXPECT_GT(MaxAbs(y.value - x), 0.1);
  }
}

TEST(ButterflyLayer, RotationByNinetyDegreesIsFinite) {
  at::Generator generator = Seeded(11);
  ButterflyLayer layer(Spec(1, true, ButterflyOrder::kWidestFirst, false), 4, generator,
                       at::kDouble);
  const c10::NoGradGuard no_grad;
  at::Tensor factor = layer.parameters()[0];
  factor.zero_();
  factor[0][0][0][1].fill_(-1.0);  // w01
  factor[0][1][0][0].fill_(1.0);   // w10
  const at::Tensor x = Gauss({1, 2, 2}, 12);
  const Transformed y = layer.Forward(x);
  EXPECT_EQ(MaxAbs(y.log_det), 0);
  EXPECT_EQ(y.value.flatten()[0].item<double>(), x.flatten()[2].item<double>());
  EXPECT_EQ(y.value.flatten()[2].item<double>(), -x.flatten()[0].item<double>());
  EXPECT_LT(MaxAbs(layer.Inverse(y.value).value - x), 1e-15);
}

TEST(ButterflyLayer, NamesAreThoseOfTheModelFile) {
  at::Generator generator = Seeded(13);
  ButterflyLayer whole(Spec(2, true, ButterflyOrder::kNarrowestFirst, false), 8, generator,
                       at::kDouble);
  EXPECT_EQ(whole.named_parameters().keys(), (std::vector<std::string>{"factors.0", "factors.1"}));
  EXPECT_EQ(whole.parameters()[0].sizes(), at::IntArrayRef({2, 2, 1, 2}));
  ButterflyLayer parts(PartitionSpec(/*rotate=*/true, /*shared=*/false), 30, generator,
                       at::kDouble);
  EXPECT_EQ(parts.named_parameters().size(), 4U * 10U);
  EXPECT_TRUE(parts.named_parameters().contains("rounds.1.parts.1.factors.3"));
}

TEST(AffineCouplingLayer, Laws) {
  at::Generator generator = Seeded(14);
  AffineCouplingLayer layer(6, 5, generator, at::kDouble);
  Perturb(layer, 0.2);
  ExpectLaws(SubjectOf(layer), Gauss({3, 4, 6}, 15));
}

TEST(AffineCouplingLayer, LeavesTheFirstHalfAlone) {
  at::Generator generator = Seeded(16);
  AffineCouplingLayer layer(4, 16, generator, at::kDouble);
  const at::Tensor x = Gauss({2, 3, 4}, 17);
  EXPECT_TRUE(layer.Forward(x).value.narrow(2, 0, 2).equal(x.narrow(2, 0, 2)));
  EXPECT_TRUE(layer.named_parameters().contains("shift_net.2.bias"));
}

TEST(Initialise, RandomOrthogonalOfAnyShape) {
  at::Generator generator = Seeded(18);
  const at::Tensor tall = RandomOrthogonal(7, 3, generator);
  EXPECT_LT(MaxAbs(tall.t().matmul(tall) - at::eye(3, at::kDouble)), 1e-12);
  const at::Tensor wide = RandomOrthogonal(3, 7, generator);
  EXPECT_LT(MaxAbs(wide.matmul(wide.t()) - at::eye(3, at::kDouble)), 1e-12);
}

TEST(Squeeze, NewChannelIsPhaseTimesChannelsPlusChannel) {
  const at::Tensor x = at::arange(12, at::kDouble).reshape({1, 4, 3});
  const at::Tensor y = Squeeze(x, 2);
  EXPECT_EQ(y.sizes(), at::IntArrayRef({1, 2, 6}));
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t c = 0; c < 3; ++c) {
      EXPECT_EQ(y[0][t / 2][(t % 2) * 3 + c].item<double>(), x[0][t][c].item<double>());
    }
  }
  EXPECT_TRUE(Unsqueeze(y, 2).equal(x));
}

// Moves the buffers, which nothing trains, off zero.
void PerturbWhitening(WhiteningLayer& layer, double size) {
  const c10::NoGradGuard no_grad;
  uint64_t seed = 200;
  for (at::Tensor& buffer : layer.buffers()) buffer.add_(Gauss(buffer.sizes(), seed++) * size);
}

TEST(WhiteningLayer, Laws) {
  for (const auto& [channels, order, steps] :
       {std::array<int64_t, 3>{2, 2, 5}, {1, 3, 6}, {3, 1, 4}, {2, 3, 3}}) {
    WhiteningLayer layer(channels, order, at::kDouble);
    PerturbWhitening(layer, 0.2);
    ExpectLaws(SubjectOf(layer), Gauss({2, steps, channels}, 21));
  }
}

TEST(WhiteningLayer, StartsAsTheIdentityAndHasNothingToTrain) {
  WhiteningLayer layer(2, 3, at::kDouble);
  const at::Tensor x = Gauss({2, 8, 2}, 22);
  const Transformed y = layer.Forward(x);
  EXPECT_EQ(MaxAbs(y.value - x), 0);
  EXPECT_EQ(MaxAbs(y.log_det), 0);
  EXPECT_TRUE(layer.parameters().empty());
  EXPECT_EQ(layer.named_buffers().keys(),
            (std::vector<std::string>{"lags", "instantaneous", "bias", "log_scale", "head_weight",
                                      "head_bias", "head_log_scale"}));
}

TEST(WhiteningLayer, KeepsSmallResidualsOfLargeValuesInAFloatFlow) {
  WhiteningLayer layer(1, 1, at::kFloat);
  const c10::NoGradGuard no_grad;
  for (const auto& buffer : layer.named_buffers()) {
    if (buffer.key() == "lags") buffer.value().fill_(1.0);
    if (buffer.key() == "log_scale") buffer.value().fill_(std::log(1e-9));
  }
  const at::Tensor x = 1 + 1e-9 * Gauss({1, 50, 1}, 23);
  const Transformed y = layer.Forward(x);
  EXPECT_EQ(y.value.scalar_type(), at::kFloat);
  const at::Tensor steps = (x.narrow(1, 1, 49) - x.narrow(1, 0, 49)) * 1e9;
  EXPECT_LT(MaxAbs(y.value.narrow(1, 1, 49) - steps), 1e-5);
  const Transformed back = layer.Inverse(y.value);
  EXPECT_EQ(back.value.scalar_type(), at::kDouble);
  EXPECT_LT(MaxAbs(back.value - x), 1e-7);
}

TEST(Conv1dCouplingLayer, Laws) {
  for (const auto& [channels, kernel, dilation] :
       {std::array<int, 3>{4, 3, 2}, {2, 5, 1}, {6, 1, 3}}) {
    at::Generator generator = Seeded(24);
    Conv1dCouplingLayer layer({.hidden = 5, .kernel = kernel, .dilation = dilation}, channels,
                              generator, at::kDouble);
    Perturb(layer, 0.3);
    ExpectLaws(SubjectOf(layer), Gauss({2, 6, channels}, 25));
  }
}

TEST(Conv1dCouplingLayer, StartsAsTheIdentity) {
  at::Generator generator = Seeded(26);
  Conv1dCouplingLayer layer({}, 4, generator, at::kDouble);
  const at::Tensor x = Gauss({2, 9, 4}, 27);
  const Transformed y = layer.Forward(x);
  EXPECT_EQ(MaxAbs(y.value - x), 0);
  EXPECT_EQ(MaxAbs(y.log_det), 0);
  const at::Tensor weight = layer.named_parameters()["net.1.weight"];
  EXPECT_EQ(weight.sizes(), at::IntArrayRef({24, 24, 5}));
  EXPECT_LE(MaxAbs(weight), 1 / std::sqrt(24.0 * 5));
  EXPECT_GT(MaxAbs(weight), 0.9 / std::sqrt(24.0 * 5));
}

}  // namespace
}  // namespace bflow
