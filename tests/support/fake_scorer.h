// A scorer without a tensor library: its numbers are simple functions of the rows, so tests can
// tell right from wrong, and it can be slow, fail or overflow on demand.
#ifndef BFLOW_TESTS_SUPPORT_FAKE_SCORER_H_
#define BFLOW_TESTS_SUPPORT_FAKE_SCORER_H_

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "base/philox.h"
#include "model/scoring/scorer.h"

namespace bflow {

// Shared with the test: counts the work, sets the delay.
struct FakeControl {
  std::atomic<int64_t> rows{0};
  std::atomic<int> delay_ms{0};  // per batch
  std::atomic<bool> fail{false};
};

class FakeScorer : public Scorer {
 public:
  explicit FakeScorer(ModelSignature signature,
                      std::shared_ptr<FakeControl> control = std::make_shared<FakeControl>())
      : signature_(std::move(signature)), control_(std::move(control)) {}

  // [4, 2], codes -127..127, calibrated with n = 99.
  static ModelSignature Quantised() {
    ModelSignature signature;
    signature.architecture = "waveform";
    signature.patient_sensitive = false;
    signature.quantised = true;
    signature.event_shape = {4, 2};
    for (const char* name : {"II", "V"}) {
      signature.channels.push_back({name, "mV", 81, 29, 1, -127, 127});
    }
    signature.sampling_rate_hz = 125;
    signature.code_unit_offset_nats = 8;
    signature.can_score_anomaly = true;
    signature.calibration_rows = 99;
    signature.score_definition = "fake_v1";
    signature.feature_names = {"even", "odd"};
    signature.attribution_stride = 32;
    return signature;
  }

  // Images [3, 2, 2] of 8 bits; calibrated as Quantised, without attribution.
  static ModelSignature Pixels() {
    ModelSignature signature = Quantised();
    signature.architecture = "image";
    signature.event_shape = {3, 2, 2};
    signature.channels.clear();
    for (const char* name : {"red", "green", "blue"}) {
      signature.channels.push_back({name, "", 1, 0, 1, 0, 255});
    }
    signature.sampling_rate_hz = 0;
    signature.code_unit_offset_nats = 12 * std::log(128.0);
    signature.attribution_stride = 0;
    signature.batch_rows_max = 8;
    return signature;
  }

  const ModelSignature& signature() const override { return signature_; }

  // log p = -sum of the row; under kUniform the row's first uniform is added. A row that starts
  // with 111 overflows.
  absl::StatusOr<LogLikelihoodResult> LogLikelihood(const HostBatch& x, const Noise& noise,
                                                    bool want_latent) const override {
    if (absl::Status status = Work(x.rows); !status.ok()) return status;
    LogLikelihoodResult result;
    for (int64_t row = 0; row < x.rows; ++row) {
      double log_prob = -Sum(x, row);
      if (noise.kind == NoiseKind::kUniform) {
        float u = 0;
        FillUniform(noise.seed, noise.row_offset + static_cast<uint64_t>(row), 0, 1, &u);
        log_prob += u;
      }
      const bool overflows = First(x, row) == 111;
      result.log_prob.push_back(overflows ? -std::numeric_limits<double>::infinity() : log_prob);
      if (noise.draws > 1) result.log_prob_mean.push_back(log_prob - 1);
      result.status.push_back(overflows ? RowStatus::kNonFiniteScore : RowStatus::kOk);
    }
    if (want_latent) result.latent = x.values;
    return result;
  }

  // score = |sum|, p = 0.5, or 0.01 for a row that starts with 100.
  absl::StatusOr<AnomalyResult> Anomaly(const HostBatch& x,
                                        const AnomalyOptions& options) const override {
    if (absl::Status status = Work(x.rows); !status.ok()) return status;
    AnomalyResult result;
    for (int64_t row = 0; row < x.rows; ++row) {
      const double sum = Sum(x, row);
      result.log_prob.push_back(-sum);
      result.score.push_back(std::abs(sum));
      result.p_value.push_back(First(x, row) == 100 ? 0.01 : 0.5);
      result.score_ratio.push_back(std::abs(sum) / 10);
      result.nll_rank.push_back(0.25);
      result.typicality.push_back(0);
      result.status.push_back(RowStatus::kOk);
      // One entry per channel: its own number and a cause.
      for (int64_t c = 0; options.want_attribution && c < signature_.attribution_entries(); ++c) {
        result.attribution.push_back(static_cast<float>(10 * row + c));
        result.attribution_cause.push_back(AttributionCause::kJump);
      }
      if (options.want_contributions) {
        result.contributions.push_back(std::abs(sum) / 2);
        result.contributions.push_back(std::abs(sum) / 2);
      }
    }
    return result;
  }

  // Row r holds (first_row + r) mod 100 everywhere.
  absl::StatusOr<SampleResult> Sample(const SampleOptions& options) const override {
    if (absl::Status status = Work(options.rows); !status.ok()) return status;
    SampleResult result;
    for (int64_t row = 0; row < options.rows; ++row) {
      const uint64_t number = (options.first_row + static_cast<uint64_t>(row)) % 100;
      result.samples.insert(result.samples.end(), static_cast<size_t>(signature_.event_size()),
                            static_cast<float>(number));
      if (options.want_log_prob) result.log_prob.push_back(-static_cast<double>(number));
    }
    return result;
  }

 private:
  absl::Status Work(int64_t rows) const {
    std::this_thread::sleep_for(std::chrono::milliseconds(control_->delay_ms.load()));
    control_->rows += rows;
    return control_->fail ? absl::InternalError("canary-scorer-text") : absl::OkStatus();
  }
  double First(const HostBatch& x, int64_t row) const {
    return x.values[static_cast<size_t>(row * signature_.event_size())];
  }
  double Sum(const HostBatch& x, int64_t row) const {
    double sum = 0;
    for (int64_t i = 0; i < signature_.event_size(); ++i) {
      sum += x.values[static_cast<size_t>(row * signature_.event_size() + i)];
    }
    return sum;
  }

  const ModelSignature signature_;
  const std::shared_ptr<FakeControl> control_;
};

}  // namespace bflow

#endif  // BFLOW_TESTS_SUPPORT_FAKE_SCORER_H_
