// FitCalibration: the robust covariance of half A and the scores of half B. See anomaly.h for the
// rule.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/scoring/anomaly.h"

namespace bflow {
namespace {

using Matrix = std::vector<std::vector<double>>;

constexpr int kRounds = 4;
constexpr double kKeptShare = 0.9;
constexpr double kDiagonalShare = 0.02;
constexpr double kScaleFloor = 1e-9;
// Up to this a standard deviation is what float32 leaves of a constant, in the feature's own unit.
constexpr double kRoundingStddev = 1e-6;
constexpr double kConstantStddev =
    0.01;  // of a feature that never varied, in the feature's own unit

// Inverse of a symmetric positive definite matrix by Cholesky, after scaling it to a unit diagonal
// (the scaled matrix is well conditioned however far apart the variances are). Empty if it is not
// positive definite.
Matrix InvertSymmetric(const Matrix& a) {
  const size_t n = a.size();
  std::vector<double> root(n);
  for (size_t i = 0; i < n; ++i) {
    root[i] = std::sqrt(a[i][i]);
    if (!(root[i] > 0) || !std::isfinite(root[i])) return {};
  }
  Matrix lower(n, std::vector<double>(n, 0.0));  // L L' = a_ij / (root_i root_j)
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = a[i][j] / root[i] / root[j];
      for (size_t k = 0; k < j; ++k) sum -= lower[i][k] * lower[j][k];
      if (i == j) {
        if (!(sum > 0)) return {};
        lower[i][i] = std::sqrt(sum);
      } else {
        lower[i][j] = sum / lower[j][j];
      }
    }
  }
  Matrix lower_inverse(n, std::vector<double>(n, 0.0));
  for (size_t j = 0; j < n; ++j) {
    lower_inverse[j][j] = 1.0 / lower[j][j];
    for (size_t i = j + 1; i < n; ++i) {
      double sum = 0;
      for (size_t k = j; k < i; ++k) sum -= lower[i][k] * lower_inverse[k][j];
      lower_inverse[i][j] = sum / lower[i][i];
    }
  }
  Matrix inverse(n, std::vector<double>(n, 0.0));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (size_t k = i; k < n; ++k) sum += lower_inverse[k][i] * lower_inverse[k][j];
      inverse[i][j] = inverse[j][i] = sum / root[i] / root[j];
    }
  }
  return inverse;
}

// Mean and covariance (divisor n - 1) of the rows of `z` named by `rows`.
struct Moments {
  std::vector<double> mean;
  Matrix covariance;
};

Moments MomentsOf(const Matrix& z, const std::vector<size_t>& rows) {
  const size_t count = z.front().size();
  Moments moments{std::vector<double>(count, 0.0), Matrix(count, std::vector<double>(count, 0.0))};
  for (size_t row : rows) {
    for (size_t j = 0; j < count; ++j) moments.mean[j] += z[row][j];
  }
  for (double& m : moments.mean) m /= static_cast<double>(rows.size());
  for (size_t row : rows) {
    for (size_t j = 0; j < count; ++j) {
      double d = z[row][j] - moments.mean[j];
      for (size_t k = 0; k <= j; ++k) moments.covariance[j][k] += d * (z[row][k] - moments.mean[k]);
    }
  }
  for (size_t j = 0; j < count; ++j) {
    for (size_t k = 0; k <= j; ++k) {
      moments.covariance[j][k] /= static_cast<double>(std::max<size_t>(rows.size() - 1, 1));
      moments.covariance[k][j] = moments.covariance[j][k];
    }
  }
  return moments;
}

// Gives features without a variance of their own one, apart from all others (anomaly.h).
void ReplaceMissingVariances(const std::vector<double>& scale,
                             const std::vector<double>& whole_variance, Matrix& covariance) {
  for (size_t j = 0; j < covariance.size(); ++j) {
    const double nothing = std::pow(kRoundingStddev / scale[j], 2);
    if (covariance[j][j] > nothing) continue;
    const double instead =
        whole_variance[j] > nothing ? whole_variance[j] : std::pow(kConstantStddev / scale[j], 2);
    for (size_t k = 0; k < covariance.size(); ++k) covariance[j][k] = covariance[k][j] = 0;
    covariance[j][j] = instead;
  }
}

double Distance(const std::vector<double>& z, const std::vector<double>& mean,
                const Matrix& inverse) {
  double distance = 0;
  for (size_t j = 0; j < z.size(); ++j) {
    double product = 0;
    for (size_t k = 0; k < z.size(); ++k) product += inverse[j][k] * (z[k] - mean[k]);
    distance += (z[j] - mean[j]) * product;
  }
  return distance;
}

