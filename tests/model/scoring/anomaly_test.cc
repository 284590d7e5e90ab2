// The calibrated score: features against hand counts, the fit and the score against numpy's, and
// what must hold for degenerate input.
#include "model/scoring/anomaly.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bflow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Json Golden() {
  absl::StatusOr<std::string> text =
      ReadFile("tests/model/scoring/data/flow_quality.json", 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  return *ParseJson(*text);
}

std::vector<std::string> Names(size_t count) {
  std::vector<std::string> names;
  for (size_t j = 0; j < count; ++j) names.push_back("feature" + std::to_string(j));
  return names;
}

WindowFeatures FromGolden(const Json& golden) {
  WindowFeatures features;
  features.log_prob = golden["log_prob"].get<std::vector<double>>();
  features.rows = static_cast<int64_t>(features.log_prob.size());
  features.names = Names(golden["centre"].size());
  for (const Json& row : golden["features"]) {
    for (const Json& value : row) features.values.push_back(value.get<double>());
  }
  features.status.assign(features.log_prob.size(), RowStatus::kOk);
  return features;
}

// `rows` rows of `count` independent standard normals.
WindowFeatures RandomFeatures(int64_t rows, size_t count) {
  std::mt19937 generator(5);
  std::normal_distribution<double> normal;
  WindowFeatures features;
  features.names = Names(count);
  features.rows = rows;
  for (size_t i = 0; i < static_cast<size_t>(rows) * count; ++i) {
    features.values.push_back(normal(generator));
  }
  for (int64_t i = 0; i < rows; ++i) features.log_prob.push_back(normal(generator));
  features.status.assign(static_cast<size_t>(rows), RowStatus::kOk);
  return features;
}

void ExpectNear(const std::vector<double>& got, const Json& expected, const char* what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    double want = expected[i].get<double>();
    EXPECT_NEAR(got[i], want, 1e-9 * std::max(1.0, std::abs(want))) << what << " " << i;
  }
}

TEST(SignalQualityFeatures, CountsByHand) {
  // Two channels, time-major: 5 5 5 7 7 and 0 10 0 10 0.
  const std::vector<float> codes = {5, 0, 5, 10, 5, 0, 7, 10, 7, 0};
  std::vector<double> out(6);
  SignalQualityFeatures(codes.data(), 5, 2, out.data());
  EXPECT_DOUBLE_EQ(out[0], std::log(2.0 / 4 + 0.02));
  EXPECT_DOUBLE_EQ(out[1], std::log(1.0 + 2));  // two zero differences in a row
  EXPECT_DOUBLE_EQ(out[2], std::log(1.0 + 2));
  EXPECT_DOUBLE_EQ(out[3], std::log(10.0 + 0.02));
  EXPECT_DOUBLE_EQ(out[4], 0.0);
  EXPECT_DOUBLE_EQ(out[5], std::log(1.0 + 10));
}

TEST(SignalQualityFeatures, AWindowThatNeverChangesHasARunOfAllDifferences) {
  const std::vector<float> codes(1024, -3.0f);
  std::vector<double> out(3);
  SignalQualityFeatures(codes.data(), 1024, 1, out.data());
  EXPECT_DOUBLE_EQ(out[0], std::log(0.02));
  EXPECT_DOUBLE_EQ(out[1], std::log(1.0 + 1023));
  EXPECT_DOUBLE_EQ(out[2], 0.0);
}

TEST(SignalQualityFeatures, OneSampleIsFinite) {
  const float code = 4;
  std::vector<double> out(3);
  SignalQualityFeatures(&code, 1, 1, out.data());
  EXPECT_THAT(out, ElementsAre(std::log(0.02), 0.0, 0.0));
}

FlowSpec NamesSpec(SpecDequantization dequantization) {
  FlowSpec spec;
  spec.event_shape = {8, 2};
  spec.dequantization = dequantization;
  spec.channels.resize(2);
  spec.channels[0].name = "II";
  spec.channels[1].name = "ABP";
  spec.levels.resize(2);
  spec.levels[0].blocks = {{ActNormSpec{}, AffineCouplingSpec{}}, {AffineCouplingSpec{}}};
  spec.levels[1].blocks = {{AffineCouplingSpec{}, ActNormSpec{}, AffineCouplingSpec{}}};
  return spec;
}

