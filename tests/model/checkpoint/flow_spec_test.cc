#include "model/checkpoint/flow_spec.h"

#include <cmath>
#include <functional>

#include "base/file.h"
#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint/small_checkpoint.h"

namespace bflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

FlowSpec MimicSpec() {
  FlowSpec spec = SmallSpec();
  spec.event_shape = {1024, 2};
  spec.levels.clear();
  for (int l = 0; l < 2; ++l) {
    ButterflySpec butterfly;
    butterfly.factors = 10 - l;
    LevelSpec level;
    level.blocks.assign(2, {ActNormSpec{}, LuMatmulSpec{}, butterfly, AffineCouplingSpec{}});
    level.split = l == 0;
    spec.levels.push_back(level);
  }
  return spec;
}

TEST(FlowSpecTest, TheMimicConfigHasTheParametersOfThePaper) {
  const FlowSpec spec = MimicSpec();
  ASSERT_TRUE(ValidateFlowSpec(spec).ok()) << ValidateFlowSpec(spec);
  EXPECT_EQ(ShapeAtLevel(spec, 0).size(), 2048);
  EXPECT_EQ(ShapeAtLevel(spec, 1).size(), 1024);
  EXPECT_EQ(ShapeAtLevel(spec, 1).channels, 4);
  int64_t trained = 0, butterfly = 0;
  for (const TensorSpec& tensor : ExpectedTensors(spec)) {
    if (tensor.is_index() || tensor.name.ends_with("diagonal_sign")) continue;
    int64_t count = 1;
    for (int64_t d : tensor.shape) count *= d;
    trained += count;
    if (tensor.name.find("factors") != std::string::npos) butterfly += count;
  }
  EXPECT_EQ(trained, 15280);
  EXPECT_EQ(butterfly, 12272);
  const double offset = 1024 * 2 * std::log((127.0 + 98.0) / 2);
  EXPECT_NEAR(spec.code_unit_offset_nats(), offset, 1e-9);
}

TEST(FlowSpecTest, JsonRoundTrip) {
  for (const FlowSpec& spec : {SmallSpec(), MimicSpec()}) {
    const std::string json = FlowSpecToJson(spec);
    auto parsed = ParseFlowSpec(json);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(FlowSpecToJson(*parsed), json);
    ASSERT_EQ(ExpectedTensors(*parsed).size(), ExpectedTensors(spec).size());
    EXPECT_EQ(parsed->channels[1].name, "ABP");
    EXPECT_EQ(parsed->channels[1].gain, 81.5);
  }
}

TEST(FlowSpecTest, DefaultsAreTheDocumentedOnes) {
  auto spec = ParseFlowSpec(R"({"format":1,"architecture":"waveform","event_shape":[16,2],
    "sampling_rate_hz":125,"channels":[{"name":"a","input_min":-1,"input_max":1,"lo":-1,"hi":1},
    {"name":"b","input_min":-1,"input_max":1,"lo":-1,"hi":1}],"dequantisation":"none",
    "levels":[{"blocks":[[{"kind":"butterfly","factors":2},{"kind":"affine_coupling"}]]}]})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->sensitivity, Sensitivity::kPatient);
  EXPECT_TRUE(spec->allow_sampling);
  EXPECT_EQ(spec->levels[0].squeeze, 2);
  EXPECT_FALSE(spec->levels[0].split);
  const auto& butterfly = std::get<ButterflySpec>(spec->levels[0].blocks[0][0]);
  EXPECT_TRUE(butterfly.shared);
  EXPECT_EQ(butterfly.order, ButterflyOrder::kWidestFirst);
  EXPECT_FALSE(butterfly.bi_direction);
  EXPECT_EQ(std::get<AffineCouplingSpec>(spec->levels[0].blocks[0][1]).hidden, 16);
  EXPECT_EQ(spec->code_unit_offset_nats(), 0);
}

