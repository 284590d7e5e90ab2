// The scorer of small random checkpoints: densities, draws, row status, scores, samples, threads.
#include "model/scoring/flow_scorer.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "base/philox.h"
#include "c10/core/GradMode.h"
#include "c10/core/InferenceMode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/flow/flow.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/window_features.h"
#include "tests/support/tiny_checkpoint.h"

namespace bflow {
namespace {

using testing::Each;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Noise NoiseOf(NoiseKind kind) {
  Noise noise;
  noise.kind = kind;
  noise.seed = 42;
  return noise;
}

std::unique_ptr<Scorer> MakeScorer(const Checkpoint& checkpoint, bool float64 = true,
                                   int64_t slice_rows = 3) {
  ScorerOptions options;
  options.float64 = float64;
  options.slice_rows = slice_rows;
  absl::StatusOr<std::unique_ptr<Scorer>> scorer = MakeFlowScorer(checkpoint, options);
  EXPECT_TRUE(scorer.ok()) << scorer.status();
  return *std::move(scorer);
}

HostBatch OneRow(const HostBatch& x, int64_t row) {
  const auto size = static_cast<int64_t>(x.values.size()) / x.rows;
  return {1, {x.values.begin() + row * size, x.values.begin() + (row + 1) * size}};
}

class FlowScorerTest : public testing::Test {
 protected:
  FlowSpec spec_ = TinySpec();
  Checkpoint checkpoint_ = *TinyCheckpoint(spec_, 80);
  HostBatch x_ = TinyRows(spec_, 7, 3);
};

// log p by the definition alone: scaled by hand, one row at a time, with the flow's own LogProb.
double ByHand(const Checkpoint& checkpoint, const float* row, const std::vector<float>& u) {
  c10::InferenceMode inference;
  const FlowSpec& spec = checkpoint.spec;
  std::shared_ptr<Flow> flow = *Flow::Load(spec, checkpoint.tensors, at::kDouble);
  at::Tensor x = at::empty({1, spec.time_steps(), spec.channel_count()}, at::kDouble);
  for (int64_t d = 0; d < spec.event_size(); ++d) {
    const ChannelSpec& c = spec.channels[d % 2];
    double v = 2 * (row[d] + c.step * u[d] - c.lo) / (c.hi - c.lo) - 1;
    x.mutable_data_ptr<double>()[d] = static_cast<float>(v);
  }
  return flow->LogProb(x).item<double>();
}

TEST_F(FlowScorerTest, LogLikelihoodUnderEachNoise) {
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_);
  const int64_t size = spec_.event_size();
  Noise uniform = NoiseOf(NoiseKind::kUniform);
  uniform.row_offset = 1000;
  auto none = *scorer->LogLikelihood(x_, NoiseOf(NoiseKind::kNone), false);
  auto center = *scorer->LogLikelihood(x_, NoiseOf(NoiseKind::kCenter), false);
  auto seeded = *scorer->LogLikelihood(x_, uniform, false);
  EXPECT_TRUE(seeded.log_prob_mean.empty());
  for (int64_t i = 0; i < x_.rows; ++i) {
    const float* row = x_.values.data() + i * size;
    std::vector<float> u(size);
    EXPECT_NEAR(none.log_prob[i], ByHand(checkpoint_, row, u), 1e-9);
    std::fill(u.begin(), u.end(), 0.5f);
    EXPECT_NEAR(center.log_prob[i], ByHand(checkpoint_, row, u), 1e-9);
    FillUniform(42, 1000 + i, 0, size, u.data());
    EXPECT_NEAR(seeded.log_prob[i], ByHand(checkpoint_, row, u), 1e-9);
  }
}

TEST_F(FlowScorerTest, DrawsAreTheLogMeanAndTheMeanOverDraws) {
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_);
  Noise noise = NoiseOf(NoiseKind::kUniform);
  noise.draws = 5;
  auto result = *scorer->LogLikelihood(x_, noise, false);
  std::vector<float> u(spec_.event_size());
  for (int64_t i = 0; i < x_.rows; ++i) {
    double sum = 0, mean = 0;
    for (uint32_t draw = 0; draw < 5; ++draw) {
      FillUniform(42, i, draw, spec_.event_size(), u.data());
      double log_prob = ByHand(checkpoint_, x_.values.data() + i * spec_.event_size(), u);
      sum += std::exp(log_prob - result.log_prob[i]);
      mean += log_prob / 5;
    }
    EXPECT_NEAR(sum / 5, 1, 1e-9);
    EXPECT_NEAR(result.log_prob_mean[i], mean, 1e-9);
    EXPECT_GE(result.log_prob[i], result.log_prob_mean[i]);
  }
}

