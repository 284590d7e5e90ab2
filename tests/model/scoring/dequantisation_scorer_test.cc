// Checkpoints whose noise a layer moves, of waveforms and of images: loaded, scored under each
// noise, sampled, to the bit whatever the batch.
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "base/philox.h"
#include "c10/core/InferenceMode.h"
#include "gtest/gtest.h"
#include "model/data/scaling.h"
#include "model/flow/flow.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/window_features.h"
#include "tests/support/tiny_checkpoint.h"

namespace bflow {
namespace {

Noise NoiseOf(NoiseKind kind) {
  Noise noise;
  noise.kind = kind;
  noise.seed = 42;
  return noise;
}

std::unique_ptr<Scorer> MakeScorer(const Checkpoint& checkpoint, bool float64) {
  ScorerOptions options;
  options.float64 = float64;
  options.slice_rows = 4;
  absl::StatusOr<std::unique_ptr<Scorer>> scorer = MakeFlowScorer(checkpoint, options);
  EXPECT_TRUE(scorer.ok()) << scorer.status();
  return *std::move(scorer);
}

class DequantisationScorerTest : public testing::TestWithParam<FlowSpec> {
 protected:
  HostBatch Rows(int64_t first, int64_t rows) const {
    return {rows, {x_.values.begin() + first * size_, x_.values.begin() + (first + rows) * size_}};
  }

  FlowSpec spec_ = GetParam();
  int64_t size_ = spec_.event_size();
  Checkpoint checkpoint_ = *TinyCheckpoint(spec_, 80);
  HostBatch x_ = TinyRows(spec_, 9, 3);
};

TEST_P(DequantisationScorerTest, LogLikelihoodIsTheFlowsAtTheExactPoint) {
  const std::shared_ptr<Flow> flow = *Flow::Load(spec_, checkpoint_.tensors, at::kDouble);
  const std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, true);
  for (const auto& [kind, noise] : {std::pair(NoiseKind::kNone, CodeNoise::kNone),
                                    std::pair(NoiseKind::kCenter, CodeNoise::kCenter),
                                    std::pair(NoiseKind::kUniform, CodeNoise::kUniform)}) {
    const auto result = *scorer->LogLikelihood(x_, NoiseOf(kind), false);
    for (int64_t i = 0; i < x_.rows; ++i) {
      const c10::InferenceMode inference;
      const HostBatch row = Rows(i, 1);
      at::Tensor x = at::empty(Batched(1, spec_.event_shape), at::kDouble);
      ScaleEvent(spec_, row.values, noise, 42, static_cast<uint64_t>(i), 0,
                 std::span(x.mutable_data_ptr<double>(), static_cast<size_t>(size_)));
      EXPECT_NEAR(result.log_prob[static_cast<size_t>(i)], flow->LogProb(x).item<double>(), 1e-9);
    }
  }
}

// The bound and its gap: many draws come closer to the code's own probability.
TEST_P(DequantisationScorerTest, DrawsAreTheImportanceWeightedBound) {
  Noise noise = NoiseOf(NoiseKind::kUniform);
  noise.draws = 6;
  const auto result = *MakeScorer(checkpoint_, false)->LogLikelihood(x_, noise, false);
  for (size_t i = 0; i < result.log_prob.size(); ++i) {
    EXPECT_GT(result.log_prob[i], result.log_prob_mean[i]);
  }
}

TEST_P(DequantisationScorerTest, ARowDoesNotDependOnItsBatch) {
  const std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false);
  Noise noise = NoiseOf(NoiseKind::kUniform);
  const auto together = *scorer->LogLikelihood(x_, noise, true);
  const auto scores = *scorer->Anomaly(x_, {});
  for (int64_t i = 0; i < x_.rows; ++i) {
    const size_t at = static_cast<size_t>(i);
    noise.row_offset = static_cast<uint64_t>(i);
    const auto alone = *scorer->LogLikelihood(Rows(i, 1), noise, true);
    EXPECT_EQ(alone.log_prob[0], together.log_prob[at]);
    EXPECT_EQ(0, std::memcmp(alone.latent.data(), together.latent.data() + i * size_,
                             sizeof(float) * static_cast<size_t>(size_)));
    EXPECT_EQ((*scorer->Anomaly(Rows(i, 1), {})).score[0], scores.score[at]);
  }
}