TEST(FeatureNames, LevelsCouplingsThenChannels) {
  FlowSpec spec = NamesSpec(SpecDequantization::kUniform);
  EXPECT_THAT(
      FeatureNames(spec),
      ElementsAre("latent_norm/level0", "latent_norm/level1", "coupling_log_det/level0/block0",
                  "coupling_log_det/level0/block1", "coupling_log_det/level1/block0",
                  "coupling_log_det/level1/block0/1", "step/II", "flat_run/II", "range/II",
                  "step/ABP", "flat_run/ABP", "range/ABP"));
  EXPECT_EQ(CouplingCount(spec), 4);
}

TEST(FeatureNames, ThePriorStepOfAnImageIsNamedAndPixelsHaveNoSignalQuality) {
  FlowSpec spec = NamesSpec(SpecDequantization::kUniform);
  spec.architecture = "image";
  spec.levels[0].blocks = {{ActNormSpec{}, Conv2dCouplingSpec{}}};
  spec.levels[0].prior = {Conv2dCouplingSpec{}};
  spec.levels[1].blocks = {{Conv2dCouplingSpec{}}};
  EXPECT_THAT(
      FeatureNames(spec),
      ElementsAre("latent_norm/level0", "latent_norm/level1", "coupling_log_det/level0/block0",
                  "coupling_log_det/level0/prior", "coupling_log_det/level1/block0"));
}

TEST(FeatureNames, WithoutCodesTheFlowAlone) {
  EXPECT_EQ(FeatureNames(NamesSpec(SpecDequantization::kNone)).size(), 6u);
}

TEST(SortedQuantile, InterpolatesLinearly) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(SortedQuantile(values, 0), 1);
  EXPECT_DOUBLE_EQ(SortedQuantile(values, 0.5), 3);
  EXPECT_DOUBLE_EQ(SortedQuantile(values, 0.9), 4 + 0.7 * 4);
  EXPECT_DOUBLE_EQ(SortedQuantile(values, 1), 8);
  EXPECT_DOUBLE_EQ(SortedQuantile(std::vector<double>{3.0}, 0.16), 3);
}

TEST(FitCalibration, EqualsNumpy) {
  Json golden = Golden();
  absl::StatusOr<Calibration> fit =
      FitCalibration(FromGolden(golden), golden["event_size"], "none");
  ASSERT_TRUE(fit.ok()) << fit.status();
  ExpectNear(fit->centre, golden["centre"], "centre");
  ExpectNear(fit->scale, golden["scale"], "scale");
  ExpectNear(fit->mean, golden["mean"], "mean");
  for (size_t j = 0; j < fit->inverse_covariance.size(); ++j) {
    ExpectNear(fit->inverse_covariance[j], golden["inverse_covariance"][j], "inverse_covariance");
  }
  ExpectNear(fit->scores, golden["scores"], "scores");
  ExpectNear(fit->nll, golden["nll"], "nll");
  EXPECT_NEAR(fit->reference_mean, golden["reference_mean"].get<double>(), 1e-12);
  EXPECT_NEAR(fit->reference_stddev, golden["reference_stddev"].get<double>(), 1e-12);
  EXPECT_EQ(fit->noise, "none");
  EXPECT_EQ(fit->alpha, 0.05);
}

TEST(AnomalyModel, ScoresEqualNumpy) {
  Json golden = Golden();
  WindowFeatures normal = FromGolden(golden);
  Calibration fit = *FitCalibration(normal, golden["event_size"], "none");
  AnomalyModel model = *AnomalyModel::Create(fit, normal.names);
  for (size_t i = 0; i < golden["probes"].size(); ++i) {
    std::vector<double> contributions(normal.names.size());
    AnomalyScore score = model.Score(golden["probes"][i].get<std::vector<double>>(),
                                     golden["probe_nll"][i], contributions.data());
    double want = golden["probe_scores"][i];
    EXPECT_NEAR(score.score, want, 1e-9 * std::max(1.0, want));
    EXPECT_DOUBLE_EQ(score.p_value, golden["probe_p"][i]);
    EXPECT_NEAR(score.score_ratio, golden["probe_ratio"][i].get<double>(),
                1e-9 * std::max(1.0, want));
    EXPECT_DOUBLE_EQ(score.nll_rank, golden["probe_rank"][i]);
    EXPECT_EQ(score.typicality, golden["probe_typicality"][i].get<int>());
    ExpectNear(contributions, golden["probe_contributions"][i], "contributions");
  }
}

