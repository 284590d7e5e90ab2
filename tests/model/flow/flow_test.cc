// Whole small flows: the laws, latents, seeds, model files, and a trained density that integrates
// to 1.
#include "model/flow/flow.h"

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/Parallel.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/linspace.h"
#include "ATen/ops/meshgrid.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/std.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/flow/materialize.h"
#include "model/layers/code_grid.h"
#include "tests/model/layers/bijector_laws.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

// A spec of reals with two levels; `blocks` blocks of all four layers per level.
FlowSpec SmallSpec(int64_t time_steps, int64_t channels, int levels, int blocks,
                   const std::vector<ButterflySpec>& butterflies) {
  FlowSpec spec;
  spec.event_shape = {time_steps, channels};
  spec.sampling_rate_hz = 125;
  spec.sensitivity = Sensitivity::kNone;
  spec.dequantization = SpecDequantization::kNone;
  for (int64_t c = 0; c < channels; ++c) {
    ChannelSpec& channel = spec.channels.emplace_back();
    channel.name = absl::StrCat("channel", c);
    channel.unit = "mV";
    channel.input_min = -1;
    channel.input_max = 1;
  }
  for (int l = 0; l < levels; ++l) {
    LevelSpec& level = spec.levels.emplace_back();
    level.squeeze = 2;
    level.split = l + 1 < levels;
    const std::vector<LayerSpec> block = {ActNormSpec{}, LuMatmulSpec{}, butterflies[l],
                                          AffineCouplingSpec{5}};
    level.blocks.assign(blocks, block);
  }
  return spec;
}

ButterflySpec Factors(int factors, bool shared, ButterflyOrder order, bool bi_direction) {
  ButterflySpec spec;
  spec.factors = factors;
  spec.shared = shared;
  spec.order = order;
  spec.bi_direction = bi_direction;
  return spec;
}

ButterflySpec Parts(std::vector<int64_t> sizes, std::vector<int> factors) {
  ButterflySpec spec;
  spec.shared = false;
  spec.partitions = std::move(sizes);
  spec.partition_factors = std::move(factors);
  spec.rotate = true;
  return spec;
}

// Two levels of images with everything that a step can hold, a prior step and fixed layers before.
FlowSpec ImageSpec(std::vector<LayerSpec> pre, const ButterflySpec& butterfly) {
  FlowSpec spec;
  spec.architecture = "image";
  spec.event_shape = {1, 4, 4};
  spec.sensitivity = Sensitivity::kNone;
  spec.dequantization = SpecDequantization::kNone;
  spec.channels.resize(1);
  spec.channels[0].name = "grey";
  spec.pre = std::move(pre);
  const std::vector<LayerSpec> step = {ActNormSpec{}, Conv1x1Spec{}, butterfly,
                                       Conv2dCouplingSpec{3}};
  spec.levels.resize(2);
  spec.levels[0].blocks = {step};
  spec.levels[0].prior = {ActNormSpec{}, Conv2dCouplingSpec{2}};
  spec.levels[0].split = true;
  spec.levels[1].blocks = {step};
  return spec;
}

// Whitening, convolutional couplings and a Student-t base.
FlowSpec HeavySpec() {
  FlowSpec spec = SmallSpec(8, 2, 2, 2,
                            {Factors(4, true, ButterflyOrder::kWidestFirst, false),
                             Factors(3, true, ButterflyOrder::kWidestFirst, false)});
  spec.pre = {WhiteningSpec{2}};
  for (LevelSpec& level : spec.levels) {
    for (std::vector<LayerSpec>& block : level.blocks) block.back() = Conv1dCouplingSpec{5, 3, 2};
  }
  spec.base = BaseKind::kStudentT;
  return spec;
}

// The same flow of codes, with a layer that moves their noise in front.
FlowSpec Dequantised(FlowSpec spec) {
  spec.dequantization = SpecDequantization::kUniform;
  for (ChannelSpec& channel : spec.channels) {
    channel.lo = -2;
    channel.hi = 3;
  }
  spec.pre.insert(spec.pre.begin(),
                  VariationalDequantizationSpec{.hidden = 3, .kernel = 3, .dilations = {1}});
  return spec;
}

struct NamedSpec {
  std::string name;
  FlowSpec spec;
};