// The example of docs/checkpoint_format.md is a valid spec.
TEST(FlowSpecTest, TheDocumentedExampleParses) {
  auto page = ReadFile("docs/checkpoint_format.md", 1 << 20);
  ASSERT_TRUE(page.ok()) << page.status();
  const size_t begin = page->find("```json\n") + 8;
  auto spec = ParseFlowSpec(page->substr(begin, page->find("```", begin) - begin));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->levels.size(), 2u);
}

std::vector<std::vector<int64_t>> Sizes(const std::vector<std::vector<ButterflyPart>>& rounds) {
  std::vector<std::vector<int64_t>> sizes;
  for (const auto& round : rounds) {
    sizes.emplace_back();
    for (const ButterflyPart& part : round) sizes.back().push_back(part.size);
  }
  return sizes;
}

// The round and level tables of the golden cases butterfly_layer_* and butterfly_partition_d30_*.
TEST(FlowSpecTest, ButterflyRoundsFollowTheReference) {
  ButterflySpec b;
  b.factors = 3;
  EXPECT_THAT(ButterflyRounds(b, 24)[0][0].levels, ElementsAre(0, 1, 2));
  b.order = ButterflyOrder::kNarrowestFirst;
  EXPECT_THAT(ButterflyRounds(b, 24)[0][0].levels, ElementsAre(2, 1, 0));
  b.bi_direction = true;
  EXPECT_THAT(ButterflyRounds(b, 24)[0][0].levels, ElementsAre(0, 1, 2, 2, 1, 0));
  b.order = ButterflyOrder::kWidestFirst;
  EXPECT_THAT(ButterflyRounds(b, 24)[0][0].levels, ElementsAre(0, 1, 2, 2, 1, 0));

  ButterflySpec p;
  p.partitions = {16, 8, 4, 2};
  p.partition_factors = {4, 3, 2, 1};
  p.order = ButterflyOrder::kNarrowestFirst;
  EXPECT_THAT(Sizes(ButterflyRounds(p, 30)), ElementsAre(ElementsAre(16, 8, 4, 2)));
  p.rotate = true;
  const auto rounds = ButterflyRounds(p, 30);
  EXPECT_THAT(Sizes(rounds), ElementsAre(ElementsAre(16, 8, 4, 2), ElementsAre(2, 16, 8, 4),
                                         ElementsAre(4, 2, 16, 8), ElementsAre(8, 4, 2, 16)));
  EXPECT_THAT(rounds[2][0].levels, ElementsAre(1, 0));
  EXPECT_THAT(rounds[2][1].levels, ElementsAre(0));
  EXPECT_THAT(rounds[2][2].levels, ElementsAre(3, 2, 1, 0));
  EXPECT_THAT(rounds[3][3].levels, ElementsAre(3, 2, 1, 0));
}

struct BadSpec {
  const char* pointer;  // JSON pointer of the value to replace; to add where absent
  const char* value;    // JSON text; empty: remove
  const char* message;
};