TEST(FitCalibration, PermutedFeaturesGiveTheSameScores) {
  WindowFeatures features = RandomFeatures(200, 5), reversed = features;
  for (int64_t i = 0; i < features.rows; ++i) {
    std::reverse(reversed.values.begin() + i * 5, reversed.values.begin() + (i + 1) * 5);
  }
  Calibration a = *FitCalibration(features, 10, "none"), b = *FitCalibration(reversed, 10, "none");
  for (int i = 0; i < a.n(); ++i) EXPECT_NEAR(a.scores[i], b.scores[i], 1e-9 * (1 + a.scores[i]));
}

TEST(FitCalibration, UnitsOfTheFeaturesDoNotMatter) {
  WindowFeatures features = RandomFeatures(200, 3), scaled = features;
  for (size_t i = 0; i < scaled.values.size(); i += 3)
    scaled.values[i] = 7 - 1000 * scaled.values[i];
  Calibration a = *FitCalibration(features, 10, "none"), b = *FitCalibration(scaled, 10, "none");
  for (int i = 0; i < a.n(); ++i) EXPECT_NEAR(a.scores[i], b.scores[i], 1e-6 * (1 + a.scores[i]));
}

TEST(FitCalibration, PValuesOfFreshNormalWindowsAreAboutUniform) {
  WindowFeatures all = RandomFeatures(4000, 4), normal = all;
  normal.rows = 2000;
  normal.values.resize(2000 * 4);
  normal.log_prob.resize(2000);
  normal.status.resize(2000);
  AnomalyModel model = *AnomalyModel::Create(*FitCalibration(normal, 1, "none"), all.names);
  int flagged = 0;
  for (int64_t i = 2000; i < 4000; ++i) {
    flagged += model.Score(all.row(i), -all.log_prob[i], nullptr).p_value <= 0.05;
  }
  EXPECT_NEAR(flagged / 2000.0, 0.05, 0.025);
}

TEST(FitCalibration, AConstantFeatureStaysFiniteAndDoesNotDrownTheRest) {
  WindowFeatures features = RandomFeatures(200, 3);
  for (int64_t i = 0; i < features.rows; ++i) features.values[i * 3 + 1] = 0.7;
  absl::StatusOr<Calibration> fit = FitCalibration(features, 10, "none");
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_TRUE(std::isfinite(fit->scores.back()));
  AnomalyModel model = *AnomalyModel::Create(*fit, features.names);
  AnomalyScore same = model.Score(std::vector<double>{0, 0.7, 0}, 0, nullptr);
  AnomalyScore changed = model.Score(std::vector<double>{0, 0.9, 0}, 0, nullptr);
  EXPECT_LT(same.score, 1);
  EXPECT_NEAR(changed.score - same.score, std::pow(0.2 / 0.01, 2) / 1.02, 1);
}

TEST(FitCalibration, AFeatureThatRarelyChangesIsMeasuredByItsWholeSpread) {
  WindowFeatures features = RandomFeatures(400, 2);
  // Half A: even rows; 1 in 20 of them deviates, so all that the trimming keeps are alike.
  for (int64_t i = 0; i < features.rows; ++i) {
    features.values[i * 2] = i % 40 < 2 ? 5.0 : 1.0;
    features.values[i * 2 + 1] *= 0.1;
  }
  absl::StatusOr<Calibration> fit = FitCalibration(features, 10, "none");
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_LT(fit->scores.back(), 100);
}

// An untrained coupling's log-determinant is the same for all data, up to rounding: float32 and
// float64 must give the same score.
TEST(FitCalibration, RoundingNoiseOfAConstantFeatureIsNoSignal) {
  WindowFeatures exact = RandomFeatures(400, 3);
  for (int64_t i = 0; i < exact.rows; ++i) exact.values[static_cast<size_t>(3 * i)] = -0.127;
  WindowFeatures rounded = exact;
  for (int64_t i = 0; i < exact.rows; ++i) {
    rounded.values[static_cast<size_t>(3 * i)] += 1e-8 * static_cast<double>(i % 7 - 3);
  }
  absl::StatusOr<Calibration> fit = FitCalibration(rounded, 10, "none");
  ASSERT_TRUE(fit.ok()) << fit.status();
  AnomalyModel model = *AnomalyModel::Create(*fit, exact.names);
  for (int64_t i = 0; i < exact.rows; ++i) {
    const double score = model.Score(exact.row(i), 0, nullptr).score;
    EXPECT_NEAR(model.Score(rounded.row(i), 0, nullptr).score, score, 1e-4 * (1 + score)) << i;
  }
}