std::vector<NamedSpec> SmallSpecs() {
  constexpr auto kWidest = ButterflyOrder::kWidestFirst;
  constexpr auto kNarrowest = ButterflyOrder::kNarrowestFirst;
  return {
      {"shared_widest_first",
       SmallSpec(8, 2, 2, 2, {Factors(4, true, kWidest, false), Factors(3, true, kWidest, false)})},
      {"unshared_narrowest_first",
       SmallSpec(8, 2, 2, 1,
                 {Factors(4, false, kNarrowest, false), Factors(2, false, kNarrowest, false)})},
      {"bi_direction",
       SmallSpec(8, 2, 2, 1,
                 {Factors(3, true, kNarrowest, true), Factors(3, true, kWidest, true)})},
      {"image", ImageSpec({PermutationSpec{}}, Factors(2, false, kWidest, false))},
      {"image_with_a_butterfly_before",
       ImageSpec({Factors(3, false, kNarrowest, false)}, Factors(1, true, kWidest, false))},
      {"partitions", SmallSpec(12, 1, 2, 1, {Parts({8, 4}, {3, 2}), Parts({4, 2}, {2, 1})})},
      {"whitening_convolutions_student_t", HeavySpec()},
      {"dequantisation_before_whitening", Dequantised(HeavySpec())},
      {"dequantisation_of_images",
       Dequantised(ImageSpec({PermutationSpec{}, Factors(1, false, kNarrowest, false)},
                             Factors(2, false, kWidest, false)))},
  };
}

std::shared_ptr<Flow> Make(const FlowSpec& spec, uint64_t seed,
                           at::ScalarType dtype = at::kDouble) {
  absl::StatusOr<std::shared_ptr<Flow>> flow = Flow::Create(spec, seed, dtype);
  EXPECT_TRUE(flow.ok()) << flow.status();
  return *flow;
}

// Moves the buffers of a whitening, if there is one, off zero.
void PerturbWhitening(Flow& flow) {
  if (!HasWhitening(flow.spec())) return;
  const c10::NoGradGuard no_grad;
  uint64_t seed = 300;
  for (auto& [name, tensor] : flow.NamedTensors()) {
    if (name.starts_with(absl::StrCat("pre.", *WhiteningIndex(flow.spec()), "."))) {
      tensor.copy_(Gauss(tensor.sizes(), seed++) * 0.2);
    }
  }
}

// Codes with noise away from the borders of their cells, where the layer is steep.
at::Tensor SmallCodes(const FlowSpec& spec, uint64_t seed) {
  const at::Tensor x = Gauss(Batched(2, spec.event_shape), seed);
  const CodeGrid grid(EventLevelShape(spec));
  return grid.Join({(x * 3).floor(), 0.5 + 0.2 * (x * 50).sin()});
}

TEST(Flow, Laws) {
  for (const NamedSpec& c : SmallSpecs()) {
    if (c.spec.quantised()) continue;  // below
    SCOPED_TRACE(c.name);
    const std::shared_ptr<Flow> flow = Make(c.spec, 1);
    Perturb(*flow, 0.1);
    PerturbWhitening(*flow);
    LawSubject subject = {[&](const at::Tensor& x) {
                            const Encoded encoded = flow->Encode(x);
                            return Transformed{encoded.latent, encoded.log_det};
                          },
                          [&](const at::Tensor& z) { return flow->Decode(z); },
                          [&] { flow->Freeze(); },
                          {}};
    for (const auto& item : flow->named_parameters()) {
      subject.parameters.emplace_back(item.key(), item.value());
    }
    ExpectLaws(subject, Gauss(Batched(2, c.spec.event_shape), 2));
  }
}

TEST(Flow, LogProbIsBasePlusLogDet) {
  const std::shared_ptr<Flow> flow = Make(SmallSpecs()[0].spec, 3);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = Gauss({3, 8, 2}, 4);
  const Encoded encoded = flow->Encode(x);
  const at::Tensor z = encoded.latent.flatten(1);
  const at::Tensor expected = encoded.log_det - (z.square() + std::log(2 * M_PI)).sum(1) * 0.5;
  EXPECT_LT((flow->LogProb(x) - expected).abs().max().item<double>(), 1e-12);
}