TEST(FlowSpecTest, RefusesNamingThePath) {
  const BadSpec cases[] = {
      {"/format", "2", "format: expected 1"},
      {"/surprise", "1", "surprise: unknown field"},
      {"/architecture", "\"text\"", "architecture: expected"},
      {"/architecture", "\"image\"", "sampling_rate_hz: unknown field"},
      {"/event_shape", "", "event_shape: missing"},
      {"/event_shape/0", "0", "event_shape[0]: is 0"},
      {"/event_shape/0", "8.0", "event_shape[0]: expected an integer"},
      {"/event_shape/0", "9223372036854775808", "event_shape[0]: expected an integer"},
      {"/event_shape/0", "16777216", "event_shape: is more than the possible 16777216"},
      {"/event_shape/1", "65", "event_shape[1]: is 65"},
      {"/event_shape", "[8,2,1]", "event_shape: has 3 dimensions"},
      {"/sampling_rate_hz", "0", "sampling_rate_hz:"},
      {"/sensitivity", "\"secret\"", "sensitivity: expected \"patient\" or \"none\""},
      {"/allow_sampling", "1", "allow_sampling: expected true or false"},
      {"/channels/1", "", "channels: has 1 entries"},
      {"/channels/1/name", "\"II\"", "channels[1].name: is the name of an earlier"},
      {"/channels/0/name", "\"\"", "channels[0].name:"},
      {"/channels/0/name", "\"\\u00e9\"", "channels[0].name:"},
      {"/channels/0/hi", "-98", "channels[0].hi:"},
      {"/channels/0/step", "0", "channels[0].step:"},
      {"/channels/0/gain", "0", "channels[0].gain:"},
      {"/channels/0/input_max", "-128", "channels[0].input_max:"},
      {"/dequantisation", "\"gauss\"", "dequantisation:"},
      {"/pre", "[1]", "pre[0]: expected an object"},
      {"/pre", "[{\"kind\":\"act_norm\"}]", "pre[0].kind: act_norm cannot stand in pre"},
      {"/pre", "[{\"kind\":\"whitening\",\"order\":8}]", "pre[0].order: is 8, expected less than"},
      {"/pre", "[{\"kind\":\"permutation\"},{\"kind\":\"whitening\",\"order\":2}]",
       "pre[1].kind: only layers on codes can stand before whitening"},
      {"/pre", "[{\"kind\":\"variational_dequantisation\",\"hidden\":0}]", "pre[0].hidden: is 0"},
      {"/pre", "[{\"kind\":\"variational_dequantisation\",\"kernel\":4}]",
       "pre[0].kernel: expected an odd"},
      {"/pre", "[{\"kind\":\"variational_dequantisation\",\"dilations\":[]}]",
       "number of pre[0].dilations: is 0"},
      {"/pre", "[{\"kind\":\"variational_dequantisation\",\"dilations\":[1,0]}]",
       "pre[0].dilations[1]: is 0"},
      {"/pre", "[{\"kind\":\"variational_dequantisation\",\"dilations\":[1,513]}]",
       "pre[0].dilations[1]: reaches 1026 steps"},
      {"/pre", "[{\"kind\":\"variational_dequantisation\",\"dilation\":1}]",
       "pre[0].dilation: unknown field"},
      {"/pre", "[{\"kind\":\"permutation\"},{\"kind\":\"variational_dequantisation\"}]",
       "pre[1].kind: variational_dequantisation acts on codes"},
      {"/levels/0/blocks/0/0", "{\"kind\":\"variational_dequantisation\"}",
       "variational_dequantisation belongs into pre"},
      {"/pre", "[{\"kind\":\"butterfly\",\"factors\":1},{\"kind\":\"logit\"}]",
       "pre[1].kind: only permutations"},
      {"/pre", "[{\"kind\":\"lattice\"}]", "pre[0].sizes: missing"},
      {"/pre", "[{\"kind\":\"lattice\",\"sizes\":[4]}]", "pre[0].sizes: has 1 entries"},
      {"/pre", "[{\"kind\":\"lattice\",\"sizes\":[4,0]}]", "pre[0].sizes[1]: is 0"},
      {"/pre", "[{\"kind\":\"lattice\",\"sizes\":[65537,1]}]", "pre[0].sizes[0]: is 65537"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2},{\"kind\":\"lattice\",\"sizes\":[4,4]}]",
       "pre[1].kind: lattice must be the first layer"},
      {"/pre", "[{\"kind\":\"whitening\",\"order\":2},{\"kind\":\"box\",\"order\":2}]",
       "pre[1].kind: box acts on codes"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2},{\"kind\":\"box\",\"order\":2}]",
       "pre[1].kind: box acts on codes"},
      {"/pre", "[{\"kind\":\"variational_dequantisation\"},{\"kind\":\"box\",\"order\":2}]",
       "pre[1].kind: a box needs noise that is uniform"},
      {"/pre", "[{\"kind\":\"box\",\"order\":8}]", "pre[0].order: is 8, expected less than"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2,\"width\":257}]", "pre[0].width: is 257"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2,\"kernel\":256}]", "pre[0].kernel: is 256"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2,\"adaptive\":1}]", "pre[0].adaptive: "},
      {"/pre", "[{\"kind\":\"box\",\"order\":2,\"dilations\":[1,0]}]", "pre[0].dilations[1]: is 0"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2,\"dilations\":[1025]}]",
       "pre[0].dilations[0]: reaches 1025 steps"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2,\"dilations\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}]",
       "number of pre[0].dilations: is 17"},
      {"/pre", "[{\"kind\":\"box\",\"order\":2,\"mixtures\":9}]", "pre[0].mixtures: unknown field"},
      {"/levels/0/blocks/0/0", "{\"kind\":\"box\"}", "levels[0].blocks[0][0].kind: box belongs"},
      {"/levels/0/prior", "{}", "levels[0].prior: expected an array"},
      {"/levels/0/prior", "[{\"kind\":\"logit\"}]",
       "levels[0].prior[0].kind: logit belongs into pre"},
      {"/levels/0/blocks/0/0/kind", "\"conv1x1\"", "conv1x1 is a layer of images only"},
      {"/levels/0/blocks/0/3", "{\"kind\":\"conv1d_coupling\",\"kernel\":4}",
       "levels[0].blocks[0][3].kernel: expected an odd"},
      {"/levels/0/blocks/0/3", "{\"kind\":\"conv1d_coupling\",\"dilation\":4096}",
       "levels[0].blocks[0][3].dilation: reaches 8192 steps"},
      {"/levels/0/blocks/0/2/flatten", "\"hwc\"", "levels[0].blocks[0][2].flatten: is for images"},
      {"/levels", "[]", "number of levels"},
      {"/levels/0/squeeze", "3", "levels[0].squeeze: is 3"},
      {"/levels/0/squeeze", "0", "levels[0].squeeze: is 0"},
      {"/levels/1/split", "true", "levels[1].split: the last level cannot split"},
      {"/levels/0/blocks/0/0/kind", "\"spline\"", "levels[0].blocks[0][0].kind:"},
      {"/levels/0/blocks/0/0/hidden", "4", "levels[0].blocks[0][0].hidden: unknown field"},
      {"/levels/0/blocks/0/2/factors", "5", "levels[0].blocks[0][2].factors: is 5, but 2^5"},
      {"/levels/0/blocks/0/2/factors", "", "levels[0].blocks[0][2].factors: missing"},
      {"/levels/0/blocks/0/2/factors", "0", "levels[0].blocks[0][2].factors: is 0"},
      {"/levels/0/blocks/0/2/rotate", "true", "levels[0].blocks[0][2].rotate: needs"},
      {"/levels/0/blocks/0/2/order", "\"any\"", "levels[0].blocks[0][2].order:"},
      {"/levels/0/blocks/0/3/hidden", "4097", "levels[0].blocks[0][3].hidden: is 4097"},
      {"/levels/1/blocks/0/0/partitions/0", "8", "levels[1].blocks[0][0].partitions: sum to 12"},
      {"/levels/1/blocks/0/0/partition_factors/2", "2", "partition_factors[2]: is 2, but 2^2"},
      {"/base/kind", "\"cauchy\"", "base.kind: expected \"normal\" or \"student_t\""},
  };
  for (const BadSpec& bad : cases) {
    Json json = Json::parse(FlowSpecToJson(SmallSpec()));
    const Json::json_pointer pointer(bad.pointer);
    if (*bad.value != '\0') {
      json[pointer] = Json::parse(bad.value);
    } else if (json[pointer.parent_pointer()].is_array()) {
      json[pointer.parent_pointer()].erase(std::stoul(pointer.back()));
    } else {
      json[pointer.parent_pointer()].erase(pointer.back());
    }
    auto status = ParseFlowSpec(json.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.pointer;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message)) << bad.pointer;
  }
}

