// The layers on codes that give exact code lengths: the lattice and the box.
#include <cmath>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/linalg_slogdet.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "model/layers/box.h"
#include "model/layers/lattice.h"
#include "tests/model/layers/bijector_laws.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

// 2 channels of codes 0 .. 99 and of -30, -28, .. 70.
LevelShape Shape(int64_t steps) {
  LevelShape shape;
  shape.channels = 2;
  shape.height = steps;
  shape.channels_of_event.resize(2);
  shape.channels_of_event[0].lo = 0;
  shape.channels_of_event[0].hi = 99;
  shape.channels_of_event[1].lo = -30;
  shape.channels_of_event[1].hi = 70;
  shape.channels_of_event[1].step = 2;
  return shape;
}

at::Tensor Uniform(at::IntArrayRef sizes, uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::rand(sizes, generator, at::kDouble);
}

double Largest(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// log|det| of the Jacobian of each row by autograd.
at::Tensor JacobianLogDet(Bijector& layer, const at::Tensor& x) {
  std::vector<at::Tensor> log_dets;
  for (int64_t b = 0; b < x.size(0); ++b) {
    const at::Tensor row = x.narrow(0, b, 1).clone().requires_grad_(true);
    const at::Tensor y = layer.Forward(row).value.flatten();
    std::vector<at::Tensor> jacobian;
    for (int64_t i = 0; i < y.numel(); ++i) {
      jacobian.push_back(
          torch::autograd::grad({y[i]}, {row}, {}, /*retain_graph=*/true)[0].flatten());
    }
    log_dets.push_back(std::get<1>(at::linalg_slogdet(at::stack(jacobian))));
  }
  return at::stack(log_dets);
}

// ---- The lattice.

const std::vector<int64_t> kSeen0 = {3, 4, 5, 9, 10, 17}, kSeen1 = {-2, 0};

std::shared_ptr<LatticeLayer> Lattice() {
  auto layer = std::make_shared<LatticeLayer>(LatticeSpec{{6, 2}}, Shape(8));
  for (auto& buffer : layer->named_buffers()) {
    buffer.value().copy_(at::tensor(buffer.key() == "codes.0" ? kSeen0 : kSeen1, at::kLong));
  }
  return layer;
}

TEST(Lattice, RanksSeenCodesAndShareTheGapsLastThousandth) {
  const auto layer = Lattice();
  const CodeGrid grid(Shape(8));
  struct Case {
    double code, u, rank, to, slope;
  };
  // Channel 0: seen, in a gap of 3 unseen codes, seen before a gap, beyond both ends.
  const Case cases[] = {{4, 0.25, 4, 0.25, 1},
                        {6, 0.5, 5, 0.999 + 0.001 / 6, 0.001 / 3},
                        {8, 0, 5, 0.999 + 0.002 / 3, 0.001 / 3},
                        {5, 0.5, 5, 0.4995, 0.999},
                        {9, 0.5, 6, 0.5, 1},
                        {17, 0.75, 8, 0.75, 1},
                        {20, 0.75, 11, 0.75, 1},
                        {-4, 0.125, -4, 0.125, 1},
                        {3, 0, 3, 0, 1}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.code);
    const at::Tensor index = at::tensor({c.code, 50.0}, at::kDouble).view({1, 1, 2});
    const at::Tensor noise = at::tensor({c.u, 0.5}, at::kDouble).view({1, 1, 2});
    const Transformed y = layer->Forward(grid.Join({index, noise}));
    const CodePosition to = grid.Split(y.value);
    EXPECT_EQ(to.index[0][0][0].item<double>(), c.rank);
    EXPECT_NEAR(to.noise[0][0][0].item<double>(), c.to, 1e-9);
    EXPECT_EQ(to.index[0][0][1].item<double>(), 49);  // -2 and 0 are neighbours: -2, -1, 0, ..
    EXPECT_NEAR(y.log_det[0].item<double>(), std::log(c.slope), 1e-12);
    EXPECT_EQ(layer->Ranks(0, at::tensor({c.code}, at::kDouble)).item<double>(), c.rank);
    const CodePosition back = grid.Split(layer->Inverse(y.value).value);
    EXPECT_EQ(back.index[0][0][0].item<double>(), c.code);
    EXPECT_NEAR(back.noise[0][0][0].item<double>(), c.u, 1e-5);
  }
}