TEST_F(FlowScorerTest, ARowDoesNotDependOnItsBatch) {
  for (bool float64 : {false, true}) {
    std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, float64, 4);
    Noise noise = NoiseOf(NoiseKind::kUniform);
    auto together = *scorer->LogLikelihood(x_, noise, true);
    auto scores = *scorer->Anomaly(x_, {.want_contributions = true});
    for (int64_t i = 0; i < x_.rows; ++i) {
      noise.row_offset = i;
      auto alone = *scorer->LogLikelihood(OneRow(x_, i), noise, true);
      EXPECT_EQ(alone.log_prob[0], together.log_prob[i]);
      EXPECT_EQ(0, std::memcmp(alone.latent.data(), together.latent.data() + i * spec_.event_size(),
                               sizeof(float) * spec_.event_size()));
      EXPECT_EQ((*scorer->Anomaly(OneRow(x_, i), {})).score[0], scores.score[i]);
    }
  }
}

TEST_F(FlowScorerTest, Float32AgreesWithFloat64) {
  auto single =
      *MakeScorer(checkpoint_, false)->LogLikelihood(x_, NoiseOf(NoiseKind::kCenter), false);
  auto twice =
      *MakeScorer(checkpoint_, true)->LogLikelihood(x_, NoiseOf(NoiseKind::kCenter), false);
  for (int64_t i = 0; i < x_.rows; ++i) {
    EXPECT_NEAR(single.log_prob[i], twice.log_prob[i], 2e-4 * std::abs(twice.log_prob[i]));
  }
}

TEST_F(FlowScorerTest, TheLatentIsTheFlows) {
  auto result = *MakeScorer(checkpoint_)->LogLikelihood(x_, NoiseOf(NoiseKind::kCenter), true);
  ASSERT_EQ(result.latent.size(), x_.values.size());
  // log p of the latent plus a log-determinant that is the same for both orders of assembly.
  c10::InferenceMode inference;
  std::shared_ptr<Flow> flow = *Flow::Load(spec_, checkpoint_.tensors, at::kDouble);
  at::Tensor z = at::empty({x_.rows, 16, 2}, at::kDouble);
  for (size_t i = 0; i < result.latent.size(); ++i) {
    z.mutable_data_ptr<double>()[i] = result.latent[i];
  }
  Transformed decoded = flow->Decode(z);
  at::Tensor x = decoded.value.contiguous();
  for (size_t i = 0; i < x_.values.size(); ++i) {
    const ChannelSpec& c = spec_.channels[i % 2];
    double scaled = 2 * (x_.values[i] + 0.5 * c.step - c.lo) / (c.hi - c.lo) - 1;
    EXPECT_NEAR(x.const_data_ptr<double>()[i], scaled, 1e-4);
  }
}

