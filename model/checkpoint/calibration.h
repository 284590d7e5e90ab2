// calibration.json: what turns the features of a window into a calibrated anomaly score. Torch-free
// data, parser and writer; the fit and the score live in model/scoring.
#ifndef BFLOW_MODEL_CHECKPOINT_CALIBRATION_H_
#define BFLOW_MODEL_CHECKPOINT_CALIBRATION_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"

namespace bflow {

inline constexpr size_t kAttributionCauses = 3;
inline constexpr std::array<const char*, kAttributionCauses> kAttributionCauseNames = {
    "gradient", "flat_run", "jump"};

// What turns the causes of a segment into z values: per cause and channel.
struct AttributionTables {
  int64_t stride = 32;                                                 // time steps per segment
  std::array<std::vector<double>, kAttributionCauses> median, spread;  // C each; spread > 0
};

// Which features a score has: flow_quality_v1, or with whitening flow_quality_v2, which adds the
// energy of its residuals.
std::string ScoreDefinition(const FlowSpec& spec);

struct Calibration {
  std::string score_definition = "flow_quality_v1";
  std::vector<std::string> feature_names;               // F
  std::vector<double> centre, scale, mean;              // F each; scale > 0
  std::vector<std::vector<double>> inverse_covariance;  // F x F, symmetric
  std::vector<double> scores;                           // half B, ascending, n values
  std::vector<double> nll;                              // half B, ascending, nats per dim, n values
  double alpha = 0.05;                                  // default threshold, 1/(n+1) <= alpha < 1
  std::string noise = "center";                         // "center" if quantised, else "none"
  double reference_mean = 0;                            // nats per dim, half B
  double reference_stddev = 0;
  std::optional<AttributionTables> attribution;  // none: the model does not say where

  int n() const { return static_cast<int>(scores.size()); }
};

// Strict. Errors: InvalidArgument naming the field.
absl::StatusOr<Calibration> ParseCalibration(std::string_view json);
std::string CalibrationToJson(const Calibration& calibration);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_CALIBRATION_H_
