// The fit of a whitening layer on processes whose prediction is known.
#include "model/training/fit_whitening.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace bflow {
namespace {

// A vector autoregression of two channels and order 2 with Student-t residuals of 4 degrees:
// x0 = 0.5 + 1.2 x0[1] - 0.5 x0[2] + 0.1 x1[1] + 0.3 t,
// x1 = -2 + 0.8 x0 + 0.4 x1[1] + 0.7 t.
std::vector<double> Process(int64_t steps, uint64_t seed, double pole = 1) {
  std::mt19937_64 generator(seed);
  std::student_t_distribution<double> t(4);
  std::vector<double> x(static_cast<size_t>(2 * steps), 0.0);
  for (size_t i = 4; i < x.size(); i += 2) {
    x[i] = 0.5 + pole * 1.2 * x[i - 2] - pole * pole * 0.5 * x[i - 4] + pole * 0.1 * x[i - 1] +
           0.3 * t(generator);
    x[i + 1] = -2 + 0.8 * x[i] + pole * 0.4 * x[i - 1] + 0.7 * t(generator);
  }
  return x;
}

// Random stretches of order + 1 steps, away from the start.
std::vector<double> Stretches(const std::vector<double>& x, int64_t channels, int64_t order,
                              int64_t count, uint64_t seed) {
  std::mt19937_64 generator(seed);
  const size_t width = static_cast<size_t>(channels * (order + 1));
  const size_t places = (x.size() - width) / static_cast<size_t>(channels) - 100;
  std::vector<double> stretches;
  for (int64_t i = 0; i < count; ++i) {
    const size_t begin = static_cast<size_t>(channels) * (100 + generator() % places);
    stretches.insert(stretches.end(), x.begin() + static_cast<std::ptrdiff_t>(begin),
                     x.begin() + static_cast<std::ptrdiff_t>(begin + width));
  }
  return stretches;
}

// The residuals of a window by the layer's definition.
std::vector<double> Whiten(const WhiteningFit& fit, const std::vector<double>& x) {
  const size_t c = static_cast<size_t>(fit.channels), order = static_cast<size_t>(fit.order);
  const size_t head = c * order;
  std::vector<double> e(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t t = i / c, to = i % c;
    if (t < order) {
      double predicted = fit.head_bias[i];
      for (size_t m = 0; m < i; ++m) predicted += fit.head_weight[i * head + m] * x[m];
      e[i] = (x[i] - predicted) * std::exp(-fit.head_log_scale[i]);
      continue;
    }
    double predicted = fit.bias[to];
    for (size_t j = 0; j < to; ++j) predicted += fit.instantaneous[to * c + j] * x[t * c + j];
    for (size_t j = 0; j < c; ++j) {
      for (size_t k = 1; k <= order; ++k) {
        predicted += fit.lags[(to * c + j) * order + k - 1] * x[(t - k) * c + j];
      }
    }
    e[i] = (x[i] - predicted) * std::exp(-fit.log_scale[to]);
  }
  return e;
}

TEST(FitStudentT, RecoversScaleAndDegrees) {
  std::mt19937_64 generator(1);
  std::student_t_distribution<double> t(5);
  std::vector<double> residuals(100000);
  for (double& e : residuals) e = 0.02 * t(generator);
  const StudentTFit fit = FitStudentT(residuals);
  EXPECT_NEAR(fit.scale, 0.02, 2e-4);
  EXPECT_NEAR(fit.degrees, 5, 0.3);
}

TEST(FitStudentT, StaysWithinItsBounds) {
  std::mt19937_64 generator(2);
  std::cauchy_distribution<double> cauchy;
  std::normal_distribution<double> normal;
  std::vector<double> heavy(20000), light(20000);
  for (double& e : heavy) e = std::pow(cauchy(generator), 3);
  for (double& e : light) e = normal(generator);
  EXPECT_NEAR(FitStudentT(heavy).degrees, kMinDegrees, 1e-3);
  EXPECT_GT(FitStudentT(light).degrees, 50);
  EXPECT_NEAR(FitStudentT(light).scale, 1, 0.02);
  const StudentTFit none = FitStudentT(std::vector<double>(100, 0.0));
  EXPECT_GE(none.scale, kMinScale);
  EXPECT_TRUE(std::isfinite(none.degrees));
}

TEST(FitWhitening, RecoversAKnownProcess) {
  const std::vector<double> stretches = Stretches(Process(200000, 3), 2, 2, 50000, 4);
  const WhiteningFit fit = *FitWhitening(stretches, 2, 2);
  const std::vector<double> lags = {1.2, -0.5, 0.1, 0, 0, 0, 0.4, 0};  // [to][from][k]
  for (size_t i = 0; i < lags.size(); ++i) EXPECT_NEAR(fit.lags[i], lags[i], 0.04) << i;
  EXPECT_NEAR(fit.instantaneous[2], 0.8, 0.04);
  for (const size_t i : {0, 1, 3}) EXPECT_EQ(fit.instantaneous[i], 0) << i;
  EXPECT_NEAR(fit.bias[0], 0.5, 0.03);
  EXPECT_NEAR(fit.bias[1], -2, 0.1);
  EXPECT_NEAR(std::exp(fit.log_scale[0]), 0.3, 0.01);
  EXPECT_NEAR(std::exp(fit.log_scale[1]), 0.7, 0.02);
  EXPECT_LT(SpectralRadius(fit), 1);
}

TEST(FitWhitening, LeavesResidualsThatNothingPredicts) {
  const std::vector<double> x = Process(200000, 5);
  const WhiteningFit fit = *FitWhitening(Stretches(x, 2, 3, 50000, 6), 2, 3);
  // Many windows, whitened each by itself: head and rest alike.
  const size_t window = 2 * 8;
  std::vector<double> mean(window, 0.0), cross(window * window, 0.0);
  const int count = 10000;
  for (int i = 0; i < count; ++i) {
    const auto begin = x.begin() + 1000 + 2 * 19 * i;
    const std::vector<double> e = Whiten(fit, {begin, begin + static_cast<int>(window)});
    for (size_t a = 0; a < window; ++a) {
      mean[a] += e[a] / count;
      for (size_t b = 0; b < a; ++b) cross[a * window + b] += e[a] * e[b] / count;
    }
  }
  for (size_t a = 0; a < window; ++a) {
    EXPECT_NEAR(mean[a], 0, 0.1) << a;
    for (size_t b = 0; b < a; ++b) EXPECT_NEAR(cross[a * window + b], 0, 0.12) << a << " " << b;
  }
}

TEST(FitWhitening, IsDeterministic) {
  const std::vector<double> stretches = Stretches(Process(20000, 7), 2, 2, 3000, 8);
  const WhiteningFit a = *FitWhitening(stretches, 2, 2), b = *FitWhitening(stretches, 2, 2);
  EXPECT_EQ(a.lags, b.lags);
  EXPECT_EQ(a.head_weight, b.head_weight);
  EXPECT_EQ(a.head_log_scale, b.head_log_scale);
}

TEST(FitWhitening, RescaledGivesTheSameResidualsOfRescaledData) {
  const std::vector<double> x = Process(20000, 9);
  const WhiteningFit fit = *FitWhitening(Stretches(x, 2, 3, 3000, 10), 2, 3);
  const std::vector<double> slope = {0.02, 3}, offset = {-0.7, 5};
  const WhiteningFit scaled = Rescaled(fit, slope, offset);
  const std::vector<double> window(x.begin() + 500, x.begin() + 520);
  std::vector<double> moved = window;
  for (size_t i = 0; i < moved.size(); ++i) moved[i] = slope[i % 2] * moved[i] + offset[i % 2];
  const std::vector<double> e = Whiten(fit, window), scaled_e = Whiten(scaled, moved);
  for (size_t i = 0; i < e.size(); ++i) EXPECT_NEAR(scaled_e[i], e[i], 1e-9) << i;
  EXPECT_NEAR(scaled.log_scale[1] - fit.log_scale[1], std::log(3), 1e-12);
}

// The poles of (1 - 0.9 z)(1 - 1.05 z) and of a pair 0.97 e^{+-0.3 i}.
TEST(SpectralRadius, IsTheLargestPole) {
  WhiteningFit fit;
  fit.channels = 1;
  fit.order = 2;
  fit.instantaneous = {0};
  fit.lags = {0.9 + 1.05, -0.9 * 1.05};
  EXPECT_NEAR(SpectralRadius(fit), 1.05, 1e-9);
  fit.lags = {2 * 0.97 * std::cos(0.3), -0.97 * 0.97};
  EXPECT_NEAR(SpectralRadius(fit), 0.97, 1e-9);
  fit.lags = {0, 0};
  EXPECT_EQ(SpectralRadius(fit), 0);
  // Two channels: x1 feeds on x0 of the same step, x0 on x1 of the step before: 0.5 * 2.2.
  fit.channels = 2;
  fit.order = 1;
  fit.instantaneous = {0, 0, 0.5, 0};
  fit.lags = {0, 2.2, 0, 0};
  EXPECT_NEAR(SpectralRadius(fit), 1.1, 1e-9);
}

TEST(FitWhitening, AnUnstablePredictionIsPulledInsideTheUnitCircle) {
  // A process that grows by 1% per step: stretches of many short runs.
  std::mt19937_64 generator(11);
  std::normal_distribution<double> normal;
  std::vector<double> stretches;
  for (int i = 0; i < 5000; ++i) {
    double x = 10 * normal(generator);
    for (int t = 0; t < 3; ++t) {
      stretches.push_back(x);
      x = 1.01 * x + 0.1 * normal(generator);
    }
  }
  const WhiteningFit fit = *FitWhitening(stretches, 1, 2);
  EXPECT_NEAR(SpectralRadius(fit), 0.9995, 1e-6);
  // What it predicts worse shows in its scale.
  EXPECT_GT(std::exp(fit.log_scale[0]), 0.1);
  EXPECT_LT(std::exp(fit.log_scale[0]), 0.3);
}

TEST(FitWhitening, RefusesWhatIsNoData) {
  EXPECT_FALSE(FitWhitening(std::vector<double>(100, 1.0), 0, 2).ok());
  EXPECT_FALSE(FitWhitening(std::vector<double>(100, 1.0), 2, 2).ok());  // no multiple of 6
  EXPECT_FALSE(FitWhitening(std::vector<double>(66, 1.0), 2, 2).ok());   // fewer than 12 stretches
  std::vector<double> broken(600, 1.0);
  EXPECT_TRUE(FitWhitening(broken, 2, 2).ok());  // constant: poor, but finite
  broken[7] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(FitWhitening(broken, 2, 2).ok());
}

}  // namespace
}  // namespace bflow
