// The expert of an adaptive box layer, for signals that change in a way the training never saw: a
// linear prediction that learns within the row. docs/math.md, "Box layer", 6.
#ifndef BFLOW_MODEL_OPS_CPU_BOX_EXPERT_H_
#define BFLOW_MODEL_OPS_CPU_BOX_EXPERT_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace bflow::cpu {

// Predicts the standardised residuals r [C] of the fitted prediction from those of the steps
// before, in the row alone: recursive least squares with forgetting, weights that start at 0, and
// large errors weighed down as by a Student-t distribution (its degrees of freedom: kDegrees).
class ResidualPredictor {
 public:
  explicit ResidualPredictor(int64_t channels)
      : channels_(channels),
        size_(channels * std::clamp<int64_t>(kMostRegressors / channels, 1, kOrder)),
        covariance_(static_cast<size_t>(size_ * size_)),
        weight_(static_cast<size_t>(size_ * channels)),
        past_(static_cast<size_t>(size_)),
        gain_(static_cast<size_t>(size_)),
        predicted_(static_cast<size_t>(channels)),
        deviation_(static_cast<size_t>(channels)) {
    Clear();
  }

  // For a new row.
  void Clear() {
    std::fill(weight_.begin(), weight_.end(), 0.0);
    std::fill(past_.begin(), past_.end(), 0.0);
    std::fill(deviation_.begin(), deviation_.end(), 1.0);
    ForgetCovariance();
  }

  // Of the step that comes.
  double Predict(int64_t channel) {
    const double* weight = weight_.data() + channel * size_;
    double sum = 0;
    for (int64_t i = 0; i < size_; ++i) sum += weight[i] * past_[static_cast<size_t>(i)];
    return predicted_[static_cast<size_t>(channel)] = sum;
  }
  // The mean size of the errors lately, in units of the residuals.
  double deviation(int64_t channel) const { return deviation_[static_cast<size_t>(channel)]; }

  // residuals [C]: of the step whose channels have all been predicted.
  void Update(const double* residuals) {
    double largest = 0;
    for (int64_t c = 0; c < channels_; ++c) {
      const double error = std::abs(residuals[c] - predicted_[static_cast<size_t>(c)]);
      largest = std::max(largest, error);
      double& deviation = deviation_[static_cast<size_t>(c)];
      const double counted = std::min(error, kMostError * std::max(deviation, 1.0));
      deviation += kDeviationRate * (counted - deviation);
    }
    double power = 0;
    for (int64_t i = 0; i < size_; ++i) {
      const double* row = covariance_.data() + i * size_;
      double sum = 0;
      for (int64_t j = 0; j < size_; ++j) sum += row[j] * past_[static_cast<size_t>(j)];
      gain_[static_cast<size_t>(i)] = sum;
      power += sum * past_[static_cast<size_t>(i)];
    }
    // Rounding can cost the matrix its definiteness in a very long row.
    if (!(power >= 0)) {
      ForgetCovariance();
    } else {
      Learn(residuals, power, (kDegrees + 1) / (kDegrees + largest * largest));
    }
    std::copy_backward(past_.begin(), past_.end() - channels_, past_.end());
    std::copy_n(residuals, channels_, past_.begin());
  }

 private:
  static constexpr int64_t kOrder = 16;           // steps seen
  static constexpr int64_t kMostRegressors = 64;  // of more channels fewer steps are seen
  static constexpr double kPrior = 0.01;          // variance of a weight before any data
  static constexpr double kForgetting = 0.999;    // per step
  static constexpr double kDegrees = 3;
  static constexpr double kDeviationRate = 0.03;  // per step
  static constexpr double kMostError = 64;  // counts, in deviations or in the one at the start

  void ForgetCovariance() {
    std::fill(covariance_.begin(), covariance_.end(), 0.0);
    for (int64_t i = 0; i < size_; ++i) covariance_[static_cast<size_t>(i * (size_ + 1))] = kPrior;
  }

  void Learn(const double* residuals, double power, double weight) {
    const double step = 1 / (kForgetting / weight + power);
    for (int64_t c = 0; c < channels_; ++c) {
      const double by = (residuals[c] - predicted_[static_cast<size_t>(c)]) * step;
      double* to = weight_.data() + c * size_;
      for (int64_t i = 0; i < size_; ++i) to[i] += by * gain_[static_cast<size_t>(i)];
    }
    double trace = 0;
    for (int64_t i = 0; i < size_; ++i) trace += covariance_[static_cast<size_t>(i * (size_ + 1))];
    // What nothing excites is not forgotten beyond the start.
    const double growth = trace <= kPrior * static_cast<double>(size_) ? 1 / kForgetting : 1;
    for (int64_t i = 0; i < size_; ++i) {
      const double by = gain_[static_cast<size_t>(i)] * step;
      double* row = covariance_.data() + i * size_;
      for (int64_t j = 0; j < size_; ++j) {
        row[j] = (row[j] - by * gain_[static_cast<size_t>(j)]) * growth;
      }
    }
  }

  int64_t channels_, size_;
  std::vector<double> covariance_, weight_;  // [size][size], [C][size]
  std::vector<double> past_, gain_;          // [size], the last step first
  std::vector<double> predicted_, deviation_;
};

// The expert's share in the mixture of one channel: what the past says of it (fixed share, Herbster
// and Warmuth 1998), so that a row costs little more than with the better of the two alone.
class ExpertShare {
 public:
  static constexpr double kStart = 0.05;
  static constexpr double kSwitching = 0.02;  // chance per step that the other one is better now

  double value() const { return value_; }
  // posterior: of the code that came, the expert's share in its probability.
  void Update(double posterior) { value_ = (1 - kSwitching) * posterior + kSwitching * kStart; }

 private:
  double value_ = kStart;
};

// The expert's logistic distributions: common centre, scales in units of its own, weights. The wide
// ones bound what a code costs that nothing announced.
inline constexpr int64_t kExpertComponents = 3;
inline constexpr double kExpertScales[kExpertComponents] = {1, 4, 32};
inline constexpr double kExpertWeights[kExpertComponents] = {0.9, 0.09, 0.01};
// A logistic distribution's mean absolute value is 2 log 2 scales. No scale is below kLeastScale
// codes.
inline constexpr double kMeanOfScale = 2 * std::numbers::ln2;
inline constexpr double kLeastScale = 0.015;

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_BOX_EXPERT_H_
