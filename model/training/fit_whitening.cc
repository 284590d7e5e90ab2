#include "model/training/fit_whitening.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace bflow {
namespace {

constexpr int kRounds = 8;
constexpr int kRoundsPerScale = 3;
constexpr double kRidge = 6e-8;      // per stretch
constexpr double kHeadRidge = 1e-3;  // on the covariance
constexpr double kSafeRadius = 0.9995;
// Of the residuals of each value of the head so many decide its scale.
constexpr size_t kHeadResiduals = 20000;

// mean over r = (e / scale)^2 of (nu + 1) r / (nu + r) - 1, which falls with the scale, and its
// derivative by log scale.
std::pair<double, double> ScaleEquation(std::span<const double> squares, double degrees,
                                        double scale) {
  double value = 0, derivative = 0;
  const double inverse = 1 / (scale * scale);
  for (const double square : squares) {
    const double r = square * inverse, share = 1 / (degrees + r);
    value += r * share;
    derivative -= 2 * degrees * r * share * share;
  }
  const double n = static_cast<double>(squares.size());
  return {(degrees + 1) * value / n - 1, (degrees + 1) * derivative / n};
}

// The scale of maximal likelihood for given degrees of freedom, by Newton in its logarithm.
double ScaleFor(std::span<const double> squares, double degrees, double scale) {
  for (int step = 0; step < 50; ++step) {
    const auto [value, derivative] = ScaleEquation(squares, degrees, scale);
    if (!(derivative < 0)) break;  // all residuals are 0
    const double move = std::clamp(-value / derivative, -2.0, 2.0);
    scale = std::max(scale * std::exp(move), kMinScale);
    if (std::abs(move) < 1e-10) break;
  }
  return scale;
}

double LogLikelihood(std::span<const double> squares, double degrees, double scale) {
  const double inverse = 1 / (degrees * scale * scale);
  double sum = 0;
  for (const double square : squares) sum += std::log1p(square * inverse);
  return std::lgamma((degrees + 1) / 2) - std::lgamma(degrees / 2) -
         std::log(degrees * std::numbers::pi) / 2 - std::log(scale) -
         (degrees + 1) / 2 * sum / static_cast<double>(squares.size());
}

// Solves a x = b for a symmetric positive definite a [n][n], which is overwritten by its Cholesky
// factor.
std::vector<double> SolveSymmetric(std::vector<double>& a, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = a[i * n + j];
      for (size_t k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = i == j ? std::sqrt(std::max(sum, 1e-300)) : sum / a[j * n + j];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) b[i] -= a[k * n + i] * b[k];
    b[i] /= a[i * n + i];
  }
  return b;
}

// The stretches as rows of order C + C values: as they are predicted, and as they predict; and the
// means.
struct Rows {
  std::span<const double> targets, regressors;
  size_t width, count;
  std::vector<double> target_mean, mean;
  const double* row(size_t i) const { return regressors.data() + i * width; }
  // Value m of row i, centred.
  double target(size_t i, size_t m) const { return targets[i * width + m] - target_mean[m]; }
};

// Prediction of value `target` of a row from the `count` values before it, the intercept last.
struct Regression {
  size_t target;
  size_t count;
  std::vector<double> weight;  // of the centred regressors, then the intercept
};

double Residual(const Rows& rows, const Regression& regression, size_t i) {
  const double* row = rows.row(i);
  double predicted = regression.weight.back();
  for (size_t m = 0; m < regression.count; ++m) {
    predicted += regression.weight[m] * (row[m] - rows.mean[m]);
  }
  return rows.target(i, regression.target) - predicted;
}

std::vector<double> Residuals(const Rows& rows, const Regression& regression) {
  std::vector<double> residuals(rows.count);
  for (size_t i = 0; i < rows.count; ++i) residuals[i] = Residual(rows, regression, i);
  return residuals;
}