TEST(Lattice, ObeysTheLaws) {
  const auto layer = Lattice();
  const CodeGrid grid(Shape(8));
  const at::Tensor index = (Uniform({5, 8, 2}, 1) * 30 - 5).floor();
  const at::Tensor x = grid.Join({index, Uniform({5, 8, 2}, 2) * 0.98 + 0.01});
  const Transformed y = layer->Forward(x);
  EXPECT_LT(Largest(y.log_det, JacobianLogDet(*layer, x)), 1e-9);
  const Transformed back = layer->Inverse(y.value);
  EXPECT_LT(Largest(back.value, x), 1e-9);
  EXPECT_LT(Largest(back.log_det, -y.log_det), 1e-12);
  const Transformed one = layer->Forward(x.narrow(0, 3, 1));
  EXPECT_TRUE(at::equal(one.value[0], y.value[3]));
  EXPECT_TRUE(at::equal(one.log_det[0], y.log_det[3]));
}

// What is no number must not reach another row, nor end the batch.
TEST(Lattice, KeepsWhatIsNoNumberToItself) {
  const auto layer = Lattice();
  at::Tensor x = Uniform({3, 8, 2}, 4);
  const at::Tensor clean = x.clone();
  x[1][2][0] = std::nan("");
  for (const bool inverse : {false, true}) {
    const Transformed y = inverse ? layer->Inverse(x) : layer->Forward(x);
    const Transformed expected = inverse ? layer->Inverse(clean) : layer->Forward(clean);
    EXPECT_TRUE(std::isnan(y.value[1][2][0].item<double>()));
    EXPECT_TRUE(at::equal(y.value[0], expected.value[0]));
    EXPECT_TRUE(at::equal(y.value[2], expected.value[2]));
  }
}

TEST(Lattice, WithoutGapsIsTheIdentity) {
  LatticeLayer layer(LatticeSpec{{40, 1}}, Shape(8));
  const at::Tensor x = Uniform({2, 8, 2}, 3) * 3 - 1.5;
  const Transformed y = layer.Forward(x);
  EXPECT_LT(Largest(y.value, x), 1e-12);
  EXPECT_TRUE(at::equal(y.log_det, at::zeros_like(y.log_det)));
}

// ---- The box.

// Weights that move the mixtures, a whitening that takes a part of the step before.
std::shared_ptr<BoxLayer> Box(int64_t steps, bool adaptive, at::ScalarType dtype = at::kDouble) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{9});
  auto layer = std::make_shared<BoxLayer>(BoxSpec{3, 6, 3, {1, 4}, adaptive}, Shape(steps),
                                          generator, dtype);
  Perturb(*layer, 0.3);
  const c10::NoGradGuard no_grad;
  for (auto& buffer : layer->named_buffers()) {
    if (buffer.key() == "whitening.lags") buffer.value().select(2, 0).fill_diagonal_(0.9);
    if (buffer.key() == "whitening.instantaneous") buffer.value().fill_(0.2);
    if (buffer.key() == "whitening.head_weight") buffer.value().diagonal(-2).fill_(0.8);
    if (buffer.key() == "whitening.log_scale") buffer.value().fill_(0.5);
    if (buffer.key() == "mean") buffer.value().fill_(20);
    if (buffer.key() == "log_deviation") buffer.value().fill_(2);
  }
  return layer;
}

// Codes that walk, and noise inside the cells.
at::Tensor Walk(int64_t rows, int64_t steps) {
  const CodeGrid grid(Shape(steps));
  const at::Tensor index = (Gauss({rows, steps, 2}, 4) * 3).cumsum(1).floor() + 20;
  return grid.Join({index, Uniform({rows, steps, 2}, 5) * 0.9 + 0.05});
}