FlowSpec ExactSpec() {
  FlowSpec spec = MimicSpec();
  spec.pre = {LatticeSpec{{30, 7}}, BoxSpec{.adaptive = true}};
  spec.levels = {LevelSpec{.squeeze = 1, .blocks = {}, .prior = {}, .split = false}};
  spec.base = BaseKind::kLogistic;
  return spec;
}

TEST(FlowSpecTest, ExactCodeLengthsNeedNoBlocks) {
  const FlowSpec spec = ExactSpec();
  ASSERT_TRUE(ValidateFlowSpec(spec).ok()) << ValidateFlowSpec(spec);
  const auto parsed = ParseFlowSpec(FlowSpecToJson(spec));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FlowSpecToJson(*parsed), FlowSpecToJson(spec));
  EXPECT_TRUE(HasLattice(*parsed));
  EXPECT_FALSE(HasWhitening(*parsed));
  EXPECT_EQ(ResidualIndex(*parsed), 1u);
  EXPECT_TRUE(NeedsDoubleInput(*parsed));
  int64_t trained = 0;
  for (const TensorSpec& tensor : ExpectedTensors(*parsed)) {
    const bool fixed = tensor.is_index() || tensor.name.find("whitening") != std::string::npos ||
                       tensor.shape == std::vector<int64_t>{2};
    int64_t count = 1;
    for (const int64_t d : tensor.shape) count *= d;
    if (!fixed) trained += count;
  }
  EXPECT_EQ(trained, 25246);
  FlowSpec real = spec;
  real.dequantization = SpecDequantization::kNone;
  EXPECT_THAT(std::string(ValidateFlowSpec(real).message()),
              HasSubstr("pre[0].kind: lattice needs dequantisation"));
}

