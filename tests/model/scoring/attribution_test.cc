// The causes of each segment by hand, their calibration, and what the scorer makes of real faults.
#include "model/scoring/attribution.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/scoring/flow_scorer.h"
#include "tests/support/tiny_checkpoint.h"

namespace bflow {
namespace {

constexpr int64_t kSteps = 70;  // three segments, the last of six samples

TEST(AttributionTest, CausesByHand) {
  // Channel 0 is a ramp with a jump of 7 at t = 40; channel 1 stands still from 20 to 66.
  std::vector<float> codes(2 * kSteps), gradient(2 * kSteps, 0.0f);
  for (int64_t t = 0; t < kSteps; ++t) {
    codes[2 * t] = static_cast<float>(t + (t >= 40 ? 6 : 0));
    codes[2 * t + 1] = static_cast<float>(t < 20 ? t : t <= 66 ? 20 : t);
  }
  gradient[2 * 33] = -2;
  gradient[2 * 34] = 3;
  gradient[2 * 69 + 1] = std::numeric_limits<float>::infinity();
  ASSERT_EQ(AttributionEntries(kSteps, 2), 6);
  std::vector<double> causes(3 * 6);
  ComputeCauses(codes.data(), codes.data(), gradient.data(), kSteps, 2, causes.data());
  const auto at = [&](int cause, int segment, int channel) {
    return causes[static_cast<size_t>(6 * cause + 2 * segment + channel)];
  };
  // The median of t = 18 .. 48 around 33: nine of the 31 lie 6 higher, the middle one is 33 still.
  EXPECT_EQ(at(0, 1, 0), 0);
  gradient[2 * 40] = -2;  // value 46, around it 25 .. 39 and 46 .. 61: the middle one is 46
  gradient[2 * 0] = 5;    // value 0, around it 0 .. 15: the median is 7.5
  ComputeCauses(codes.data(), codes.data(), gradient.data(), kSteps, 2, causes.data());
  EXPECT_EQ(at(0, 1, 0), 0);
  EXPECT_EQ(at(0, 0, 0), std::log1p(37.5));
  EXPECT_EQ(at(0, 2, 1), 0) << "an infinite gradient counts as none";
  EXPECT_EQ(at(1, 0, 1), 46) << "a run counts whole in every segment that it touches";
  EXPECT_EQ(at(1, 1, 1), 46);
  EXPECT_EQ(at(1, 2, 1), 46);
  EXPECT_EQ(at(1, 0, 0), 0);
  EXPECT_EQ(at(2, 0, 0), 1);
  EXPECT_EQ(at(2, 1, 0), 7);
  EXPECT_EQ(at(2, 2, 1), 47) << "from 20 at t = 66 to 67";
  const std::vector<float> still(2 * kSteps, 3.0f);
  ComputeCauses(still.data(), still.data(), gradient.data(), kSteps, 2, causes.data());
  EXPECT_EQ(at(1, 2, 0), kSteps - 1);
}

TEST(AttributionTest, CalibratesByMedianAndSpreadWithFloors) {
  // Two windows of one segment, one channel of step 4: gradients 1 and 3, runs 5 and 5, jumps 8, 9.
  const std::vector<double> causes = {1, 5, 8, 3, 5, 9};
  const auto tables = FitAttribution(causes, 32, std::vector<double>{4});
  ASSERT_TRUE(tables.ok()) << tables.status();
  EXPECT_EQ(tables->median[0][0], 2);
  EXPECT_NEAR(tables->spread[0][0], 0.68, 1e-12);  // quantiles 1.32 and 2.68
  EXPECT_EQ(tables->spread[1][0], 1);
  EXPECT_EQ(tables->spread[2][0], 4);
  float z = -1;
  AttributionCause cause;
  Attribute(*tables, std::vector<double>{0, 5, 28.5}, &z, &cause);
  EXPECT_EQ(z, 5);
  EXPECT_EQ(cause, AttributionCause::kJump);
  Attribute(*tables, std::vector<double>{0, 0, 0}, &z, &cause);
  EXPECT_EQ(z, 0) << "nothing is less than normal";
  EXPECT_FALSE(FitAttribution(std::vector<double>(5), 32, std::vector<double>{4}).ok());
  EXPECT_FALSE(FitAttribution({}, 32, std::vector<double>{4}).ok());
}

class ScorerAttributionTest : public testing::Test {
 protected:
  ScorerAttributionTest() {
    AttributionTables tables;
    for (size_t k = 0; k < kAttributionCauses; ++k) {
      tables.median[k] = {0, 0};
      tables.spread[k] = {1, 1};
    }
    checkpoint_.calibration->attribution = tables;
  }