TEST(FitCalibration, AllFeaturesConstantAndFewerRowsThanFeatures) {
  WindowFeatures constant = RandomFeatures(8, 3);
  std::fill(constant.values.begin(), constant.values.end(), 2.0);
  absl::StatusOr<Calibration> fit = FitCalibration(constant, 10, "none");
  ASSERT_TRUE(fit.ok()) << fit.status();
  AnomalyModel model = *AnomalyModel::Create(*fit, constant.names);
  AnomalyScore score = model.Score(constant.row(0), 0, nullptr);
  EXPECT_EQ(score.score, 0);
  EXPECT_EQ(score.score_ratio, 0);  // 0 / 0 would be NaN
  EXPECT_EQ(score.p_value, 1);

  fit = FitCalibration(RandomFeatures(10, 12), 10, "none");
  ASSERT_TRUE(fit.ok()) << fit.status();
  for (double s : fit->scores) EXPECT_TRUE(std::isfinite(s));
  EXPECT_DOUBLE_EQ(fit->alpha, 1.0 / 6);  // n = 5: 0.05 could never be reached
}

TEST(FitCalibration, LeavesOutRowsWithoutAScoreAndKeepsTheHalves) {
  WindowFeatures features = RandomFeatures(100, 2);
  features.status[3] = RowStatus::kNonFiniteScore;
  features.log_prob[3] = -kInfinity;
  EXPECT_EQ(FitCalibration(features, 10, "none")->n(), 49);
}

TEST(FitCalibration, RefusesWhatItCannotUse) {
  WindowFeatures features = RandomFeatures(100, 2);
  features.values[7] = std::nan("");
  absl::Status status = FitCalibration(features, 10, "none").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("row 3"));
  EXPECT_EQ(FitCalibration(RandomFeatures(3, 2), 10, "none").status().code(),
            absl::StatusCode::kInvalidArgument);
  features = RandomFeatures(100, 2);
  features.values.pop_back();
  EXPECT_EQ(FitCalibration(features, 10, "none").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FitCalibration(RandomFeatures(10, 0), 10, "none").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(AnomalyModel, AnythingNotFiniteGivesTheFailSafeValues) {
  WindowFeatures features = RandomFeatures(100, 2);
  AnomalyModel model = *AnomalyModel::Create(*FitCalibration(features, 10, "none"), features.names);
  for (std::vector<double> bad :
       {std::vector<double>{std::nan(""), 0}, {kInfinity, 0}, {1e200, 0}}) {
    std::vector<double> contributions = {7, 7};
    AnomalyScore score = model.Score(bad, 0, contributions.data());
    EXPECT_FALSE(score.finite);
    EXPECT_EQ(score.score, kInfinity);
    EXPECT_EQ(score.score_ratio, kInfinity);
    EXPECT_DOUBLE_EQ(score.p_value, 1.0 / 51);
    EXPECT_EQ(score.nll_rank, 1);
    EXPECT_EQ(score.typicality, 2);
    EXPECT_THAT(contributions, ElementsAre(0, 0));
  }
  EXPECT_FALSE(model.Score(std::vector<double>{0, 0}, kInfinity, nullptr).finite);
}

TEST(AnomalyModel, RefusesACalibrationOfAnotherFlow) {
  WindowFeatures features = RandomFeatures(100, 2);
  Calibration fit = *FitCalibration(features, 10, "none");
  EXPECT_FALSE(AnomalyModel::Create(fit, Names(3)).ok());
  Calibration broken = fit;
  broken.inverse_covariance[1].pop_back();
  EXPECT_FALSE(AnomalyModel::Create(broken, features.names).ok());
  broken = fit;
  broken.nll.pop_back();
  EXPECT_FALSE(AnomalyModel::Create(broken, features.names).ok());
}

}  // namespace
}  // namespace bflow