// A row that would need more than a gigabyte is refused by its spec.
TEST(FlowSpecTest, AWideBoxOfALongWindowIsRefused) {
  FlowSpec spec = ExactSpec();
  spec.event_shape = {int64_t{1} << 22, 2};
  std::get<BoxSpec>(spec.pre[1]).width = 256;
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("pre[1]: width x blocks x time steps is more than"));
}

// Meng et al. 2022 with the settings of the authors' galaxy and CIFAR-10 runs.
FlowSpec PaperImageSpec(int levels, int steps, int factors) {
  FlowSpec spec;
  spec.architecture = "image";
  spec.event_shape = {3, 32, 32};
  for (const char* name : {"red", "green", "blue"}) {
    ChannelSpec& channel = spec.channels.emplace_back();
    channel.name = name;
    channel.input_max = 255;
    channel.lo = 0;
    channel.hi = 256;
  }
  for (int l = 0; l < levels; ++l) {
    LevelSpec& level = spec.levels.emplace_back();
    level.split = l + 1 < levels;
    std::vector<LayerSpec> step = {ActNormSpec{}, Conv1x1Spec{}};
    if (factors > l) {
      ButterflySpec butterfly;
      butterfly.factors = factors - l;
      butterfly.shared = false;
      step.push_back(butterfly);
    }
    step.push_back(Conv2dCouplingSpec{});
    level.blocks.assign(static_cast<size_t>(steps), step);
    if (!level.split) continue;
    step.back() = Conv2dCouplingSpec{l == 0 ? 96 : 192};
    level.prior = step;
  }
  return spec;
}

