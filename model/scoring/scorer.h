// What serving knows of a model: rows of floats in, numbers out. Torch-free and protobuf-free; the
// server's queue, registry and workers are written and tested against this interface alone.
#ifndef BFLOW_MODEL_SCORING_SCORER_H_
#define BFLOW_MODEL_SCORING_SCORER_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bflow {

// rows x event, row-major, owned. Quantised models: converter codes (real-valued under kNone);
// continuous models: the scaled unit.
struct HostBatch {
  int64_t rows = 0;
  std::vector<float> values;
};

enum class NoiseKind { kNone, kUniform, kCenter };

// Dequantisation: the flow sees scale(v + step u). kUniform: u from Philox(seed, row_offset + row,
// draw); kCenter: u = 0.5; kNone: v as it is.
struct Noise {
  NoiseKind kind = NoiseKind::kNone;
  uint64_t seed = 0;
  uint32_t draws = 1;
  uint64_t row_offset = 0;
};

// One channel as the wire tells it (proto Channel).
struct ChannelSignature {
  std::string name;
  std::string unit;
  double gain = 1, baseline = 0, step = 1;
  double input_min = 0, input_max = 0;  // codes if quantised, else the scaled unit
};

// Everything about a loaded model that does not change while it lives.
struct ModelSignature {
  std::string architecture;  // "waveform" or "image"
  bool patient_sensitive = true;
  bool can_sample = true;
  bool quantised = false;
  std::vector<int64_t> event_shape;  // [T, C] of a waveform, [C, H, W] of an image
  std::vector<ChannelSignature> channels;
  double sampling_rate_hz = 0;
  double code_unit_offset_nats = 0;
  // Most rows that one batch should take; 0: as many as the server likes. On a CPU an image can
  // cost a large part of a second: few of them keep all workers busy and the first answer near.
  int64_t batch_rows_max = 0;

  // Set by a calibration; without one can_score_anomaly is false.
  bool can_score_anomaly = false;
  int calibration_rows = 0;  // n
  double alpha = 0.05;
  std::string score_definition;
  std::vector<std::string> feature_names;
  NoiseKind calibration_noise = NoiseKind::kCenter;
  double reference_mean = 0, reference_stddev = 0;  // nats per dim on calibration data
  int64_t attribution_stride = 0;                   // time steps per segment; 0: no attribution

  bool is_image() const { return architecture == "image"; }
  // S x C of a waveform [T, C]; 0 without attribution, which images never have.
  int64_t attribution_entries() const {
    if (attribution_stride == 0) return 0;
    return (event_shape[0] + attribution_stride - 1) / attribution_stride * event_shape[1];
  }
  int64_t batch_rows(int64_t rows_max) const {
    return batch_rows_max > 0 ? std::min(rows_max, batch_rows_max) : rows_max;
  }
  int64_t event_size() const {  // D
    int64_t size = 1;
    for (int64_t d : event_shape) size *= d;
    return size;
  }
  // Values of one channel that follow each other in a flat row: H W of an image, else 1.
  int64_t channel_run() const { return is_image() ? event_shape[1] * event_shape[2] : 1; }
};

enum class RowStatus : uint8_t {
  kOk = 0,
  kNonFiniteInput = 1,
  kNonFiniteScore = 2,
  kOutOfRange = 3
};

// Per row: log p in nats, scaled unit, of the flow. A row that overflowed has -infinity and
// kNonFiniteScore; NaN is never returned. With draws K > 1 log_prob is log mean_k p(x_k) (the
// importance-weighted bound) and log_prob_mean mean_k log p(x_k).
struct LogLikelihoodResult {
  std::vector<double> log_prob;
  std::vector<double> log_prob_mean;  // only with draws > 1
  std::vector<float> latent;          // rows x event, only when wanted
  std::vector<RowStatus> status;
};

// Why an entry of the attribution is large.
enum class AttributionCause : uint8_t { kNone = 0, kGradient = 1, kFlatRun = 2, kJump = 3 };

// Scores under the calibration's noise convention; rows that overflowed carry the fail-safe values
// of docs/architecture.md (score +infinity, p_value 1/(n+1), nll_rank 1, typicality 2,
// contributions and attribution 0).
struct AnomalyResult {
  std::vector<double> log_prob;
  std::vector<double> score;
  std::vector<double> p_value;        // (1 + #{b: score_b >= score}) / (n + 1)
  std::vector<double> score_ratio;    // score / largest calibration score
  std::vector<double> nll_rank;       // #{b: nll_b <= nll} / n
  std::vector<uint8_t> typicality;    // 0 typical, 1 too likely, 2 too unlikely
  std::vector<double> contributions;  // rows x F, each row sums to its score; only when wanted
  std::vector<float> attribution;     // rows x S x C, S segments; z >= 0; only when wanted
  std::vector<AttributionCause> attribution_cause;  // the same shape
  std::vector<RowStatus> status;
};

struct AnomalyOptions {
  bool want_contributions = false;
  bool want_attribution = false;  // costs a backward pass
};

struct SampleOptions {
  int64_t rows = 0;
  uint64_t seed = 0;
  uint64_t first_row = 0;
  double temperature = 1;  // multiplies the latent
  bool codes = true;       // converter codes (clamped to the input range), else the scaled unit
  bool want_log_prob = false;
};

struct SampleResult {
  std::vector<float> samples;    // rows x event
  std::vector<double> log_prob;  // of the continuous sample, scaled unit; only when wanted
};

// Callable from several threads at once. Inputs were validated by the caller (shape, range,
// finiteness): a row with a value that is not finite is still answered (kNonFiniteInput), never
// undefined behaviour. Errors: ResourceExhausted (out of memory, this call only), Internal (a
// defect).
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual const ModelSignature& signature() const = 0;
  virtual absl::StatusOr<LogLikelihoodResult> LogLikelihood(const HostBatch& x, const Noise& noise,
                                                            bool want_latent) const = 0;
  virtual absl::StatusOr<AnomalyResult> Anomaly(const HostBatch& x,
                                                const AnomalyOptions& options) const = 0;
  virtual absl::StatusOr<SampleResult> Sample(const SampleOptions& options) const = 0;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_SCORER_H_
