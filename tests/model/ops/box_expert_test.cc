// The prediction that learns within a row.
#include "model/ops/cpu/box_expert.h"

#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace bflow::cpu {
namespace {

// Mean size of the errors of each channel over the last `counted` steps of residuals [steps][C].
std::vector<double> MeanErrors(ResidualPredictor& predictor,
                               const std::vector<std::vector<double>>& residuals, size_t counted) {
  const size_t channels = residuals[0].size();
  std::vector<double> sums(channels, 0.0);
  for (size_t t = 0; t < residuals.size(); ++t) {
    for (size_t c = 0; c < channels; ++c) {
      const double error = std::abs(residuals[t][c] - predictor.Predict(static_cast<int64_t>(c)));
      if (t + counted >= residuals.size()) sums[c] += error / static_cast<double>(counted);
    }
    predictor.Update(residuals[t].data());
  }
  return sums;
}

// Two channels: a hum of 60 Hz at 125 Hz in the first and noise in both.
std::vector<std::vector<double>> Hum(size_t steps, double amplitude) {
  std::mt19937 generator(3);
  std::normal_distribution<double> noise;
  std::vector<std::vector<double>> rows;
  for (size_t t = 0; t < steps; ++t) {
    const double phase = 2 * std::numbers::pi * 60 / 125 * static_cast<double>(t);
    rows.push_back({amplitude * std::sin(phase) + 0.3 * noise(generator), 0.3 * noise(generator)});
  }
  return rows;
}

TEST(ResidualPredictor, LearnsAHumThatNothingAnnounced) {
  ResidualPredictor predictor(2);
  const std::vector<double> errors = MeanErrors(predictor, Hum(1024, 3), 512);
  EXPECT_LT(errors[0], 0.35);  // of 1.9; the noise alone has 0.24
  EXPECT_LT(errors[1], 0.3);
  EXPECT_NEAR(predictor.deviation(0), errors[0], 0.1);
}

TEST(ResidualPredictor, CostsLittleWhereThereIsNothingToLearn) {
  ResidualPredictor predictor(2);
  const std::vector<double> errors = MeanErrors(predictor, Hum(1024, 0), 1024);
  EXPECT_LT(errors[0], 1.05 * 0.3 * std::sqrt(2 / std::numbers::pi));
}

TEST(ResidualPredictor, ARowDoesNotKnowTheRowBefore) {
  ResidualPredictor one(2), other(2);
  const auto rows = Hum(200, 3);
  const std::vector<double> fresh = MeanErrors(one, rows, 200);
  MeanErrors(other, Hum(300, 20), 1);
  other.Clear();
  EXPECT_EQ(MeanErrors(other, rows, 200), fresh);
}

// Outliers, silence, huge values and long rows leave it finite and able to learn.
TEST(ResidualPredictor, SurvivesWhatSensorsDo) {
  ResidualPredictor predictor(2);
  std::vector<std::vector<double>> rows(5000, {0.0, 1e-9});
  rows[100] = {1e12, -1e12};
  for (size_t t = 200; t < 260; ++t) rows[t] = {t % 2 ? 1e6 : -1e6, 0.0};
  const auto hum = Hum(3000, 3);
  rows.insert(rows.end(), hum.begin(), hum.end());
  const std::vector<double> errors = MeanErrors(predictor, rows, 512);
  EXPECT_LT(errors[0], 0.5);
  EXPECT_TRUE(std::isfinite(predictor.deviation(0)));
}

TEST(ResidualPredictor, TakesFewerStepsOfManyChannels) {
  for (const int64_t channels : {1, 5, 64, 100}) {
    ResidualPredictor predictor(channels);
    const std::vector<std::vector<double>> rows(
        40, std::vector<double>(static_cast<size_t>(channels), 0.5));
    EXPECT_LT(MeanErrors(predictor, rows, 1)[0], 0.5) << channels;
  }
}

TEST(ExpertShare, FollowsWhoeverIsRightAndNeverGivesUp) {
  ExpertShare share;
  EXPECT_EQ(share.value(), 0.05);
  for (int i = 0; i < 50; ++i) share.Update(1);
  EXPECT_NEAR(share.value(), 0.981, 1e-12);
  for (int i = 0; i < 50; ++i) share.Update(0);
  EXPECT_NEAR(share.value(), 0.001, 1e-12);
}

}  // namespace
}  // namespace bflow::cpu