TEST(FlowSpecTest, TheImageConfigsHaveTheParametersOfThePaper) {
  struct Case {
    FlowSpec spec;
    int64_t weights, butterfly;
  };
  for (const Case& c : {Case{PaperImageSpec(2, 8, 2), 6385152, 135168},
                        Case{PaperImageSpec(3, 32, 1), 44378016, 202752},
                        Case{PaperImageSpec(3, 32, 10), 47508384, 3333120}}) {
    ASSERT_TRUE(ValidateFlowSpec(c.spec).ok()) << ValidateFlowSpec(c.spec);
    int64_t weights = 0, butterfly = 0;
    for (const TensorSpec& tensor : ExpectedTensors(c.spec)) {
      int64_t count = 1;
      for (int64_t d : tensor.shape) count *= d;
      weights += count;
      if (tensor.rule == TensorRule::kFactor) butterfly += count;
    }
    EXPECT_EQ(weights, c.weights);
    EXPECT_EQ(butterfly, c.butterfly);
    const std::string json = FlowSpecToJson(c.spec);
    auto parsed = ParseFlowSpec(json);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(FlowSpecToJson(*parsed), json);
    EXPECT_EQ(parsed->channel_of(1024), 1);
    EXPECT_EQ(parsed->positions(), 1024);
    EXPECT_NEAR(parsed->code_unit_offset_nats(), 3072 * std::log(128.0), 1e-9);
  }
}

TEST(FlowSpecTest, TheBaselinesStandWhereTheButterflyDoes) {
  FlowSpec spec = PaperImageSpec(2, 3, 0);
  spec.levels[0].blocks[0].insert(spec.levels[0].blocks[0].begin() + 2, EmergingConvSpec{5});
  spec.levels[0].blocks[1].insert(spec.levels[0].blocks[1].begin() + 2, PeriodicConvSpec{7});
  spec.levels[0].blocks[2].insert(spec.levels[0].blocks[2].begin() + 2, WoodburySpec{4});
  const std::string json = FlowSpecToJson(spec);
  auto parsed = ParseFlowSpec(json);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FlowSpecToJson(*parsed), json);
  EXPECT_EQ(std::get<EmergingConvSpec>(parsed->levels[0].blocks[0][2]).kernel, 5);
  EXPECT_EQ(std::get<PeriodicConvSpec>(parsed->levels[0].blocks[1][2]).kernel, 7);
  EXPECT_EQ(std::get<WoodburySpec>(parsed->levels[0].blocks[2][2]).rank, 4);
  std::vector<std::string> names;
  for (const TensorSpec& tensor : ExpectedTensors(spec)) {
    if (tensor.name.starts_with("levels.0.blocks.2.2.")) names.push_back(tensor.name.substr(20));
  }
  EXPECT_THAT(names, ElementsAre("channel.left", "channel.right", "spatial.left", "spatial.right"));
  spec.event_shape = {3, 1024, 1024};
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("levels[0].blocks[0][2]: H W kernel^2 is 6553600, at most 1048576"));
  spec.levels[0].blocks[0].erase(spec.levels[0].blocks[0].begin() + 2);
  spec.event_shape = {12, 512, 512};
  spec.channels.clear();
  for (int c = 0; c < 12; ++c) {
    spec.channels.emplace_back();
    spec.channels.back().name = std::string(1, static_cast<char>('a' + c));
  }
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("levels[0].blocks[1][2]: H W C^2 is 150994944, at most 67108864"));
  spec = *parsed;
  std::get<PeriodicConvSpec>(spec.levels[0].blocks[1][2]).kernel = 17;
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("levels[0].blocks[1][2].kernel: is 17, expected 1 to 16"));
  std::get<PeriodicConvSpec>(spec.levels[0].blocks[1][2]).kernel = 4;
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()), HasSubstr("expected an odd number"));
}

