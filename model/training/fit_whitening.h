// The fit of a whitening layer (model/layers/whitening.h): per channel a linear prediction whose
// residuals follow Student's t, by iteratively reweighted least squares; the head, which predicts
// the first steps of a window, from covariances. Torch-free; deterministic.
#ifndef BFLOW_MODEL_TRAINING_FIT_WHITENING_H_
#define BFLOW_MODEL_TRAINING_FIT_WHITENING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace bflow {

// The buffers of the layer, row-major, as WhiteningSpec (model/checkpoint/flow_spec.h) names them.
struct WhiteningFit {
  int64_t channels = 0;
  int64_t order = 0;
  std::vector<double> lags;                       // [C][C][K]
  std::vector<double> instantaneous;              // [C][C], strictly lower
  std::vector<double> bias, log_scale;            // [C]
  std::vector<double> head_weight;                // [KC][KC], strictly lower
  std::vector<double> head_bias, head_log_scale;  // [KC]
};

// Student's t about 0 of maximal likelihood.
struct StudentTFit {
  double degrees = 0;  // kMinDegrees to kMaxDegrees
  double scale = 0;    // at least kMinScale
};
inline constexpr double kMinDegrees = 1.2;
inline constexpr double kMaxDegrees = 1000;
inline constexpr double kMinScale = 1e-6;
StudentTFit FitStudentT(std::span<const double> residuals);

// What a prediction sees: values with their noise, or the middles of their codes, floor(x) + .5.
enum class Regressors { kValues, kCodes };

// `stretches`: n stretches of order + 1 consecutive steps of C channels each, time-major, in
// converter steps with their noise. Per channel, regressors centred, 8 rounds of least squares with
// the weights (nu + 1) / (nu + (e / s)^2), nu and s being fitted after the first round and every
// third from there; ridge 6e-8 n. The last s is the scale. Head: for each value least squares on
// all before it from the covariance + 1e-3 I, scale that of Student's t. A prediction whose
// recursion would grow (spectral radius rho of the companion matrix of (I - a0)^-1 A_k at least 1)
// has the lags k multiplied by (0.9995 / rho)^k and scale and bias fitted anew. Errors:
// InvalidArgument (sizes, too few stretches, values that are not finite).
absl::StatusOr<WhiteningFit> FitWhitening(std::span<const double> stretches, int64_t channels,
                                          int64_t order,
                                          Regressors regressors = Regressors::kValues);

// Of the companion matrix of (I - instantaneous)^-1 lags_k: the recursion of the inverse is stable
// below 1.
double SpectralRadius(const WhiteningFit& map);

// The map for data x' = slope[c] x + offset[c], slopes positive, with the same residuals.
WhiteningFit Rescaled(const WhiteningFit& map, std::span<const double> slope,
                      std::span<const double> offset);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_FIT_WHITENING_H_