TEST_F(FlowScorerTest, BadRowsCarryTheFailSafeValuesAndChangeNoOther) {
  std::shared_ptr<Flow> flow = TinyFlow(spec_);
  for (auto& [name, tensor] : flow->NamedTensors()) {
    c10::AutoGradMode no_gradient(false);
    if (name == "levels.0.blocks.0.0.log_scale") tensor.add_(15);  // overflows past 1e32
  }
  checkpoint_ = *CheckpointOf(*flow, 80);
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false);
  Noise noise = NoiseOf(NoiseKind::kUniform);
  noise.draws = 2;
  auto clean = *scorer->LogLikelihood(x_, noise, true);
  auto clean_scores = *scorer->Anomaly(x_, {.want_contributions = true});
  HostBatch bad = x_;
  const int64_t size = spec_.event_size();
  bad.values[1 * size + 5] = std::nanf("");
  bad.values[2 * size] = std::numeric_limits<float>::infinity();
  std::fill_n(bad.values.begin() + 4 * size, size, 3e38f);  // finite, overflows in the flow
  auto result = *scorer->LogLikelihood(bad, noise, true);
  auto scores = *scorer->Anomaly(bad, {.want_contributions = true});
  const size_t count = checkpoint_.calibration->feature_names.size();
  for (int64_t i = 0; i < bad.rows; ++i) {
    if (i != 1 && i != 2 && i != 4) {
      EXPECT_EQ(result.status[i], RowStatus::kOk);
      EXPECT_EQ(result.log_prob[i], clean.log_prob[i]);
      EXPECT_EQ(scores.score[i], clean_scores.score[i]);
      continue;
    }
    RowStatus expected = i == 4 ? RowStatus::kNonFiniteScore : RowStatus::kNonFiniteInput;
    EXPECT_EQ(result.status[i], expected);
    EXPECT_EQ(scores.status[i], expected);
    EXPECT_EQ(result.log_prob[i], -kInfinity);
    EXPECT_EQ(result.log_prob_mean[i], -kInfinity);
    EXPECT_EQ(scores.log_prob[i], -kInfinity);
    EXPECT_EQ(scores.score[i], kInfinity);
    EXPECT_EQ(scores.score_ratio[i], kInfinity);
    EXPECT_DOUBLE_EQ(scores.p_value[i], 1.0 / (checkpoint_.calibration->n() + 1));
    EXPECT_EQ(scores.nll_rank[i], 1);
    EXPECT_EQ(scores.typicality[i], 2);
    for (int64_t d = 0; d < size; ++d) EXPECT_EQ(result.latent[i * size + d], 0.0f);
    for (size_t j = 0; j < count; ++j) EXPECT_EQ(scores.contributions[i * count + j], 0.0);
  }
}

TEST_F(FlowScorerTest, ContributionsSumToTheScore) {
  auto result = *MakeScorer(checkpoint_)->Anomaly(x_, {.want_contributions = true});
  const size_t count = checkpoint_.calibration->feature_names.size();
  for (int64_t i = 0; i < x_.rows; ++i) {
    double sum = 0;
    for (size_t j = 0; j < count; ++j) sum += result.contributions[i * count + j];
    EXPECT_NEAR(sum, result.score[i], 1e-9 * (1 + result.score[i]));
    EXPECT_GT(result.score[i], 0);
  }
  EXPECT_TRUE((*MakeScorer(checkpoint_)->Anomaly(x_, {})).contributions.empty());
}

TEST_F(FlowScorerTest, AFlatWindowScoresAboveEveryCalibrationWindow) {
  HostBatch flat{1, std::vector<float>(static_cast<size_t>(spec_.event_size()), 20.0f)};
  auto result = *MakeScorer(checkpoint_)->Anomaly(flat, {});
  EXPECT_GT(result.score_ratio[0], 1);
  EXPECT_DOUBLE_EQ(result.p_value[0], 1.0 / (checkpoint_.calibration->n() + 1));
}