// Weighted least squares; the ridge is on the regressors alone.
void SolveWeighted(const Rows& rows, std::span<const double> weights, Regression& regression) {
  const size_t n = regression.count + 1;
  std::vector<double> normal(n * n, 0.0), right(n, 0.0), centred(n, 1.0);
  for (size_t i = 0; i < rows.count; ++i) {
    const double* row = rows.row(i);
    for (size_t m = 0; m + 1 < n; ++m) centred[m] = row[m] - rows.mean[m];
    const double target = rows.target(i, regression.target);
    for (size_t m = 0; m < n; ++m) {
      const double weighted = weights[i] * centred[m];
      double* to = normal.data() + m * n;
      for (size_t k = 0; k <= m; ++k) to[k] += weighted * centred[k];
      right[m] += weighted * target;
    }
  }
  for (size_t m = 0; m + 1 < n; ++m) {
    normal[m * n + m] += kRidge * static_cast<double>(rows.count);
  }
  regression.weight = SolveSymmetric(normal, std::move(right));
}

std::vector<double> RobustWeights(std::span<const double> residuals, const StudentTFit& t) {
  std::vector<double> weights;
  for (const double e : residuals) {
    weights.push_back((t.degrees + 1) / (t.degrees + e * e / (t.scale * t.scale)));
  }
  return weights;
}

// The intercept alone, for given weights of the regressors; returns the scale.
double RefitIntercept(const Rows& rows, Regression& regression) {
  StudentTFit t;
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<double> residuals = Residuals(rows, regression);
    if (round % kRoundsPerScale == 0) t = FitStudentT(residuals);
    const std::vector<double> weights = RobustWeights(residuals, t);
    double sum = 0, total = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      sum += weights[i] * residuals[i];
      total += weights[i];
    }
    regression.weight.back() += sum / total;
  }
  return FitStudentT(Residuals(rows, regression)).scale;
}

// The regression of channel c of the last step, and its scale.
std::pair<Regression, double> FitChannel(const Rows& rows, size_t target) {
  Regression regression{target, target, {}};
  std::vector<double> weights(rows.count, 1.0);
  StudentTFit t;
  for (int round = 0; round < kRounds; ++round) {
    SolveWeighted(rows, weights, regression);
    const std::vector<double> residuals = Residuals(rows, regression);
    if (round % kRoundsPerScale == 0) t = FitStudentT(residuals);
    weights = RobustWeights(residuals, t);
  }
  return {regression, FitStudentT(Residuals(rows, regression)).scale};
}

// Writes the regression of channel c into the map.
void StoreChannel(const Rows& rows, const Regression& regression, double scale, size_t c,
                  WhiteningFit& map) {
  const size_t channels = static_cast<size_t>(map.channels), order = static_cast<size_t>(map.order);
  double bias = rows.target_mean[regression.target] + regression.weight.back();
  for (size_t m = 0; m < regression.count; ++m) bias -= regression.weight[m] * rows.mean[m];
  map.bias[c] = bias;
  map.log_scale[c] = std::log(scale);
  for (size_t j = 0; j < channels; ++j) {
    for (size_t k = 1; k <= order; ++k) {
      map.lags[(c * channels + j) * order + k - 1] = regression.weight[(order - k) * channels + j];
    }
    if (j < c) map.instantaneous[c * channels + j] = regression.weight[order * channels + j];
  }
}

std::vector<double> Covariance(const Rows& rows, size_t size) {
  std::vector<double> covariance(size * size, 0.0);
  for (size_t i = 0; i < rows.count; ++i) {
    const double* row = rows.row(i);
    for (size_t m = 0; m < size; ++m) {
      const double centred = row[m] - rows.mean[m];
      for (size_t k = 0; k <= m; ++k) covariance[m * size + k] += centred * (row[k] - rows.mean[k]);
    }
  }
  for (size_t m = 0; m < size; ++m) {
    for (size_t k = 0; k <= m; ++k) {
      covariance[m * size + k] /= static_cast<double>(rows.count);
      covariance[k * size + m] = covariance[m * size + k];
    }
  }
  return covariance;
}

std::vector<double> ColumnMeans(std::span<const double> values, size_t width) {
  std::vector<double> means(width, 0.0);
  for (size_t i = 0; i < values.size(); ++i) means[i % width] += values[i];
  for (double& mean : means) mean /= static_cast<double>(values.size() / width);
  return means;
}