// Fills centre and scale from half A and returns its standardised rows.
Matrix Standardise(const WindowFeatures& normal, const std::vector<int64_t>& rows,
                   Calibration& calibration) {
  const size_t count = normal.names.size();
  Matrix z(rows.size(), std::vector<double>(count));
  for (size_t j = 0; j < count; ++j) {
    std::vector<double> column;
    for (int64_t row : rows) column.push_back(normal.row(row)[j]);
    std::sort(column.begin(), column.end());
    double centre = SortedQuantile(column, 0.5);
    double scale = (SortedQuantile(column, 0.84) - SortedQuantile(column, 0.16)) / 2 + kScaleFloor;
    calibration.centre.push_back(centre);
    calibration.scale.push_back(scale);
    for (size_t i = 0; i < rows.size(); ++i) z[i][j] = (normal.row(rows[i])[j] - centre) / scale;
  }
  return z;
}

// Fills mean and inverse covariance by the four trimmed rounds.
absl::Status FitTrimmedCovariance(const Matrix& z, Calibration& calibration) {
  std::vector<size_t> kept(z.size());
  std::iota(kept.begin(), kept.end(), size_t{0});
  std::vector<double> whole_variance;
  for (int round = 0; round < kRounds; ++round) {
    Moments moments = MomentsOf(z, kept);
    if (round == 0) {
      for (size_t j = 0; j < moments.mean.size(); ++j) {
        whole_variance.push_back(moments.covariance[j][j]);
      }
    }
    ReplaceMissingVariances(calibration.scale, whole_variance, moments.covariance);
    for (size_t j = 0; j < moments.mean.size(); ++j) {
      moments.covariance[j][j] *= 1 + kDiagonalShare;
    }
    calibration.mean = moments.mean;
    calibration.inverse_covariance = InvertSymmetric(moments.covariance);
    if (calibration.inverse_covariance.empty()) {
      return absl::InternalError("calibration: the covariance is not positive definite");
    }
    std::vector<double> distances;
    for (const std::vector<double>& row : z) {
      distances.push_back(Distance(row, calibration.mean, calibration.inverse_covariance));
    }
    std::vector<double> sorted = distances;
    std::sort(sorted.begin(), sorted.end());
    const double limit = SortedQuantile(sorted, kKeptShare);
    kept.clear();
    for (size_t i = 0; i < z.size(); ++i) {
      if (distances[i] <= limit) kept.push_back(i);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSizes(const WindowFeatures& normal, int64_t event_size) {
  const size_t rows = static_cast<size_t>(std::max<int64_t>(normal.rows, 0));
  if (normal.names.empty()) {
    return absl::InvalidArgumentError("features.names: none, a score needs at least one");
  }
  if (normal.values.size() != rows * normal.names.size() || normal.log_prob.size() != rows ||
      normal.status.size() != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("features: values, log_prob or status do not have ", rows, " rows"));
  }
  if (event_size < 1) return absl::InvalidArgumentError("event_size: must be at least 1");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Calibration> FitCalibration(const WindowFeatures& normal, int64_t event_size,
                                           const std::string& noise) {
  BFLOW_RETURN_IF_ERROR(CheckSizes(normal, event_size));
  std::vector<int64_t> half_a, half_b;
  for (int64_t i = 0; i < normal.rows; ++i) {
    if (normal.status[i] != RowStatus::kOk) continue;
    bool finite = std::isfinite(normal.log_prob[i]);
    for (double value : normal.row(i)) finite = finite && std::isfinite(value);
    if (!finite) {
      return absl::InvalidArgumentError(
          absl::StrCat("features: row ", i, " is marked as scored but is not finite"));
    }
    (i % 2 == 0 ? half_a : half_b).push_back(i);
  }
  if (half_a.size() < 2 || half_b.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("features: ", half_a.size(), " and ", half_b.size(),
                     " usable rows in the halves, each needs at least 2"));
  }

  Calibration calibration;
  calibration.score_definition = normal.definition;
  calibration.feature_names = normal.names;
  calibration.noise = noise;
  Matrix z = Standardise(normal, half_a, calibration);
  BFLOW_RETURN_IF_ERROR(FitTrimmedCovariance(z, calibration));

  for (int64_t row : half_b) calibration.nll.push_back(-normal.log_prob[row] / event_size);
  calibration.scores.assign(half_b.size(), 0.0);
  BFLOW_ASSIGN_OR_RETURN(AnomalyModel model, AnomalyModel::Create(calibration, normal.names));
  for (size_t i = 0; i < half_b.size(); ++i) {
    AnomalyScore score = model.Score(normal.row(half_b[i]), calibration.nll[i], nullptr);
    if (!score.finite) {
      return absl::InvalidArgumentError(
          absl::StrCat("features: the score of row ", half_b[i], " overflows"));
    }
    calibration.scores[i] = score.score;
  }
  std::sort(calibration.scores.begin(), calibration.scores.end());
  std::sort(calibration.nll.begin(), calibration.nll.end());

  const double n = static_cast<double>(half_b.size());
  calibration.alpha = std::max(calibration.alpha, 1.0 / (n + 1));
  for (double nll : calibration.nll) calibration.reference_mean += nll / n;
  double squares = 0;
  for (double nll : calibration.nll) squares += std::pow(nll - calibration.reference_mean, 2);
  calibration.reference_stddev = std::sqrt(squares / (n - 1));
  return calibration;
}

}  // namespace bflow