TEST_F(FlowScorerTest, FeaturesAreThoseOfTheDefinition) {
  c10::InferenceMode inference;
  std::shared_ptr<Flow> flow = *Flow::Load(spec_, checkpoint_.tensors, at::kDouble);
  WindowFeatures features = *ComputeFeatures(*flow, x_, CalibrationNoise(spec_), 2);
  ASSERT_EQ(features.names, FeatureNames(spec_));
  ASSERT_EQ(features.rows, x_.rows);
  std::vector<double> quality(6);
  SignalQualityFeatures(x_.values.data(), 16, 2, quality.data());
  std::span<const double> row = features.row(0);
  for (size_t j = 0; j < 6; ++j) EXPECT_EQ(row[row.size() - 6 + j], quality[j]);

  at::Tensor x = at::empty({1, 16, 2}, at::kDouble);
  for (int64_t d = 0; d < 32; ++d) {
    const ChannelSpec& c = spec_.channels[d % 2];
    double scaled = 2 * (x_.values[d] + 0.5 * c.step - c.lo) / (c.hi - c.lo) - 1;
    x.mutable_data_ptr<double>()[d] = static_cast<float>(scaled);
  }
  Encoded encoded = flow->Encode(x);
  size_t j = 0;
  for (const at::Tensor& z : encoded.level_latents) {
    EXPECT_NEAR(row[j++], std::log(z.square().mean().item<double>() + 1e-6), 1e-9);
  }
  for (const at::Tensor& log_det : encoded.coupling_log_dets) {
    EXPECT_NEAR(row[j++], log_det.item<double>() / 32, 1e-9);
  }
  EXPECT_EQ(j + 6, row.size());
}

TEST_F(FlowScorerTest, TheSelfTestHoldsForFloat32) {
  const SelfTest& test = checkpoint_.self_test;
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false);
  auto result = *scorer->Anomaly({test.rows, test.x}, {});
  ASSERT_EQ(test.log_prob.size(), 4u);
  ASSERT_EQ(test.score.size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(result.log_prob[i], test.log_prob[i], 2e-4 * std::abs(test.log_prob[i]));
    EXPECT_NEAR(result.score[i], test.score[i], 1e-2 * test.score[i]);
  }
}

TEST_F(FlowScorerTest, SamplesAreTheSameHoweverTheyAreCut) {
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false, 4);
  SampleOptions options;
  options.rows = 9;
  options.seed = 17;
  options.first_row = 100;
  options.want_log_prob = true;
  auto all = *scorer->Sample(options);
  options.rows = 2;
  options.first_row = 105;
  auto part = *scorer->Sample(options);
  const int64_t size = spec_.event_size();
  for (int64_t i = 0; i < 2 * size; ++i) EXPECT_EQ(part.samples[i], all.samples[5 * size + i]);
  EXPECT_EQ(part.log_prob[0], all.log_prob[5]);
  options.seed = 18;
  EXPECT_NE((*scorer->Sample(options)).log_prob[0], part.log_prob[0]);
  for (size_t i = 0; i < all.samples.size(); ++i) {
    const ChannelSpec& c = spec_.channels[i % 2];
    EXPECT_GE(all.samples[i], c.input_min);
    EXPECT_LE(all.samples[i], c.input_max);
    bool clamped = all.samples[i] == c.input_min || all.samples[i] == c.input_max;
    EXPECT_TRUE(clamped || std::fmod(all.samples[i] - c.lo, c.step) == 0);
  }
}

TEST(FlowScorerContinuous, LogProbOfASampleIsThatOfLogLikelihood) {
  FlowSpec spec = TinySpec(false);
  Checkpoint checkpoint = *TinyCheckpoint(spec, 60);
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint);
  for (double temperature : {1.0, 0.7}) {
    SampleOptions options;
    options.rows = 5;
    options.codes = false;
    options.temperature = temperature;
    options.want_log_prob = true;
    auto sample = *scorer->Sample(options);
    auto result = *scorer->LogLikelihood({5, sample.samples}, Noise{}, false);
    for (int i = 0; i < 5; ++i) EXPECT_NEAR(sample.log_prob[i], result.log_prob[i], 1e-3);
  }
  EXPECT_EQ(
      scorer->LogLikelihood(TinyRows(spec, 1), NoiseOf(NoiseKind::kCenter), false).status().code(),
      absl::StatusCode::kInvalidArgument);
  SampleOptions codes;
  codes.rows = 1;
  EXPECT_EQ(scorer->Sample(codes).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(scorer->signature().can_score_anomaly);
  EXPECT_EQ(scorer->signature().feature_names.size(), 6u);
}