  FlowSpec spec_ = TinySpec();
  Checkpoint checkpoint_ = *TinyCheckpoint(spec_, 80);
  HostBatch x_ = TinyRows(spec_, 5, 3);
};

TEST_F(ScorerAttributionTest, ChangesNoOtherNumberAndNotWithTheBatch) {
  ScorerOptions options;
  options.slice_rows = 2;
  const auto scorer = MakeFlowScorer(checkpoint_, options);
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  const auto plain = (*scorer)->Anomaly(x_, {.want_contributions = true});
  const auto with = (*scorer)->Anomaly(x_, {.want_contributions = true, .want_attribution = true});
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(plain->score, with->score);
  EXPECT_EQ(plain->log_prob, with->log_prob);
  EXPECT_EQ(plain->contributions, with->contributions);
  EXPECT_TRUE(plain->attribution.empty());
  const size_t entries = static_cast<size_t>((*scorer)->signature().attribution_entries());
  ASSERT_EQ(with->attribution.size(), 5 * entries);
  const HostBatch last = {1, {x_.values.end() - spec_.event_size(), x_.values.end()}};
  const auto alone = (*scorer)->Anomaly(last, {.want_attribution = true});
  EXPECT_THAT(alone->attribution,
              testing::ElementsAreArray(with->attribution.end() - static_cast<int>(entries),
                                        with->attribution.end()));
}

// The gradient cause of a row against differences of log p of the same scorer in float64.
TEST_F(ScorerAttributionTest, TheGradientIsThatOfLogP) {
  for (size_t k = 1; k < kAttributionCauses; ++k) {
    checkpoint_.calibration->attribution->spread[k] = {1e30, 1e30};  // the gradient alone
  }
  ScorerOptions options;
  options.float64 = true;
  const auto scorer = MakeFlowScorer(checkpoint_, options);
  ASSERT_TRUE(scorer.ok()) << scorer.status();
  const HostBatch row = {1, {x_.values.begin(), x_.values.begin() + spec_.event_size()}};
  const auto with = (*scorer)->Anomaly(row, {.want_attribution = true});
  ASSERT_TRUE(with.ok()) << with.status();
  const int64_t channels = spec_.channel_count();
  std::vector<float> gradient(static_cast<size_t>(spec_.event_size())), scaled(gradient);
  const double h = 1e-2;  // in codes: CENTER adds a half, log p is smooth
  for (size_t d = 0; d < gradient.size(); ++d) {
    const ChannelSpec& channel = spec_.channels[d % static_cast<size_t>(channels)];
    const double to_scaled = 2 / (channel.hi - channel.lo);
    HostBatch up = row, down = row;
    up.values[d] += static_cast<float>(h);
    down.values[d] -= static_cast<float>(h);
    Noise noise;
    noise.kind = NoiseKind::kCenter;
    const double difference = (*scorer)->LogLikelihood(up, noise, false)->log_prob[0] -
                              (*scorer)->LogLikelihood(down, noise, false)->log_prob[0];
    gradient[d] = static_cast<float>(difference / (2 * h * to_scaled));
    scaled[d] = static_cast<float>((row.values[d] + channel.step / 2 - channel.lo) * to_scaled - 1);
  }
  std::vector<double> causes(kAttributionCauses *
                             static_cast<size_t>(AttributionEntries(spec_.time_steps(), channels)));
  ComputeCauses(row.values.data(), scaled.data(), gradient.data(), spec_.time_steps(), channels,
                causes.data());
  for (size_t i = 0; i < with->attribution.size(); ++i) {
    EXPECT_NEAR(with->attribution[i], std::max(0.0, causes[i]), 2e-3) << i;
    EXPECT_EQ(with->attribution_cause[i], AttributionCause::kGradient);
  }
}

TEST_F(ScorerAttributionTest, UnscoredRowsAreZeroAndWrongTablesRefused) {
  HostBatch bad = x_;
  bad.values[0] = std::numeric_limits<float>::quiet_NaN();
  const auto scorer = MakeFlowScorer(checkpoint_);
  const auto result = (*scorer)->Anomaly(bad, {.want_attribution = true});
  ASSERT_TRUE(result.ok()) << result.status();
  const size_t entries = static_cast<size_t>((*scorer)->signature().attribution_entries());
  for (size_t i = 0; i < entries; ++i) {
    EXPECT_EQ(result->attribution[i], 0);
    EXPECT_EQ(result->attribution_cause[i], AttributionCause::kNone);
  }
  Checkpoint broken = *TinyCheckpoint(spec_, 80);
  EXPECT_EQ((*MakeFlowScorer(broken))->Anomaly(x_, {.want_attribution = true}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  broken.calibration->attribution = AttributionTables{32, {{{1}, {1}, {1}}}, {{{1}, {1}, {1}}}};
  EXPECT_EQ(MakeFlowScorer(broken).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace bflow