void FitHead(const Rows& rows, WhiteningFit& map) {
  const size_t size = static_cast<size_t>(map.channels * map.order);
  const std::vector<double> covariance = Covariance(rows, size);
  Rows few = rows;
  few.count = std::min(rows.count, kHeadResiduals);
  for (size_t i = 0; i < size; ++i) {
    std::vector<double> normal(i * i), right(i);
    for (size_t m = 0; m < i; ++m) {
      for (size_t k = 0; k < i; ++k) normal[m * i + k] = covariance[m * size + k];
      normal[m * i + m] += kHeadRidge;
      right[m] = covariance[m * size + i];
    }
    Regression regression{i, i, SolveSymmetric(normal, std::move(right))};
    regression.weight.push_back(0);  // the regressors are centred
    map.head_bias[i] = rows.target_mean[i];
    for (size_t m = 0; m < i; ++m) {
      map.head_weight[i * size + m] = regression.weight[m];
      map.head_bias[i] -= regression.weight[m] * rows.mean[m];
    }
    map.head_log_scale[i] = std::log(FitStudentT(Residuals(few, regression)).scale);
  }
}

}  // namespace

StudentTFit FitStudentT(std::span<const double> residuals) {
  std::vector<double> squares;
  double mean = 0;
  for (const double e : residuals) {
    squares.push_back(e * e);
    mean += e * e / static_cast<double>(residuals.size());
  }
  double scale = std::max(std::sqrt(mean), kMinScale);
  // Golden section on the logarithm of the degrees; each has its best scale.
  const auto worth = [&](double log_degrees) {
    scale = ScaleFor(squares, std::exp(log_degrees), scale);
    return LogLikelihood(squares, std::exp(log_degrees), scale);
  };
  const double ratio = 1 / std::numbers::phi;
  double low = std::log(kMinDegrees), high = std::log(kMaxDegrees);
  double left = high - ratio * (high - low), right = low + ratio * (high - low);
  double at_left = worth(left), at_right = worth(right);
  while (high - low > 1e-4) {
    if (at_left > at_right) {
      high = std::exchange(right, left);
      at_right = at_left;
      left = high - ratio * (high - low);
      at_left = worth(left);
    } else {
      low = std::exchange(left, right);
      at_left = at_right;
      right = low + ratio * (high - low);
      at_right = worth(right);
    }
  }
  const double degrees = std::exp((low + high) / 2);
  return {degrees, ScaleFor(squares, degrees, scale)};
}

double SpectralRadius(const WhiteningFit& map) {
  const size_t c = static_cast<size_t>(map.channels), order = static_cast<size_t>(map.order);
  const size_t n = c * order;
  // The companion matrix: the first block of rows holds (I - a0)^-1 A_k, solved from the top.
  std::vector<double> power(n * n, 0.0);
  for (size_t i = 0; i < c; ++i) {
    for (size_t k = 0; k < order; ++k) {
      for (size_t j = 0; j < c; ++j) {
        double value = map.lags[(i * c + j) * order + k];
        for (size_t m = 0; m < i; ++m) {
          value += map.instantaneous[i * c + m] * power[m * n + k * c + j];
        }
        power[i * n + k * c + j] = value;
      }
    }
  }
  for (size_t i = c; i < n; ++i) power[i * n + i - c] = 1;
  // rho = lim |M^p|^(1/p) (Gelfand), p doubling; the matrix is kept at norm 1.
  double log_radius = 0, share = 1;
  for (int squarings = 0; squarings < 40; ++squarings) {
    double norm = 0;
    for (const double value : power) norm = std::max(norm, std::abs(value));
    if (norm == 0) return 0;
    log_radius += share * std::log(norm);
    std::vector<double> square(n * n, 0.0);
    for (size_t i = 0; i < n; ++i) {
      for (size_t m = 0; m < n; ++m) {
        const double factor = power[i * n + m] / norm;
        for (size_t j = 0; j < n; ++j) square[i * n + j] += factor * (power[m * n + j] / norm);
      }
    }
    power = std::move(square);
    share /= 2;
  }
  return std::exp(log_radius);
}