TEST(Flow, HeavyTailedLogProbIsThatOfItsBase) {
  const std::shared_ptr<Flow> flow = Make(HeavySpec(), 3);
  Perturb(*flow, 0.1);
  PerturbWhitening(*flow);
  const c10::NoGradGuard no_grad;
  const Encoded encoded = flow->Encode(Gauss({3, 8, 2}, 4));
  at::Tensor expected = encoded.log_det;
  for (size_t l = 0; l < 2; ++l) {
    expected = expected + flow->base().LogDensity(l, encoded.level_latents[l]).flatten(1).sum(1);
  }
  EXPECT_LT((flow->LogProb(encoded) - expected).abs().max().item<double>(), 1e-12);
  ASSERT_TRUE(encoded.residuals.defined());
  EXPECT_EQ(encoded.residuals.sizes(), at::IntArrayRef({3, 8, 2}));
  EXPECT_FALSE(Make(SmallSpecs()[0].spec, 3)->Encode(Gauss({1, 8, 2}, 4)).residuals.defined());
}

TEST(Flow, AFloatFlowBehindWhiteningTakesAndGivesFloat64) {
  const std::shared_ptr<Flow> flow = Make(HeavySpec(), 3, at::kFloat);
  EXPECT_EQ(flow->input_dtype(), at::kDouble);
  EXPECT_EQ(Make(SmallSpecs()[0].spec, 3, at::kFloat)->input_dtype(), at::kFloat);
  const c10::NoGradGuard no_grad;
  const at::Tensor x = Gauss({3, 8, 2}, 4);
  const Encoded encoded = flow->Encode(x);
  EXPECT_EQ(encoded.latent.scalar_type(), at::kFloat);
  const Transformed back = flow->Decode(encoded.latent);
  EXPECT_EQ(back.value.scalar_type(), at::kDouble);
  EXPECT_LT((back.value - x).abs().max().item<double>(), 1e-4);
}

// log p(k + u) = log p'(k + u') + log du'/du, with the flow p' behind the layer; residuals are
// those of the whitening, which is not the first layer here.
TEST(Flow, DequantisationAddsItsLogDetToTheFlowBehindIt) {
  const FlowSpec spec = Dequantised(HeavySpec());
  FlowSpec behind_spec = spec;
  behind_spec.pre.erase(behind_spec.pre.begin());
  const std::shared_ptr<Flow> flow = Make(spec, 3), behind = Make(behind_spec, 3);
  Perturb(*flow, 0.1);
  PerturbWhitening(*flow);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto layer = BuiltInLayers().at("variational_dequantisation")(
      spec.pre[0], EventLevelShape(spec), generator, at::kDouble);
  const c10::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> of_behind;
  for (const auto& [name, tensor] : behind->NamedTensors()) of_behind[name] = tensor;
  auto of_layer = layer->named_parameters();
  for (const auto& [name, tensor] : flow->NamedTensors()) {
    if (name.starts_with("pre.0.")) {
      of_layer[name.substr(6)].copy_(tensor);
    } else {
      const bool whitening = name.starts_with("pre.1.");
      of_behind.at(whitening ? "pre.0." + name.substr(6) : name).copy_(tensor);
    }
  }
  const at::Tensor x = SmallCodes(spec, 4);
  const Transformed moved = layer->Forward(x);
  EXPECT_GT((moved.value - x).abs().max().item<double>(), 1e-3);
  EXPECT_LT(
      (flow->LogProb(x) - behind->LogProb(moved.value) - moved.log_det).abs().max().item<double>(),
      1e-10);
  EXPECT_TRUE(flow->Encode(x).residuals.equal(behind->Encode(moved.value).residuals));
}