// Without and with an expert.
class BoxOf : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Adaptive, BoxOf, ::testing::Bool());

TEST_P(BoxOf, ObeysTheLaws) {
  const auto layer = Box(10, GetParam());
  const at::Tensor x = Walk(3, 10);
  const Transformed y = layer->Forward(x);
  EXPECT_LT(Largest(y.log_det.detach(), JacobianLogDet(*layer, x)), 1e-9);
  const Transformed back = layer->Inverse(y.value);
  EXPECT_LT(Largest(back.value, x), 1e-9);
  EXPECT_LT(Largest(back.log_det, -y.log_det), 1e-9);
  // A latent's data have that latent.
  const at::Tensor z = Gauss({3, 10, 2}, 6);
  EXPECT_LT(Largest(layer->Forward(layer->Inverse(z).value).value, z), 1e-6);
  const Transformed one = layer->Forward(x.narrow(0, 1, 1));
  EXPECT_TRUE(at::equal(one.value[0], y.value[1]));
  EXPECT_TRUE(at::equal(one.log_det[0], y.log_det[1]));
  layer->Freeze();
  EXPECT_TRUE(at::equal(layer->Forward(x).value, y.value));
  EXPECT_LT(Largest(layer->Inverse(y.value).value, x), 1e-9);
}

TEST_P(BoxOf, GradientsOfAllParametersEqualDifferences) {
  const auto layer = Box(10, GetParam());
  const at::Tensor x = Walk(2, 10), weight = Gauss({2, 10, 2}, 7), other = Gauss({2}, 8);
  const auto loss = [&] {
    const Transformed y = layer->Forward(x);
    return (y.value * weight).sum() + (y.log_det * other).sum();
  };
  const std::vector<at::Tensor> parameters = layer->parameters();
  ASSERT_EQ(parameters.size(), 2u * (1 + 2 * 2 + 2 * 2));
  const std::vector<at::Tensor> gradients = torch::autograd::grad({loss()}, parameters);
  const c10::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (size_t p = 0; p < parameters.size(); ++p) {
    const at::Tensor values = parameters[p].flatten();
    for (int64_t i = 0; i < values.numel(); i += std::max<int64_t>(1, values.numel() / 7)) {
      at::Tensor entry = values[i];
      const double centre = entry.item<double>();
      entry.fill_(centre + kStep);
      const double above = loss().item<double>();
      entry.fill_(centre - kStep);
      const double below = loss().item<double>();
      entry.fill_(centre);
      const double numeric = (above - below) / (2 * kStep);
      EXPECT_NEAR(gradients[p].flatten()[i].item<double>(), numeric,
                  1e-6 * std::max(1.0, std::fabs(numeric)))
          << p << " entry " << i;
    }
  }
}

TEST_P(BoxOf, LogPIsThatOfTheCodesWhateverTheNoise) {
  const auto layer = Box(30, GetParam(), at::kFloat);
  const c10::NoGradGuard no_grad;
  const CodeGrid grid(Shape(30));
  const at::Tensor index = grid.Split(Walk(4, 30)).index;
  const auto log_prob = [&](const at::Tensor& u) {
    const Transformed y = layer->Forward(grid.Join({index, u}));
    const at::Tensor size = y.value.abs();
    return y.log_det - (size + 2 * at::log1p((-size).exp())).flatten(1).sum(1);
  };
  const at::Tensor wanted = log_prob(at::full_like(index, 0.5));
  EXPECT_LT(Largest(log_prob(Uniform({4, 30, 2}, 11)), wanted), 1e-9);
  EXPECT_LT(Largest(log_prob(Uniform({4, 30, 2}, 12)), wanted), 1e-9);
  EXPECT_LT(Largest(log_prob(at::zeros_like(index)), wanted), 1e-9);
}

}  // namespace
}  // namespace bflow