TEST(FlowScorerHeavy, LogProbOfASampleIsThatOfLogLikelihoodAndOfNoBatch) {
  FlowSpec spec = TinyHeavySpec(false);
  Checkpoint checkpoint = *TinyCheckpoint(spec, 0);
  for (const bool float64 : {true, false}) {
    std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint, float64, 4);
    for (double temperature : {1.0, 0.5}) {
      SampleOptions options;
      options.rows = 9;
      options.first_row = 100;
      options.codes = false;
      options.temperature = temperature;
      options.want_log_prob = true;
      auto sample = *scorer->Sample(options);
      auto result = *scorer->LogLikelihood({9, sample.samples}, Noise{}, false);
      for (int i = 0; i < 9; ++i) EXPECT_NEAR(sample.log_prob[i], result.log_prob[i], 2e-3);
      options.rows = 2;
      options.first_row = 105;
      auto part = *scorer->Sample(options);
      for (int64_t i = 0; i < 2 * spec.event_size(); ++i) {
        EXPECT_EQ(part.samples[i], sample.samples[5 * spec.event_size() + i]);
      }
      EXPECT_EQ(part.log_prob[1], sample.log_prob[6]);
    }
  }
}

TEST(FlowScorerExact, LikelihoodsDoNotDependOnTheNoiseNorOnTheBatch) {
  const FlowSpec spec = TinyExactSpec();
  const Checkpoint checkpoint = *TinyCheckpoint(spec, 80);
  const HostBatch x = TinyRows(spec, 7, 3);
  for (const bool float64 : {true, false}) {
    std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint, float64);
    Noise noise = NoiseOf(NoiseKind::kUniform);
    const auto one = *scorer->LogLikelihood(x, noise, true);
    noise.seed = 43;
    const auto other = *scorer->LogLikelihood(x, noise, false);
    const auto centre = *scorer->LogLikelihood(x, NoiseOf(NoiseKind::kCenter), false);
    for (size_t i = 0; i < 7; ++i) {
      EXPECT_NEAR(one.log_prob[i], other.log_prob[i], 1e-9);
      EXPECT_NEAR(one.log_prob[i], centre.log_prob[i], 1e-9);
      EXPECT_LT(one.log_prob[i] - spec.code_unit_offset_nats(), 0);  // of codes: a probability
      const auto alone = *scorer->LogLikelihood(OneRow(x, static_cast<int64_t>(i)),
                                                NoiseOf(NoiseKind::kCenter), false);
      EXPECT_EQ(alone.log_prob[0], centre.log_prob[i]);
    }
  }
}

TEST(FlowScorerExact, SamplesAreCodesOfTheirLikelihoodHoweverTheyAreCut) {
  const FlowSpec spec = TinyExactSpec();
  const Checkpoint checkpoint = *TinyCheckpoint(spec, 80);
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint, true, 4);
  SampleOptions options;
  options.rows = 9;
  options.first_row = 100;
  options.temperature = 0.5;
  options.codes = false;
  options.want_log_prob = true;
  const auto sample = *scorer->Sample(options);
  options.codes = true;
  const auto codes = *scorer->Sample(options);
  const auto result =
      *scorer->LogLikelihood({9, codes.samples}, NoiseOf(NoiseKind::kCenter), false);
  size_t compared = 0;
  for (size_t i = 0; i < 9; ++i) {
    // A sample that the converter's range clamped is another one.
    bool inside = true;
    for (size_t d = i * 32; d < (i + 1) * 32; ++d) {
      inside = inside && std::abs(codes.samples[d]) < 99;
    }
    if (!inside) continue;
    ++compared;
    EXPECT_NEAR(codes.log_prob[i], result.log_prob[i], 1e-6);
  }
  EXPECT_GT(compared, 2u);
  options.rows = 2;
  options.first_row = 105;
  const auto part = *scorer->Sample(options);
  for (size_t d = 0; d < 64; ++d) EXPECT_EQ(part.samples[d], codes.samples[5 * 32 + d]);
}

