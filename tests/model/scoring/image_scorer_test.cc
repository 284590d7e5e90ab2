// The scorer of small random flows of images: likelihood under each noise, the bound of several
// draws, scores without attribution, samples, and rows that do not depend on their batch.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "base/philox.h"
#include "c10/core/InferenceMode.h"
#include "gtest/gtest.h"
#include "model/flow/flow.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/torch_guard.h"
#include "tests/support/tiny_checkpoint.h"

namespace bflow {
namespace {

Noise NoiseOf(NoiseKind kind, uint32_t draws = 1) {
  Noise noise;
  noise.kind = kind;
  noise.seed = 42;
  noise.draws = draws;
  return noise;
}

std::unique_ptr<Scorer> MakeScorer(const Checkpoint& checkpoint, bool float64 = true) {
  UseSingleThreadedTorch();  // as the server
  ScorerOptions options;
  options.float64 = float64;
  absl::StatusOr<std::unique_ptr<Scorer>> scorer = MakeFlowScorer(checkpoint, options);
  EXPECT_TRUE(scorer.ok()) << scorer.status();
  return *std::move(scorer);
}

// log p by the definition alone, 2 (floor(v / step) + u) step / 256 - 1 through Flow::LogProb.
double ByHand(const Checkpoint& checkpoint, const float* row, const std::vector<float>& u) {
  c10::InferenceMode inference;
  const FlowSpec& spec = checkpoint.spec;
  std::shared_ptr<Flow> flow = *Flow::Load(spec, checkpoint.tensors, at::kDouble);
  at::Tensor x = at::empty(Batched(1, spec.event_shape), at::kDouble);
  const double step = spec.channels[0].step;
  for (size_t d = 0; d < u.size(); ++d) {
    const double v = std::floor(row[d] / step) + u[d];
    x.mutable_data_ptr<double>()[d] = static_cast<float>(2 * v * step / 256 - 1);
  }
  return flow->LogProb(x).item<double>();
}

class ImageScorerTest : public testing::Test {
 protected:
  const float* Row(int64_t i) const { return x_.values.data() + i * size_; }

  FlowSpec spec_ = TinyImageSpec();
  Checkpoint checkpoint_ = *TinyCheckpoint(spec_, 60);
  HostBatch x_ = TinyRows(spec_, 5, 3);
  int64_t size_ = spec_.event_size();
};

TEST_F(ImageScorerTest, LogLikelihoodIsTheFlowsUnderEachNoise) {
  for (int bits : {8, 5}) {
    const Checkpoint checkpoint = *TinyCheckpoint(TinyImageSpec(3, bits), 0);
    std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint);
    Noise uniform = NoiseOf(NoiseKind::kUniform);
    uniform.row_offset = 1000;
    const auto center = *scorer->LogLikelihood(x_, NoiseOf(NoiseKind::kCenter), false);
    const auto seeded = *scorer->LogLikelihood(x_, uniform, false);
    for (int64_t i = 0; i < x_.rows; ++i) {
      std::vector<float> u(size_, 0.5f);
      EXPECT_NEAR(center.log_prob[i], ByHand(checkpoint, Row(i), u), 1e-8);
      FillUniform(42, 1000 + i, 0, size_, u.data());
      EXPECT_NEAR(seeded.log_prob[i], ByHand(checkpoint, Row(i), u), 1e-8);
    }
  }
}

// NONE: the values have their noise already, and are what the flow sees.
TEST_F(ImageScorerTest, RealValuesAreTakenAsTheyAre) {
  for (int bits : {8, 5}) {
    const Checkpoint checkpoint = *TinyCheckpoint(TinyImageSpec(3, bits), 0);
    const float step = static_cast<float>(checkpoint.spec.channels[0].step);
    HostBatch real = x_;
    for (float& v : real.values) v = step * (std::floor(v / step) + 0.5f);
    std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint);
    const auto none = *scorer->LogLikelihood(real, NoiseOf(NoiseKind::kNone), false);
    const auto center = *scorer->LogLikelihood(x_, NoiseOf(NoiseKind::kCenter), false);
    for (int64_t i = 0; i < x_.rows; ++i) EXPECT_NEAR(none.log_prob[i], center.log_prob[i], 1e-8);
  }
}

TEST_F(ImageScorerTest, DrawsAreTheImportanceWeightedBound) {
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_);
  const auto result = *scorer->LogLikelihood(x_, NoiseOf(NoiseKind::kUniform, 4), false);
  std::vector<float> u(size_);
  for (int64_t i = 0; i < x_.rows; ++i) {
    double sum = 0, mean = 0;
    for (uint32_t draw = 0; draw < 4; ++draw) {
      FillUniform(42, i, draw, size_, u.data());
      const double log_prob = ByHand(checkpoint_, Row(i), u);
      sum += std::exp(log_prob - result.log_prob[i]);
      mean += log_prob / 4;
    }
    EXPECT_NEAR(sum / 4, 1, 1e-7);
    EXPECT_NEAR(result.log_prob_mean[i], mean, 1e-7);
  }
}

