// The calibrated anomaly score (`flow_quality_v1`, `flow_quality_v2` with whitening): names and
// numbers of a window's features, the fit on normal windows, and the score of one window.
// Torch-free, float64. The statistics of the flow that go in are computed by window_features.h; the
// rule itself stands in docs/math.md.
#ifndef BFLOW_MODEL_SCORING_ANOMALY_H_
#define BFLOW_MODEL_SCORING_ANOMALY_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/calibration.h"
#include "model/checkpoint/flow_spec.h"
#include "model/scoring/scorer.h"

namespace bflow {

// Names of the F features in their order: latent_norm/level0, ... for every level;
// coupling_log_det/level0/block0, ... for every coupling in order of the layers (a second coupling
// of the same block ends in "/1", the prior step of a level is "prior"); then, for quantised
// waveforms only, step/CHANNEL, flat_run/CHANNEL,
// range/CHANNEL channel by channel; then, with whitening, whitened_energy/CHANNEL for every
// channel.
std::vector<std::string> FeatureNames(const FlowSpec& spec);

// Number of couplings of a flow, the size of Encoded::coupling_log_dets.
int64_t CouplingCount(const FlowSpec& spec);

// latent_norm of a level: log(mean z^2 + 1e-6).
double LatentNormFeature(double mean_square);

// whitened_energy of a channel: log(mean_t log(1 + e_t^2) + 1e-6) of its residuals.
double WhitenedEnergyFeature(double mean_log);

// Signal-quality features of one time-major window [time_steps, channels] of converter codes v,
// written to out[3 * channels], channel by channel: step log(mean_t |v[t] - v[t-1]| + 0.02),
// flat_run log(1 + longest run of zero differences), range log(1 + max v - min v). A window that
// never changes has a run of time_steps - 1.
void SignalQualityFeatures(const float* codes, int64_t time_steps, int64_t channels, double* out);

// Features and densities of windows, all under one noise convention.
struct WindowFeatures {
  std::string definition = "flow_quality_v1";
  std::vector<std::string> names;  // F
  int64_t rows = 0;
  std::vector<double> values;     // rows x F; 0 where the row is not kOk
  std::vector<double> log_prob;   // rows, nats, scaled unit; -infinity where the row is not kOk
  std::vector<RowStatus> status;  // rows

  std::span<const double> row(int64_t i) const {
    return {values.data() + i * static_cast<int64_t>(names.size()), names.size()};
  }
};

// Fits the score on normal windows that the flow was not trained on, in order of time: even rows
// are half A (centre, scale, mean, inverse covariance), odd rows half B (scores, nll). Rows that
// are not kOk are left out. `event_size` is D, `noise` the convention of the features ("center" or
// "none").
//
// Centre and scale are median and (p84 - p16) / 2 + 1e-9. Each of four rounds takes mean and
// covariance (divisor n - 1) of the kept rows, adds 2% of the covariance's diagonal to its
// diagonal, and keeps of ALL rows of A those up to the 0.9 quantile of the distance; the last
// round's mean and inverse are stored. Quantiles interpolate linearly. A feature that does not vary
// among the kept rows (its standard deviation is at most 1e-6, what float32 leaves of a constant)
// gets, in place of its own, its variance over all of A, or where there is none either the variance
// of a standard deviation of 0.01 in the feature's own (logarithmic) unit, so that a change of it
// counts but cannot drown the rest. The default alpha is 0.05, or 1/(n+1) if that is larger.
//
// Errors: InvalidArgument (sizes that do not fit, a value that is not finite, fewer than 2 usable
// rows in a half).
absl::StatusOr<Calibration> FitCalibration(const WindowFeatures& normal, int64_t event_size,
                                           const std::string& noise);

// Windows below which a calibration is weak; tools warn.
inline constexpr int64_t kMinCalibrationWindows = 200;

struct AnomalyScore {
  double score = 0;
  double p_value = 1;
  double score_ratio = 0;
  double nll_rank = 0;
  uint8_t typicality = 0;  // 0 typical, 1 too likely, 2 too unlikely
  bool finite = true;      // false: the fail-safe values
};

// Scores windows against a calibration. Immutable: callable from several threads.
class AnomalyModel {
 public:
  // Errors: InvalidArgument (sizes that do not fit each other or `names`, which the flow implies).
  static absl::StatusOr<AnomalyModel> Create(Calibration calibration,
                                             const std::vector<std::string>& names);

  // features: F values; nll: nats per dimension. With `contributions` (F values, may be null)
  // receives c_j = d_j (S^-1 d)_j, which sum to the score. Anything not finite gives FailSafe() and
  // zeros.
  AnomalyScore Score(std::span<const double> features, double nll, double* contributions) const;

  // What a row carries that could not be scored: score +infinity, p 1/(n+1), rank 1, too unlikely.
  AnomalyScore FailSafe() const;

  const Calibration& calibration() const { return calibration_; }
  int64_t feature_count() const { return static_cast<int64_t>(calibration_.feature_names.size()); }

 private:
  explicit AnomalyModel(Calibration calibration);

  Calibration calibration_;
  double nll_low_ = 0, nll_high_ = 0;  // 2.5% and 97.5% quantiles of the calibration's nll
};

// Quantile of ascending values, linear interpolation between neighbours; 0 <= q <= 1, not empty.
double SortedQuantile(std::span<const double> ascending, double q);

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_ANOMALY_H_