TEST(FlowScorerExact, AnomalyScoresAndAttributionsAreDefined) {
  const FlowSpec spec = TinyExactSpec();
  EXPECT_EQ(ScoreDefinition(spec), "flow_quality_v2");
  const Checkpoint checkpoint = *TinyCheckpoint(spec, 80);
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint, false);
  EXPECT_EQ(scorer->signature().feature_names.size(), 1u + 3 * 2 + 2);
  HostBatch flat = TinyRows(spec, 2, 3);
  std::fill_n(flat.values.begin(), 32, 20.0f);
  const auto result = *scorer->Anomaly(flat, {});
  EXPECT_THAT(result.status, Each(RowStatus::kOk));
  EXPECT_GT(result.score[0], checkpoint.calibration->scores.back());
}

// The latents of samples, at their channel's degrees of freedom and scale.
TEST(FlowScorerHeavy, LatentsOfSamplesFollowTheBase) {
  FlowSpec spec = TinyHeavySpec(false);
  std::shared_ptr<Flow> flow = TinyFlow(spec);
  {
    const c10::NoGradGuard no_grad;
    for (auto& [name, tensor] : flow->NamedTensors()) {
      if (name == "base.1.log_degrees") tensor[2].fill_(std::log(0.5));  // 1.5 degrees
      if (name == "base.1.log_scale") tensor[2].fill_(std::log(3.0));
    }
  }
  Checkpoint checkpoint = *CheckpointOf(*flow, 0);
  SampleOptions options;
  options.rows = 4000;
  options.codes = false;
  auto sample = *MakeScorer(checkpoint, true, 512)->Sample(options);
  auto latent =
      *MakeScorer(checkpoint, true, 512)->LogLikelihood({4000, sample.samples}, Noise{}, true);
  at::Tensor z = at::empty({4000, 16, 2}, at::kFloat);
  std::copy(latent.latent.begin(), latent.latent.end(), z.data_ptr<float>());
  const at::Tensor heavy = flow->SplitLatent(z)[1].select(2, 2).flatten().abs();
  const at::Tensor other = flow->SplitLatent(z)[1].select(2, 1).flatten().abs();
  // Median of |t|: the 75% quantile, from scipy.stats.t.
  EXPECT_NEAR(heavy.median().item<double>(), 3 * 0.87259466, 0.08);
  EXPECT_NEAR(other.median().item<double>(), 0.71755820, 0.02);
}

TEST(FlowScorerHeavy, FeaturesHaveTheEnergyOfTheResiduals) {
  const FlowSpec spec = TinyHeavySpec();
  Checkpoint checkpoint = *TinyCheckpoint(spec, 80);
  EXPECT_EQ(checkpoint.calibration->score_definition, "flow_quality_v2");
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint);
  EXPECT_EQ(scorer->signature().score_definition, "flow_quality_v2");
  const std::vector<std::string> names = FeatureNames(spec);
  EXPECT_EQ(names.back(), "whitened_energy/V");
  EXPECT_EQ(names[names.size() - 2], "whitened_energy/II");
  std::shared_ptr<Flow> flow = TinyFlow(spec);
  const HostBatch rows = TinyRows(spec, 3, 5);
  const WindowFeatures features = *ComputeFeatures(*flow, rows, CalibrationNoise(spec), 2);
  for (int64_t row = 0; row < 3; ++row) {
    for (size_t c = 0; c < 2; ++c) {
      double sum = 0;
      for (size_t t = 0; t < 16; ++t) {
        const auto x = [&](size_t step) {
          const ChannelSpec& channel = spec.channels[c];
          const double v = rows.values[static_cast<size_t>(row) * 32 + 2 * step + c];
          return 2 * (v + channel.step / 2 - channel.lo) / (channel.hi - channel.lo) - 1;
        };
        // Differences from 0.9 of the step before, over exp(-1.5), as TinyFlow sets them.
        const double e = (x(t) - (t > 0 ? 0.9f * x(t - 1) : 0)) * std::exp(1.5);
        sum += std::log1p(e * e);
      }
      EXPECT_NEAR(features.row(row)[names.size() - 2 + c], std::log(sum / 16 + 1e-6), 1e-5);
    }
  }
}