TEST_P(DequantisationScorerTest, TheSelfTestHoldsForFloat32) {
  const SelfTest& test = checkpoint_.self_test;
  const auto result = *MakeScorer(checkpoint_, false)->Anomaly({test.rows, test.x}, {});
  for (size_t i = 0; i < test.log_prob.size(); ++i) {
    EXPECT_TRUE(Reproduces(result.log_prob[i], test.log_prob[i], kSelfTestRtol));
    EXPECT_TRUE(Reproduces(result.score[i], test.score[i], kSelfTestRtol));
  }
}

TEST_P(DequantisationScorerTest, SamplesAreCodesAndHaveTheirDensity) {
  SampleOptions options;
  options.rows = 9;
  options.temperature = 0.6;
  const std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false);
  const auto codes = *scorer->Sample(options);
  int inside = 0;
  for (size_t i = 0; i < codes.samples.size(); ++i) {
    const ChannelSpec& c =
        spec_.channels[static_cast<size_t>(spec_.channel_of(static_cast<int64_t>(i) % size_))];
    EXPECT_GE(codes.samples[i], c.input_min);
    EXPECT_LE(codes.samples[i], c.input_max);
    if (codes.samples[i] == c.input_min || codes.samples[i] == c.input_max) continue;
    EXPECT_EQ(std::fmod(codes.samples[i] - c.lo, c.step), 0);
    ++inside;
  }
  EXPECT_GT(inside, 100);

  if (spec_.is_image())
    return;  // pixels are rounded down to their grid, reals of waveforms are not
  // The same points as reals: their density is that of the sample.
  options.codes = false;
  options.want_log_prob = true;
  const std::unique_ptr<Scorer> exact = MakeScorer(checkpoint_, true);
  const auto scaled = *exact->Sample(options);
  HostBatch real{options.rows, scaled.samples};
  for (size_t i = 0; i < real.values.size(); ++i) {
    const ChannelSpec& c = spec_.channels[i % 2];
    real.values[i] = static_cast<float>((real.values[i] + 1.0) / 2 * (c.hi - c.lo) + c.lo);
  }
  const auto result = *exact->LogLikelihood(real, NoiseOf(NoiseKind::kNone), false);
  for (size_t i = 0; i < 9; ++i) EXPECT_NEAR(scaled.log_prob[i], result.log_prob[i], 0.01);
}

TEST_P(DequantisationScorerTest, CausesOfAWaveformAreFinite) {
  if (spec_.is_image()) return;
  const std::shared_ptr<Flow> flow = *Flow::Load(spec_, checkpoint_.tensors, at::kFloat);
  PassOptions options;
  options.want_causes = true;
  const auto pass = *RunPass(*flow, x_, NoiseOf(NoiseKind::kCenter), 0, options);
  double sum = 0;
  for (const double cause : pass.causes) {
    ASSERT_TRUE(std::isfinite(cause));
    sum += std::fabs(cause);
  }
  EXPECT_GT(sum, 0);
}

std::string NameOf(const testing::TestParamInfo<FlowSpec>& flow) {
  const std::vector<std::string> names = {"heavy", "published", "colour", "five_bits"};
  return names[flow.index];
}

INSTANTIATE_TEST_SUITE_P(Flows, DequantisationScorerTest,
                         testing::Values(Dequantised(TinyHeavySpec()), Dequantised(TinySpec()),
                                         Dequantised(TinyImageSpec(3, 8)),
                                         Dequantised(TinyImageSpec(1, 5))),
                         NameOf);

}  // namespace
}  // namespace bflow
