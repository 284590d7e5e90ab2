// The codes of an event, and the layer that moves the noise inside their cells: laws, codes that
// stay, rows that do not depend on their batch, and what flows make of float32.
#include "model/layers/variational_dequantization.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/TensorOperators.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randint.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "model/data/scaling.h"
#include "model/layers/code_grid.h"
#include "tests/model/layers/bijector_laws.h"

namespace bflow {
namespace {

at::Generator Seeded(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

double MaxAbs(const at::Tensor& t) { return t.detach().abs().max().item<double>(); }

// Channels of different ranges; channel 1 has steps of 3.
FlowSpec Quantised(bool is_image, std::vector<int64_t> event_shape) {
  FlowSpec spec;
  spec.architecture = is_image ? "image" : "waveform";
  spec.event_shape = std::move(event_shape);
  for (int64_t c = 0; c < spec.channel_count(); ++c) {
    ChannelSpec& channel = spec.channels.emplace_back();
    channel.name = std::string(1, static_cast<char>('a' + c));
    channel.input_min = -2048;
    channel.input_max = 2047;
    channel.lo = -5 - static_cast<double>(c);
    channel.hi = 8 + 2 * static_cast<double>(c);
    if (c == 1) channel.step = 3;
  }
  return spec;
}

// k + u in the scaled unit, k beyond lo and hi too, u away from the cells' borders.
at::Tensor Event(const CodeGrid& grid, const FlowSpec& spec, int64_t rows, uint64_t seed) {
  at::Generator generator = Seeded(seed);
  const std::vector<int64_t> shape = Batched(rows, spec.event_shape);
  const at::Tensor u = at::rand(shape, generator, at::kDouble) * 0.4 + 0.3;
  return grid.Join({at::randint(-9, 30, shape, generator, at::kDouble), u});
}

struct Subject {
  FlowSpec spec;
  CodeGrid grid;
  VariationalDequantizationLayer layer;
};

std::unique_ptr<Subject> Make(const FlowSpec& spec, const VariationalDequantizationSpec& layer,
                              at::ScalarType dtype = at::kDouble) {
  at::Generator generator = Seeded(1);
  const LevelShape shape = EventLevelShape(spec);
  return std::unique_ptr<Subject>(new Subject{
      spec, CodeGrid(shape), VariationalDequantizationLayer(layer, shape, generator, dtype)});
}

VariationalDequantizationSpec SmallNet(int kernel, std::vector<int> dilations) {
  return {.hidden = 5, .kernel = kernel, .dilations = std::move(dilations)};
}

TEST(CodeGrid, FindsTheCodesThatScalingMadeUpToItsRounding) {
  for (const bool is_image : {false, true}) {
    const FlowSpec spec =
        Quantised(is_image, is_image ? std::vector<int64_t>{3, 2, 4} : std::vector<int64_t>{8, 3});
    const CodeGrid grid(EventLevelShape(spec));
    std::vector<float> codes;
    std::vector<double> index;
    for (int64_t d = 0; d < spec.event_size(); ++d) {
      const ChannelSpec& channel = spec.channels[static_cast<size_t>(spec.channel_of(d))];
      index.push_back(static_cast<double>(7 * d % 61) - 10);
      codes.push_back(static_cast<float>(channel.lo + channel.step * index.back()));
    }
    for (const CodeNoise noise : {CodeNoise::kNone, CodeNoise::kCenter, CodeNoise::kUniform}) {
      std::vector<double> x(codes.size());
      ScaleEvent(spec, codes, noise, /*seed=*/5, /*row=*/6, /*draw=*/7, x);
      const auto at = [&](const std::vector<double>& values) {
        return at::tensor(values, at::kDouble).view(Batched(1, spec.event_shape));
      };
      const CodePosition found = grid.Split(at(x));
      EXPECT_TRUE(found.index.equal(at(index)));
      EXPECT_GE(found.noise.min().item<double>(), 0);
      EXPECT_LT(found.noise.max().item<double>(), 1);
      if (noise != CodeNoise::kUniform) {
        EXPECT_LT(MaxAbs(found.noise - (noise == CodeNoise::kCenter ? 0.5 : 0)), 1e-12);
      }
      EXPECT_LT(MaxAbs(grid.Join(found) - at(x)), 1e-12);
    }
  }
}

TEST(CodeGrid, AValueJustBelowACodeIsThatCode) {
  const FlowSpec spec = Quantised(false, {1, 1});
  const CodeGrid grid(EventLevelShape(spec));
  const at::Tensor x =
      at::tensor({17 - 1e-12, 17 - 1e-6}, at::kDouble).view({2, 1, 1}) / grid.scale() - 1;
  const CodePosition found = grid.Split(x);
  EXPECT_EQ(found.index[0].item<double>(), 17);
  EXPECT_EQ(found.noise[0].item<double>(), 0);
  EXPECT_EQ(found.index[1].item<double>(), 16);
  EXPECT_NEAR(found.noise[1].item<double>(), 1 - 1e-6, 1e-10);
}

TEST(VariationalDequantizationLayer, Laws) {
  const struct {
    FlowSpec spec;
    VariationalDequantizationSpec layer;
  } cases[] = {{Quantised(false, {6, 2}), SmallNet(3, {1, 2})},
               {Quantised(false, {5, 1}), SmallNet(1, {1})},
               {Quantised(false, {1, 3}), SmallNet(5, {4})},
               {Quantised(true, {1, 4, 3}), SmallNet(3, {1, 2})},
               {Quantised(true, {3, 2, 2}), SmallNet(3, {1})}};
  for (const auto& c : cases) {
    SCOPED_TRACE(::testing::PrintToString(c.spec.event_shape));
    const auto subject = Make(c.spec, c.layer);
    subject->layer.InitialiseFrom(Event(subject->grid, c.spec, 8, 2));
    Perturb(subject->layer, 0.2);
    ExpectLaws(SubjectOf(subject->layer), Event(subject->grid, c.spec, 2, 3));
  }
}

TEST(VariationalDequantizationLayer, StartsAsTheIdentity) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const FlowSpec spec = Quantised(false, {9, 2});
    const auto subject = Make(spec, {}, dtype);
    const at::Tensor x = Event(subject->grid, spec, 3, 4);
    subject->layer.InitialiseFrom(x);
    const Transformed y = subject->layer.Forward(x);
    EXPECT_EQ(y.value.scalar_type(), at::kDouble);
    EXPECT_LT(MaxAbs(y.value - x), 1e-13);
    EXPECT_EQ(MaxAbs(y.log_det), 0);
    const auto parameters = subject->layer.named_parameters();
    EXPECT_EQ(parameters["net.0.weight"].sizes(), at::IntArrayRef({24, 4, 5}));
    EXPECT_EQ(parameters["net.4.weight"].sizes(), at::IntArrayRef({4, 24, 1}));
  }
}

TEST(VariationalDequantizationLayer, IsTheFormulaOfItsNet) {
  // One convolution of one tap on each side: m and l by hand.
  const FlowSpec spec = Quantised(false, {2, 1});
  const auto subject = Make(spec, {.hidden = 1, .kernel = 1, .dilations = {1}});
  const c10::NoGradGuard no_grad;
  auto parameters = subject->layer.named_parameters();
  parameters["mean"].fill_(0.25);
  parameters["log_scale"].fill_(std::log(2.0));
  parameters["net.0.weight"].copy_(at::tensor({0.3, -0.7}, at::kDouble).view({1, 2, 1}));
  parameters["net.0.bias"].fill_(0.1);
  parameters["net.1.weight"].copy_(at::tensor({0.2, 0.9}, at::kDouble).view({2, 1, 1}));
  parameters["net.1.bias"].copy_(at::tensor({-0.1, 0.4}, at::kDouble));
  const std::vector<double> k = {4, 6}, u = {0.2, 0.7};
  const CodePosition position = {at::tensor(k, at::kDouble).view({1, 2, 1}),
                                 at::tensor(u, at::kDouble).view({1, 2, 1})};
  const Transformed y = subject->layer.Forward(subject->grid.Join(position));
  const double scale = (8.0 + 5.0) / 2;
  double log_det = 0;
  for (size_t t = 0; t < 2; ++t) {
    const double change = t == 0 ? 0 : std::asinh(2 * (k[1] - k[0]));
    const double code = ((k[t] + 0.5) / scale - 1 - 0.25) / 2;
    const double pre = 0.3 * change - 0.7 * code + 0.1;
    const double h = pre > 0 ? pre : std::expm1(pre);
    const double m = 0.2 * h - 0.1, l = 0.9 * h + 0.4;
    const double slope = std::exp(3 * std::tanh(l / 3));
    const double moved = 1 / (1 + std::exp(-4 * m - slope * std::log(u[t] / (1 - u[t]))));
    EXPECT_NEAR(y.value[0][static_cast<int64_t>(t)].item<double>(), (k[t] + moved) / scale - 1,
                1e-13);
    log_det += std::log(slope * moved * (1 - moved) / (u[t] * (1 - u[t])));
  }
  EXPECT_NEAR(y.log_det.item<double>(), log_det, 1e-12);
}

TEST(VariationalDequantizationLayer, KeepsEveryCodeHoweverFarItMovesTheNoise) {
  const FlowSpec spec = Quantised(false, {40, 2});
  const auto subject = Make(spec, {.hidden = 8, .kernel = 3, .dilations = {1}});
  Perturb(subject->layer, 8);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = Event(subject->grid, spec, 4, 5);
  const CodePosition before = subject->grid.Split(x);
  for (const double u : {0.0, 0x1p-24, 0.5, 1 - 0x1p-24}) {
    const at::Tensor at_u = subject->grid.Join({before.index, at::zeros_like(before.index) + u});
    const Transformed y = subject->layer.Forward(at_u);
    EXPECT_TRUE(y.log_det.isfinite().all().item<bool>());
    EXPECT_TRUE(subject->grid.Split(y.value).index.equal(before.index));
    // As a sample, which may lie anywhere, that a float32 flow returned.
    const Transformed back = subject->layer.Inverse(at_u);
    EXPECT_TRUE(back.log_det.isfinite().all().item<bool>());
    EXPECT_TRUE(subject->grid.Split(back.value).index.equal(before.index));
  }
}

// To the bit: at the published size, and where a library has an own path for a few values.
TEST(VariationalDequantizationLayer, ARowOfAWaveformDoesNotDependOnItsBatch) {
  for (const auto& [steps, dtype] :
       {std::pair(1024, at::kFloat), {1024, at::kDouble}, {15, at::kFloat}, {16, at::kFloat}}) {
    const FlowSpec spec = Quantised(false, {steps, 2});
    const auto subject = Make(spec, {}, dtype);
    Perturb(subject->layer, 0.1);
    const c10::NoGradGuard no_grad;
    const at::Tensor x = Event(subject->grid, spec, 32, 6);
    const Transformed all = subject->layer.Forward(x), all_back = subject->layer.Inverse(x);
    for (const int64_t rows : {1, 3, 16}) {
      for (const int64_t first : {0, 5, 16}) {
        const at::Tensor some = x.narrow(0, first, rows).clone();
        const Transformed y = subject->layer.Forward(some);
        EXPECT_TRUE(y.value.equal(all.value.narrow(0, first, rows))) << rows;
        EXPECT_TRUE(y.log_det.equal(all.log_det.narrow(0, first, rows))) << rows;
        const Transformed back = subject->layer.Inverse(some);
        EXPECT_TRUE(back.value.equal(all_back.value.narrow(0, first, rows))) << rows;
        EXPECT_TRUE(back.log_det.equal(all_back.log_det.narrow(0, first, rows))) << rows;
      }
    }
  }
}

TEST(VariationalDequantizationLayer, AFloatNetIsTheDoubleOneUpToItsRounding) {
  for (const bool is_image : {false, true}) {
    const FlowSpec spec =
        Quantised(is_image, is_image ? std::vector<int64_t>{2, 8, 8} : std::vector<int64_t>{64, 2});
    const auto exact = Make(spec, SmallNet(3, {1, 2}));
    const auto rounded = Make(spec, SmallNet(3, {1, 2}), at::kFloat);
    Perturb(exact->layer, 0.2);
    const c10::NoGradGuard no_grad;
    auto to = rounded->layer.parameters();
    for (size_t i = 0; i < to.size(); ++i) to[i].copy_(exact->layer.parameters()[i]);
    const at::Tensor x = Event(exact->grid, spec, 2, 7);
    EXPECT_LT(MaxAbs(exact->layer.Forward(x).log_det - rounded->layer.Forward(x).log_det), 1e-3);
    EXPECT_LT(MaxAbs(exact->layer.Forward(x).value - rounded->layer.Forward(x).value), 1e-6);
  }
}

TEST(VariationalDequantizationLayer, NormalisesByTheCodesOfTheFirstBatch) {
  const FlowSpec spec = Quantised(true, {2, 4, 4});
  const auto subject = Make(spec, SmallNet(3, {1}));
  const at::Tensor x = Event(subject->grid, spec, 50, 8);
  subject->layer.InitialiseFrom(x);
  const at::Tensor codes =
      subject->grid.Join({subject->grid.Split(x).index, at::zeros_like(x) + 0.5})
          .transpose(0, 1)
          .flatten(1);
  const auto parameters = subject->layer.named_parameters();
  EXPECT_LT(MaxAbs(parameters["mean"] - codes.mean(1)), 1e-12);
  EXPECT_LT(MaxAbs(parameters["log_scale"].exp() - codes.std(1, /*unbiased=*/false)), 1e-12);
  // A channel that never moves has the scale of one code.
  subject->layer.InitialiseFrom(at::zeros_like(x));
  EXPECT_LT(MaxAbs(parameters["log_scale"].exp() * subject->grid.scale().flatten() - 1), 1e-12);
}

}  // namespace
}  // namespace bflow