TEST_F(FlowScorerTest, SamplesInTheScaledUnitMatchNoneOfTheirRealCodes) {
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_);
  SampleOptions options;
  options.rows = 5;
  options.codes = false;
  options.want_log_prob = true;
  auto sample = *scorer->Sample(options);
  HostBatch codes{5, sample.samples};
  for (size_t i = 0; i < codes.values.size(); ++i) {
    const ChannelSpec& c = spec_.channels[i % 2];
    codes.values[i] = static_cast<float>((sample.samples[i] + 1.0) / 2 * (c.hi - c.lo) + c.lo);
  }
  auto result = *scorer->LogLikelihood(codes, Noise{}, false);
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(sample.log_prob[i], result.log_prob[i], 1e-3);
}

TEST_F(FlowScorerTest, ExtremeTemperaturesGiveNoNaN) {
  SampleOptions options;
  options.rows = 3;
  options.temperature = 1e30;
  options.want_log_prob = true;
  for (bool codes : {true, false}) {
    options.codes = codes;
    auto result = *MakeScorer(checkpoint_, false)->Sample(options);
    for (float v : result.samples) EXPECT_TRUE(std::isfinite(v));
    for (double v : result.log_prob) EXPECT_FALSE(std::isnan(v));
  }
  options.temperature = 0;
  EXPECT_EQ(MakeScorer(checkpoint_)->Sample(options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(FlowScorerTest, ASpecMayForbidSampling) {
  FlowSpec spec = TinySpec();
  spec.allow_sampling = false;
  Checkpoint checkpoint = *TinyCheckpoint(spec, 0);
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint);
  EXPECT_FALSE(scorer->signature().can_sample);
  SampleOptions options;
  options.rows = 1;
  EXPECT_EQ(scorer->Sample(options).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(scorer->signature().can_score_anomaly);
  EXPECT_TRUE(checkpoint.self_test.score.empty());
  EXPECT_EQ(scorer->Anomaly(x_, {}).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(FlowScorerTest, ACalibrationOfAnotherFlowIsDataLoss) {
  checkpoint_.calibration->feature_names[0] = "latent_norm/level7";
  EXPECT_EQ(MakeFlowScorer(checkpoint_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(FlowScorerTest, SignatureTellsWhatTheSpecSays) {
  ModelSignature s = MakeSignature(spec_, &*checkpoint_.calibration);
  EXPECT_TRUE(s.quantised);
  EXPECT_FALSE(s.patient_sensitive);
  EXPECT_EQ(s.event_size(), 32);
  EXPECT_EQ(s.channels[1].name, "V");
  EXPECT_EQ(s.channels[1].step, 2);
  EXPECT_EQ(s.channels[1].input_max, 120);
  EXPECT_NEAR(s.code_unit_offset_nats, 16 * (std::log(70.0) + std::log(45.0)), 1e-9);
  EXPECT_EQ(s.calibration_rows, 40);
  EXPECT_EQ(s.calibration_noise, NoiseKind::kCenter);
  EXPECT_EQ(s.score_definition, "flow_quality_v1");
}

TEST_F(FlowScorerTest, AWrongNumberOfValuesIsRefused) {
  x_.values.pop_back();
  EXPECT_EQ(MakeScorer(checkpoint_)->Anomaly(x_, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(FlowScorerTest, ThreadsGetTheSameNumbers) {
  std::unique_ptr<Scorer> scorer = MakeScorer(checkpoint_, false);
  const auto expected = *scorer->Anomaly(x_, {.want_contributions = true});
  std::vector<int> different(4, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round) {
        auto result = *scorer->Anomaly(x_, {.want_contributions = true});
        different[t] += result.score != expected.score;
        different[t] += result.contributions != expected.contributions;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(different, Each(0));
}

}  // namespace
}  // namespace bflow