TEST_F(ImageScorerTest, ARowDoesNotDependOnItsBatch) {
  // Wide enough for the library to choose among its ways of convolving.
  for (auto& block : spec_.levels[0].blocks) std::get<Conv2dCouplingSpec>(block[3]).hidden = 96;
  checkpoint_ = *TinyCheckpoint(spec_, 0);
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false);
  const HostBatch x = TinyRows(spec_, 37, 9);
  Noise noise = NoiseOf(NoiseKind::kUniform);
  const auto together = *scorer->LogLikelihood(x, noise, true);
  SampleOptions options;
  options.rows = 37;
  options.want_log_prob = true;
  const auto samples = *scorer->Sample(options);
  for (auto [begin, end] : {std::pair(0, 1), std::pair(36, 37), std::pair(3, 20)}) {
    HostBatch part{end - begin, {x.values.begin() + begin * size_, x.values.begin() + end * size_}};
    noise.row_offset = begin;
    const auto alone = *scorer->LogLikelihood(part, noise, true);
    options.rows = end - begin;
    options.first_row = begin;
    const auto drawn = *scorer->Sample(options);
    for (int i = begin; i < end; ++i) {
      EXPECT_EQ(alone.log_prob[i - begin], together.log_prob[i]) << begin << " " << end;
      EXPECT_EQ(drawn.log_prob[i - begin], samples.log_prob[i]) << begin << " " << end;
    }
    const size_t bytes = sizeof(float) * static_cast<size_t>(size_ * (end - begin));
    EXPECT_EQ(0, std::memcmp(alone.latent.data(), together.latent.data() + begin * size_, bytes));
    EXPECT_EQ(0, std::memcmp(drawn.samples.data(), samples.samples.data() + begin * size_, bytes));
  }
}

TEST_F(ImageScorerTest, ScoresHaveTheFeaturesOfTheFlowAlone) {
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_);
  const ModelSignature& signature = scorer->signature();
  // Two levels and five couplings.
  EXPECT_EQ(signature.feature_names.size(), 7u);
  EXPECT_EQ(signature.attribution_entries(), 0);
  const auto result = *scorer->Anomaly(x_, {.want_contributions = true});
  for (int64_t i = 0; i < x_.rows; ++i) {
    double sum = 0;
    for (size_t j = 0; j < 7; ++j) sum += result.contributions[i * 7 + j];
    EXPECT_NEAR(sum, result.score[i], 1e-9 * (1 + result.score[i]));
  }
  EXPECT_EQ(scorer->Anomaly(x_, {.want_attribution = true}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // Nor can a file give it any.
  AttributionTables attribution;
  attribution.stride = 32;
  for (auto* values : {&attribution.median, &attribution.spread}) {
    values->fill(std::vector<double>(3, 1.0));
  }
  checkpoint_.calibration->attribution = attribution;
  EXPECT_EQ(MakeFlowScorer(checkpoint_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ImageScorerTest, SamplesArePixels) {
  for (int bits : {8, 5}) {
    const Checkpoint checkpoint = *TinyCheckpoint(TinyImageSpec(1, bits), 0);
    std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint, false);
    SampleOptions options;
    options.rows = 6;
    options.temperature = 0.5;
    const auto codes = *scorer->Sample(options);
    const float step = static_cast<float>(1 << (8 - bits));
    for (float v : codes.samples) {
      EXPECT_GE(v, 0);
      EXPECT_LE(v, 255);
      EXPECT_TRUE(v == 255 || v == step * std::floor(v / step));
    }
    options.codes = false;
    options.want_log_prob = true;
    const auto scaled = *scorer->Sample(options);
    HostBatch real{6, scaled.samples};
    for (float& v : real.values) v = (v + 1) * 128;
    const auto result =
        *MakeScorer(checkpoint)->LogLikelihood(real, NoiseOf(NoiseKind::kNone), false);
    for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(scaled.log_prob[i], result.log_prob[i], 1e-2);
  }
}

TEST_F(ImageScorerTest, TheSelfTestAndTheSignature) {
  const SelfTest& test = checkpoint_.self_test;
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false);
  const auto result = *scorer->Anomaly({test.rows, test.x}, {});
  for (size_t i = 0; i < test.log_prob.size(); ++i) {
    EXPECT_TRUE(Reproduces(result.log_prob[i], test.log_prob[i], kSelfTestRtol));
    EXPECT_TRUE(Reproduces(result.score[i], test.score[i], kSelfTestRtol));
  }
  const ModelSignature& signature = scorer->signature();
  EXPECT_TRUE(signature.is_image());
  EXPECT_EQ(signature.event_shape, (std::vector<int64_t>{3, 8, 8}));
  EXPECT_EQ(signature.channel_run(), 64);
  EXPECT_EQ(signature.batch_rows(128), 8);
  EXPECT_EQ(signature.batch_rows(1), 1);
  EXPECT_EQ(signature.channels[1].input_max, 255);
  EXPECT_NEAR(signature.code_unit_offset_nats, 192 * std::log(128.0), 1e-9);
}

}  // namespace
}  // namespace bflow