// A latent may lie at the very border of a cell, where differences are no derivatives: the layer
// has those laws in its own test.
TEST(Flow, FlowsOfCodesInvert) {
  int count = 0;
  for (const NamedSpec& c : SmallSpecs()) {
    if (!c.spec.quantised()) continue;
    SCOPED_TRACE(c.name);
    ++count;
    const std::shared_ptr<Flow> flow = Make(c.spec, 1);
    Perturb(*flow, 0.1);
    PerturbWhitening(*flow);
    const c10::NoGradGuard no_grad;
    const at::Tensor x = SmallCodes(c.spec, 2);
    for (const bool frozen : {false, true}) {
      if (frozen) flow->Freeze();
      const Encoded encoded = flow->Encode(x);
      const Transformed back = flow->Decode(encoded.latent);
      EXPECT_LT((back.value - x).abs().max().item<double>(), 1e-10);
      EXPECT_LT((back.log_det + encoded.log_det).abs().max().item<double>(), 1e-9);
      const Encoded alone = flow->Encode(x.narrow(0, 1, 1));
      EXPECT_LT((alone.log_det - encoded.log_det[1]).abs().item<double>(), 1e-11);
    }
  }
  EXPECT_EQ(count, 2);
}

TEST(Flow, AFloatFlowOfCodesFindsThemAgain) {
  for (const FlowSpec& spec : {Dequantised(HeavySpec()), Dequantised(SmallSpecs()[3].spec)}) {
    const std::shared_ptr<Flow> flow = Make(spec, 3, at::kFloat);
    Perturb(*flow, 0.1);
    PerturbWhitening(*flow);
    EXPECT_EQ(flow->input_dtype(), at::kDouble);
    const c10::NoGradGuard no_grad;
    const at::Tensor x = SmallCodes(spec, 5);
    const Encoded encoded = flow->Encode(x);
    EXPECT_EQ(encoded.latent.scalar_type(), at::kFloat);
    const at::Tensor back = flow->Decode(encoded.latent).value;
    EXPECT_EQ(back.scalar_type(), at::kDouble);
    EXPECT_LT((back - x).abs().max().item<double>(), 1e-3);
    const CodeGrid grid(EventLevelShape(spec));
    EXPECT_TRUE(grid.Split(back).index.equal(grid.Split(x).index));
  }
}

TEST(Flow, StartNearIdentityIsARearrangementOfRobustlyNormalisedChannels) {
  const std::shared_ptr<Flow> flow = Make(HeavySpec(), 3);
  const c10::NoGradGuard no_grad;
  flow->StartNearIdentity();
  at::Tensor x = Gauss({32, 8, 2}, 4) * 3 + 7;
  x[5].fill_(1e4);  // one wild window of 32 hardly moves a median
  flow->InitialiseFrom(x);
  // Block by block: an affine map per channel, then a swap of halves.
  std::vector<at::Tensor> seen;
  flow->Encode(x, [&](size_t level, size_t, size_t, const Transformed& y) {
    if (level == 0) seen.push_back(y.value);
  });
  ASSERT_EQ(seen.size(), 8U);
  const at::Tensor normalised = seen[0], swapped = seen[5];
  EXPECT_TRUE(seen[3].equal(normalised));
  const at::Tensor median = std::get<0>(std::get<0>(normalised.median(1)).median(0));
  EXPECT_LT(median.abs().max().item<double>(), 1e-12);
  EXPECT_LT((normalised.abs().flatten(0, 1).mean(0) - 0.8).abs().max().item<double>(), 1e-12);
  EXPECT_TRUE(swapped.narrow(2, 0, 2).equal(seen[4].narrow(2, 2, 2)));
  EXPECT_TRUE(swapped.narrow(2, 2, 2).equal(seen[4].narrow(2, 0, 2)));
}

TEST(Flow, LatentsAreCutAndReassembledByChannel) {
  FlowSpec spec = SmallSpec(8, 2, 3, 1, std::vector<ButterflySpec>(3));
  for (LevelSpec& level : spec.levels) level.blocks = {{ActNormSpec{}}};
  const std::shared_ptr<Flow> flow = Make(spec, 5);
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : flow->NamedTensors()) tensor.zero_();  // every layer the identity
  const at::Tensor x = at::arange(16, at::kDouble).reshape({1, 8, 2});
  const Encoded encoded = flow->Encode(x);
  ASSERT_EQ(encoded.level_latents.size(), 3U);
  const auto values = [&](size_t level) {
    const at::Tensor t = encoded.level_latents[level].contiguous();
    return std::vector<double>(t.const_data_ptr<double>(), t.const_data_ptr<double>() + t.numel());
  };
  // Level 0 sees rows of four: the last two of each are latents, the first two go on.
  EXPECT_THAT(values(0), testing::ElementsAre(2, 3, 6, 7, 10, 11, 14, 15));
  EXPECT_THAT(values(1), testing::ElementsAre(4, 5, 12, 13));
  EXPECT_THAT(values(2), testing::ElementsAre(0, 1, 8, 9));
  EXPECT_TRUE(encoded.latent.equal(x));
  EXPECT_TRUE(encoded.coupling_log_dets.empty());
  EXPECT_TRUE(flow->Decode(x).value.equal(x));
}