TEST(FlowSpecTest, ALayerOfWaveformsIsRefusedInAnImage) {
  FlowSpec spec = PaperImageSpec(2, 1, 1);
  spec.levels[0].blocks[0][1] = LuMatmulSpec{};
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("levels[0].blocks[0][1].kind: lu_matmul is a layer of waveforms only"));
  spec = PaperImageSpec(2, 1, 1);
  spec.event_shape = {3, 32, 30};
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("levels[1].squeeze: is 2, which does not divide 16 x 15 positions"));
  spec = PaperImageSpec(2, 1, 1);
  spec.sampling_rate_hz = 125;
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()), HasSubstr("an image has none"));
}

TEST(FlowSpecTest, LayersOnCodesNeedCodesAndComeFirst) {
  FlowSpec spec = SmallSpec();
  spec.pre = {VariationalDequantizationSpec{.hidden = 7, .kernel = 3, .dilations = {1, 4}},
              WhiteningSpec{3}};
  const std::string json = FlowSpecToJson(spec);
  auto parsed = ParseFlowSpec(json);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FlowSpecToJson(*parsed), json);
  EXPECT_EQ(WhiteningIndex(*parsed), 1u);
  EXPECT_TRUE(HasWhitening(*parsed) && NeedsDoubleInput(*parsed));
  std::vector<std::vector<int64_t>> shapes;
  for (const TensorSpec& tensor : ExpectedTensors(spec)) {
    if (tensor.name.starts_with("pre.0.")) shapes.push_back(tensor.shape);
  }
  EXPECT_THAT(shapes, ElementsAre(ElementsAre(2), ElementsAre(2), ElementsAre(7, 4, 3),
                                  ElementsAre(7), ElementsAre(7, 7, 3), ElementsAre(7),
                                  ElementsAre(4, 7, 1), ElementsAre(4)));
  parsed->pre.pop_back();
  EXPECT_TRUE(!HasWhitening(*parsed) && NeedsDoubleInput(*parsed));
  EXPECT_EQ(EventLevelShape(*parsed).channels_of_event.size(), 2u);
  EXPECT_TRUE(ShapeAtLevel(*parsed, 0).channels_of_event.empty());
  spec.dequantization = SpecDequantization::kNone;
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("pre[0].kind: variational_dequantisation needs dequantisation"));
  // A small file must not ask for much: what a row is unfolded to is bounded.
  spec = PaperImageSpec(2, 1, 1);
  spec.pre = {VariationalDequantizationSpec{.hidden = 4096, .kernel = 9, .dilations = {1}}};
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()),
              HasSubstr("pre[0]: hidden x taps x positions is more than"));
  spec.pre = {VariationalDequantizationSpec{.hidden = 32, .kernel = 3, .dilations = {1}},
              PermutationSpec{}, LogitSpec{}};
  EXPECT_TRUE(ValidateFlowSpec(spec).ok()) << ValidateFlowSpec(spec);
  EXPECT_FALSE(HasWhitening(spec));
}

TEST(FlowSpecTest, OddChannelsCannotBeHalved) {
  FlowSpec spec = SmallSpec();
  spec.event_shape = {8, 1};
  spec.channels.pop_back();
  spec.levels[0].squeeze = 1;
  spec.levels[0].blocks.clear();
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()), HasSubstr("levels[0].split"));
  spec.levels[0].split = false;
  spec.levels[1].squeeze = 1;
  spec.levels[1].blocks = {{AffineCouplingSpec{}}};
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()), HasSubstr("levels[1].blocks[0][0]"));
}

TEST(FlowSpecTest, MoreTensorsThanAFileHoldsAreRefusedBeforeTheyAreListed) {
  FlowSpec spec = SmallSpec();
  ButterflySpec b;
  b.partitions.assign(8, 2);
  b.partition_factors.assign(8, 1);
  b.rotate = true;
  spec.levels.resize(1);
  spec.levels[0].split = false;
  spec.levels[0].blocks.assign(1024, std::vector<LayerSpec>(64, b));
  EXPECT_THAT(std::string(ValidateFlowSpec(spec).message()), HasSubstr("more than 65536 tensors"));
}

}  // namespace
}  // namespace bflow