absl::StatusOr<WhiteningFit> FitWhitening(std::span<const double> stretches, int64_t channels,
                                          int64_t order, Regressors regressors) {
  if (channels < 1 || order < 1) {
    return absl::InvalidArgumentError("whitening: channels and order must be at least 1");
  }
  Rows rows;
  rows.targets = rows.regressors = stretches;
  rows.width = static_cast<size_t>(channels * (order + 1));
  rows.count = stretches.size() / rows.width;
  if (rows.count * rows.width != stretches.size() || rows.count < 2 * rows.width) {
    return absl::InvalidArgumentError(absl::StrCat("whitening: ", stretches.size(),
                                                   " values, expected at least ", 2 * rows.width,
                                                   " stretches of ", rows.width));
  }
  if (!std::all_of(stretches.begin(), stretches.end(), [](double v) { return std::isfinite(v); })) {
    return absl::InvalidArgumentError("whitening: a value is not finite");
  }
  std::vector<double> middles;
  if (regressors == Regressors::kCodes) {
    for (const double value : stretches) middles.push_back(std::floor(value) + 0.5);
    rows.regressors = middles;
  }
  rows.target_mean = ColumnMeans(rows.targets, rows.width);
  rows.mean = ColumnMeans(rows.regressors, rows.width);

  WhiteningFit map;
  map.channels = channels;
  map.order = order;
  const size_t c = static_cast<size_t>(channels), head = c * static_cast<size_t>(order);
  map.lags.assign(c * head, 0.0);
  map.instantaneous.assign(c * c, 0.0);
  map.bias.assign(c, 0.0);
  map.log_scale.assign(c, 0.0);
  map.head_weight.assign(head * head, 0.0);
  map.head_bias.assign(head, 0.0);
  map.head_log_scale.assign(head, 0.0);
  std::vector<Regression> regressions;
  for (size_t i = 0; i < c; ++i) {
    const auto [regression, scale] = FitChannel(rows, head + i);
    StoreChannel(rows, regression, scale, i, map);
    regressions.push_back(regression);
  }
  if (const double radius = SpectralRadius(map); radius >= 1) {
    // Moves every pole by the same factor.
    for (size_t i = 0; i < c; ++i) {
      for (size_t m = 0; m < head; ++m) {
        const double lag = static_cast<double>(static_cast<size_t>(order) - m / c);
        regressions[i].weight[m] *= std::pow(kSafeRadius / radius, lag);
      }
      const double scale = RefitIntercept(rows, regressions[i]);
      StoreChannel(rows, regressions[i], scale, i, map);
    }
  }
  FitHead(rows, map);
  return map;
}

WhiteningFit Rescaled(const WhiteningFit& map, std::span<const double> slope,
                      std::span<const double> offset) {
  const size_t c = static_cast<size_t>(map.channels), order = static_cast<size_t>(map.order);
  WhiteningFit to = map;
  // A weight from a value of channel j to one of channel i, and what its offset adds to the bias.
  const auto rescale = [&](size_t i, size_t j, double& weight, double& bias) {
    weight *= slope[i] / slope[j];
    bias -= weight * offset[j];
  };
  for (size_t i = 0; i < c; ++i) {
    to.bias[i] = offset[i] + slope[i] * map.bias[i];
    to.log_scale[i] = map.log_scale[i] + std::log(slope[i]);
    for (size_t j = 0; j < c; ++j) {
      for (size_t k = 0; k < order; ++k) {
        rescale(i, j, to.lags[(i * c + j) * order + k], to.bias[i]);
      }
      rescale(i, j, to.instantaneous[i * c + j], to.bias[i]);
    }
  }
  const size_t head = c * order;
  for (size_t i = 0; i < head; ++i) {
    to.head_bias[i] = offset[i % c] + slope[i % c] * map.head_bias[i];
    to.head_log_scale[i] = map.head_log_scale[i] + std::log(slope[i % c]);
    for (size_t m = 0; m < i; ++m) {
      rescale(i % c, m % c, to.head_weight[i * head + m], to.head_bias[i]);
    }
  }
  return to;
}

}  // namespace bflow