TEST(Flow, CouplingLogDetsComeInOrderOfTheLayers) {
  const std::shared_ptr<Flow> flow = Make(SmallSpecs()[0].spec, 6);
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> seen;
  const Encoded encoded =
      flow->Encode(Gauss({2, 8, 2}, 7), [&](size_t, size_t, size_t k, const Transformed& y) {
        if (k == 3) seen.push_back(y.log_det);
      });
  ASSERT_EQ(encoded.coupling_log_dets.size(), 4U);
  ASSERT_EQ(seen.size(), 4U);
  for (size_t i = 0; i < seen.size(); ++i) {
    EXPECT_TRUE(seen[i].equal(encoded.coupling_log_dets[i]));
  }
}

TEST(Flow, LatentsOfAnImageArePutBackToItsShape) {
  FlowSpec spec = ImageSpec({}, {});
  for (LevelSpec& level : spec.levels) level.blocks = {{ActNormSpec{}}};
  spec.levels[0].prior.clear();
  const std::shared_ptr<Flow> flow = Make(spec, 5);
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : flow->NamedTensors()) tensor.zero_();  // every layer the identity
  const at::Tensor x = at::arange(16, at::kDouble).reshape({1, 1, 4, 4});
  const Encoded encoded = flow->Encode(x);
  ASSERT_EQ(encoded.level_latents.size(), 2U);
  // Channels 2 and 3 of the squeezed image: the odd rows.
  EXPECT_EQ(encoded.level_latents[0].sizes(), at::IntArrayRef({1, 2, 2, 2}));
  const at::Tensor left = std::get<0>(encoded.level_latents[0].flatten().sort());
  EXPECT_TRUE(left.equal(at::cat({x[0][0][1], x[0][0][3]})));
  EXPECT_EQ(encoded.level_latents[1].sizes(), at::IntArrayRef({1, 8, 1, 1}));
  EXPECT_TRUE(encoded.latent.equal(x));
  EXPECT_TRUE(flow->Decode(x).value.equal(x));
  const std::vector<at::Tensor> split = flow->SplitLatent(encoded.latent);
  EXPECT_TRUE(split[0].equal(encoded.level_latents[0]));
  EXPECT_TRUE(split[1].equal(encoded.level_latents[1]));
}

TEST(Flow, ThePriorStepComesLastInItsLevel) {
  const std::shared_ptr<Flow> flow = Make(ImageSpec({}, Factors(1, true, {}, false)), 6);
  const c10::NoGradGuard no_grad;
  std::vector<std::string> seen;
  const Encoded encoded =
      flow->Encode(Gauss({2, 1, 4, 4}, 7), [&](size_t l, size_t j, size_t k, const Transformed&) {
        seen.push_back(absl::StrCat(l, j, k));
      });
  EXPECT_THAT(seen, testing::ElementsAre("000", "001", "002", "003", "010", "011", "100", "101",
                                         "102", "103"));
  EXPECT_EQ(encoded.coupling_log_dets.size(), 3U);
}

TEST(Flow, SeedDecidesEveryDraw) {
  const FlowSpec spec = SmallSpecs()[3].spec;
  const auto a = Make(spec, 8)->NamedTensors(), b = Make(spec, 8)->NamedTensors();
  const auto other = Make(spec, 9)->NamedTensors();
  const auto single = Make(spec, 8, at::kFloat)->NamedTensors();
  ASSERT_EQ(a.size(), b.size());
  bool differs = false;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(a[i].second.equal(b[i].second)) << a[i].first;
    EXPECT_TRUE(a[i].second.to(single[i].second.scalar_type()).equal(single[i].second));
    differs = differs || !a[i].second.equal(other[i].second);
  }
  EXPECT_TRUE(differs);
}

TEST(Flow, TensorsAreThoseOfTheSpec) {
  for (const NamedSpec& c : SmallSpecs()) {
    SCOPED_TRACE(c.name);
    const std::shared_ptr<Flow> flow = Make(c.spec, 10);
    const std::vector<TensorSpec> expected = ExpectedTensors(c.spec);
    const auto tensors = flow->NamedTensors();
    ASSERT_EQ(tensors.size(), expected.size());
    EXPECT_EQ(tensors.size(), flow->parameters().size() + flow->buffers().size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(tensors[i].first, expected[i].name);
      EXPECT_EQ(tensors[i].second.sizes().vec(), expected[i].shape);
      EXPECT_EQ(tensors[i].second.scalar_type(), expected[i].is_index() ? at::kLong : at::kDouble);
    }
  }
}

TEST(Flow, InitialisationFeedsEachLayerTheNormalisedOutputOfTheLast) {
  const std::shared_ptr<Flow> flow = Make(SmallSpecs()[0].spec, 11);
  const at::Tensor x = Gauss({64, 8, 2}, 12) * 3 + 1;
  flow->InitialiseFrom(x);
  int act_norms = 0;
  const c10::NoGradGuard no_grad;
  flow->Encode(x, [&](size_t, size_t, size_t k, const Transformed& y) {
    if (k != 0) return;
    ++act_norms;
    const at::Tensor rows = y.value.flatten(0, 1);
    EXPECT_LT(rows.mean(0).abs().max().item<double>(), 1e-9);
    EXPECT_LT((at::std(rows, at::IntArrayRef{0}, true) - 1).abs().max().item<double>(), 1e-4);
  });
  EXPECT_EQ(act_norms, 4);
}

std::string FileOf(const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::vector<TensorToWrite> to_write;
  for (const auto& [name, tensor] : tensors) to_write.push_back(ToWritable(name, tensor));
  absl::StatusOr<std::string> bytes = SerializeSafetensors(to_write, {});
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return *bytes;
}

absl::StatusOr<std::shared_ptr<Flow>> LoadFrom(const FlowSpec& spec, std::string bytes,
                                               at::ScalarType dtype) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Parse(std::move(bytes));
  EXPECT_TRUE(file.ok()) << file.status();
  return Flow::Load(spec, *file, dtype);
}

TEST(Flow, AModelFileComesBackInEitherPrecision) {
  for (const NamedSpec& c : SmallSpecs()) {
    SCOPED_TRACE(c.name);
    const c10::NoGradGuard no_grad;
    const at::Tensor x = Gauss(Batched(3, c.spec.event_shape), 13);
    for (const at::ScalarType stored : {at::kFloat, at::kDouble}) {
      const std::shared_ptr<Flow> flow = Make(c.spec, 14, stored);
      const std::string bytes = FileOf(flow->NamedTensors());
      const at::Tensor expected = flow->LogProb(x.to(stored));
      const auto same = LoadFrom(c.spec, bytes, stored);
      ASSERT_TRUE(same.ok()) << same.status();
      EXPECT_TRUE((*same)->LogProb(x.to(stored)).equal(expected));
      for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
        const auto loaded = LoadFrom(c.spec, bytes, dtype);
        ASSERT_TRUE(loaded.ok()) << loaded.status();
        (*loaded)->Freeze();
        const at::Tensor log_p = (*loaded)->LogProb(x.to(dtype));
        EXPECT_EQ(log_p.scalar_type(), at::kDouble);
        const at::Tensor error = (log_p - expected).abs() / expected.abs().clamp_min(1.0);
        EXPECT_LT(error.max().item<double>(), 1e-5);
      }
    }
  }
}

TEST(Flow, LoadNamesTheTensorAtFault) {
  const FlowSpec spec = SmallSpecs()[0].spec;
  auto tensors = Make(spec, 15)->NamedTensors();
  tensors.erase(tensors.begin() + 2);  // levels.0.blocks.0.1.lower
  const auto missing = LoadFrom(spec, FileOf(tensors), at::kFloat);
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(std::string(missing.status().message()), testing::HasSubstr("blocks.0.1.lower"));

  tensors = Make(spec, 15)->NamedTensors();
  const c10::NoGradGuard no_grad;
  tensors[0].second[1].fill_(NAN);
  const auto not_finite = LoadFrom(spec, FileOf(tensors), at::kFloat);
  ASSERT_FALSE(not_finite.ok());
  EXPECT_THAT(std::string(not_finite.status().message()),
              testing::HasSubstr("blocks.0.0.log_scale"));
}

TEST(Flow, CreateRefusesAnImpossibleSpec) {
  const FlowSpec spec = SmallSpec(
      8, 2, 2, 1,
      std::vector<ButterflySpec>(2, Factors(9, true, ButterflyOrder::kWidestFirst, false)));
  const auto flow = Flow::Create(spec, 0, at::kFloat);
  ASSERT_FALSE(flow.ok());
  EXPECT_EQ(flow.status().code(), absl::StatusCode::kInvalidArgument);
}

// Points of two interleaved half circles, as events [n, 2, 1].
at::Tensor TwoMoons(int64_t n, at::Generator& generator) {
  const at::Tensor angle = at::rand({n}, generator, at::kDouble) * M_PI;
  const at::Tensor upper = (at::rand({n}, generator, at::kDouble) < 0.5).to(at::kDouble);
  const at::Tensor sign = upper * 2 - 1;
  const at::Tensor a = sign * angle.cos() - sign * 0.5, b = sign * (angle.sin() - 0.25);
  const at::Tensor points = at::stack({a, b}, 1) + at::randn({n, 2}, generator, at::kDouble) * 0.1;
  return points.unsqueeze(2);
}

// Adam with its usual constants.
void TrainOnTwoMoons(Flow& flow, int steps, double rate, at::Generator& generator) {
  const std::vector<at::Tensor> parameters = flow.parameters();
  std::vector<at::Tensor> first, second;
  for (const at::Tensor& p : parameters) {
    first.push_back(at::zeros(p.sizes(), p.options()));
    second.push_back(at::zeros(p.sizes(), p.options()));
  }
  for (int step = 1; step <= steps; ++step) {
    const at::Tensor loss = -flow.LogProb(TwoMoons(256, generator)).mean();
    const auto gradients = torch::autograd::grad({loss}, parameters, {}, false, false,
                                                 /*allow_unused=*/true);
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!gradients[i].defined()) continue;
      first[i] = first[i] * 0.9 + gradients[i] * 0.1;
      second[i] = second[i] * 0.999 + gradients[i].square() * 0.001;
      const at::Tensor mean = first[i] / (1 - std::pow(0.9, step));
      const at::Tensor spread = (second[i] / (1 - std::pow(0.999, step))).sqrt() + 1e-8;
      at::Tensor parameter = parameters[i];
      parameter.sub_(mean / spread * rate);
    }
  }
}

TEST(Flow, ATrainedDensityIntegratesToOne) {
  at::set_num_threads(1);
  FlowSpec spec = SmallSpec(2, 1, 1, 4, {Factors(1, false, ButterflyOrder::kWidestFirst, false)});
  const std::shared_ptr<Flow> flow = Make(spec, 16);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{17});
  flow->InitialiseFrom(TwoMoons(1024, generator));
  const at::Tensor held_out = TwoMoons(4096, generator);
  const double before = flow->LogProb(held_out).mean().item<double>();
  TrainOnTwoMoons(*flow, 300, 5e-3, generator);
  const c10::NoGradGuard no_grad;
  flow->Freeze();
  const double after = flow->LogProb(held_out).mean().item<double>();
  EXPECT_GT(after, before + 0.3);  // it has learnt something: the density is far from its start

  constexpr int64_t kCells = 800;
  constexpr double kReach = 5;
  constexpr double kWidth = 2 * kReach / kCells;
  const at::Tensor centres =
      at::linspace(-kReach + kWidth / 2, kReach - kWidth / 2, kCells, at::kDouble);
  double integral = 0;
  for (int64_t row = 0; row < kCells; row += 100) {
    const auto grid = at::meshgrid({centres.narrow(0, row, 100), centres}, "ij");
    const at::Tensor points = at::stack({grid[0].flatten(), grid[1].flatten()}, 1).unsqueeze(2);
    integral += flow->LogProb(points).exp().sum().item<double>() * kWidth * kWidth;
  }
  EXPECT_NEAR(integral, 1, 5e-3);
}

}  // namespace
}  // namespace bflow
