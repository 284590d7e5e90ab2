#include "model/scoring/flow_scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/flow/flow.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/attribution.h"
#include "model/scoring/draw_samples.h"
#include "model/scoring/flow_tensors.h"
#include "model/scoring/torch_guard.h"
#include "model/scoring/window_features.h"

namespace bflow {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// log(mean_k exp(v_k)) without overflow; the values are finite.
double LogMeanExp(const std::vector<double>& values) {
  const double largest = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (double v : values) sum += std::exp(v - largest);
  return largest + std::log(sum / static_cast<double>(values.size()));
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

class FlowScorer final : public Scorer {
 public:
  FlowScorer(std::shared_ptr<Flow> flow, std::optional<AnomalyModel> anomaly,
             const ScorerOptions& options)
      : flow_(std::move(flow)),
        anomaly_(std::move(anomaly)),
        signature_(MakeSignature(flow_->spec(), anomaly_ ? &anomaly_->calibration() : nullptr)),
        slice_rows_(options.slice_rows) {
    if (signature_.is_image() && flow_->device().is_cpu()) signature_.batch_rows_max = 8;
  }

  const ModelSignature& signature() const override { return signature_; }

  absl::StatusOr<LogLikelihoodResult> LogLikelihood(const HostBatch& x, const Noise& noise,
                                                    bool want_latent) const override {
    return GuardTorchOr("log likelihood",
                        [&] { return GuardedLogLikelihood(x, noise, want_latent); });
  }

  absl::StatusOr<AnomalyResult> Anomaly(const HostBatch& x,
                                        const AnomalyOptions& options) const override {
    return GuardTorchOr("anomaly score", [&] { return GuardedAnomaly(x, options); });
  }

  absl::StatusOr<SampleResult> Sample(const SampleOptions& options) const override {
    return DrawSamples(*flow_, options, slice_rows_);
  }

 private:
  absl::StatusOr<LogLikelihoodResult> GuardedLogLikelihood(const HostBatch& x, const Noise& noise,
                                                           bool want_latent) const {
    const uint32_t draws =
        noise.kind == NoiseKind::kUniform ? std::max<uint32_t>(noise.draws, 1) : 1;
    const size_t rows = static_cast<size_t>(std::max<int64_t>(x.rows, 0));
    LogLikelihoodResult result;
    std::vector<std::vector<double>> by_row(rows);  // log p(x_k) of each draw
    for (uint32_t draw = 0; draw < draws; ++draw) {
      PassOptions options;
      options.want_latent = want_latent && draw == 0;
      options.slice_rows = slice_rows_;
      BFLOW_ASSIGN_OR_RETURN(PassResult pass, RunPass(*flow_, x, noise, draw, options));
      if (draw == 0) {
        result.status = pass.status;
        result.latent = std::move(pass.latent);
      }
      for (size_t i = 0; i < rows; ++i) {
        by_row[i].push_back(pass.log_prob[i]);
        if (pass.status[i] != RowStatus::kOk) result.status[i] = pass.status[i];
      }
    }
    const size_t event_size = static_cast<size_t>(signature_.event_size());
    for (size_t i = 0; i < rows; ++i) {
      const bool ok = result.status[i] == RowStatus::kOk;
      if (!ok && want_latent) std::fill_n(result.latent.data() + i * event_size, event_size, 0.0f);
      result.log_prob.push_back(!ok         ? -kInfinity
                                : draws > 1 ? LogMeanExp(by_row[i])
                                            : by_row[i].front());
      if (draws > 1) result.log_prob_mean.push_back(ok ? Mean(by_row[i]) : -kInfinity);
    }
    return result;
  }

  absl::StatusOr<AnomalyResult> GuardedAnomaly(const HostBatch& x,
                                               const AnomalyOptions& wanted) const {
    if (!anomaly_) {
      return absl::FailedPreconditionError("model: has no calibration, so no anomaly score");
    }
    if (wanted.want_attribution && signature_.attribution_stride == 0) {
      return absl::FailedPreconditionError("model: its calibration has no attribution");
    }
    PassOptions options;
    options.want_features = true;
    options.want_causes = wanted.want_attribution;
    options.slice_rows = slice_rows_;
    BFLOW_ASSIGN_OR_RETURN(PassResult pass,
                           RunPass(*flow_, x, CalibrationNoise(flow_->spec()), 0, options));
    AnomalyResult result;
    const bool want_contributions = wanted.want_contributions;
    result.log_prob = std::move(pass.log_prob);
    result.status = std::move(pass.status);
    const size_t count = static_cast<size_t>(anomaly_->feature_count());
    if (want_contributions) result.contributions.assign(result.log_prob.size() * count, 0.0);
    for (size_t i = 0; i < result.log_prob.size(); ++i) {
      AnomalyScore score = anomaly_->FailSafe();
      if (result.status[i] == RowStatus::kOk) {
        double nll = -result.log_prob[i] / static_cast<double>(signature_.event_size());
        double* contributions =
            want_contributions ? result.contributions.data() + i * count : nullptr;
        score = anomaly_->Score({pass.features.data() + i * count, count}, nll, contributions);
        if (!score.finite) {
          result.status[i] = RowStatus::kNonFiniteScore;
          result.log_prob[i] = -kInfinity;
        }
      }
      result.score.push_back(score.score);
      result.p_value.push_back(score.p_value);
      result.score_ratio.push_back(score.score_ratio);
      result.nll_rank.push_back(score.nll_rank);
      result.typicality.push_back(score.typicality);
    }
    if (wanted.want_attribution) AttributeRows(pass.causes, &result);
    return result;
  }

  // Rows that could not be scored keep zeros.
  void AttributeRows(const std::vector<double>& causes, AnomalyResult* result) const {
    const size_t rows = result->status.size();
    const size_t entries = static_cast<size_t>(signature_.attribution_entries());
    result->attribution.assign(rows * entries, 0.0f);
    result->attribution_cause.assign(rows * entries, AttributionCause::kNone);
    for (size_t i = 0; i < rows; ++i) {
      if (result->status[i] != RowStatus::kOk) continue;
      Attribute(*anomaly_->calibration().attribution,
                {causes.data() + i * kAttributionCauses * entries, kAttributionCauses * entries},
                result->attribution.data() + i * entries,
                result->attribution_cause.data() + i * entries);
    }
  }

  // Frozen, and never changed: Encode and Decode only read it.
  std::shared_ptr<Flow> flow_;
  std::optional<AnomalyModel> anomaly_;
  ModelSignature signature_;
  int64_t slice_rows_;
};

// The scorer of a flow that was just built for it.
absl::StatusOr<std::unique_ptr<Scorer>> MakeFromTensors(const FlowSpec& spec,
                                                        const SafetensorsFile& tensors,
                                                        const Calibration* calibration,
                                                        const ScorerOptions& options) {
  if (options.slice_rows < 1) return absl::InvalidArgumentError("slice_rows: must be at least 1");
  std::optional<AnomalyModel> anomaly;
  if (calibration != nullptr) {
    const std::string expected = spec.quantised() ? "center" : "none";
    if (calibration->noise != expected) {
      return absl::DataLossError(
          absl::StrCat("calibration.noise: expected ", expected, " for this flow"));
    }
    absl::StatusOr<AnomalyModel> model = AnomalyModel::Create(*calibration, FeatureNames(spec));
    if (!model.ok()) return absl::DataLossError(model.status().message());
    if (calibration->attribution && spec.is_image()) {
      return absl::DataLossError("calibration.attribution: a flow of images has none");
    }
    if (calibration->attribution &&
        calibration->attribution->median[0].size() != static_cast<size_t>(spec.channel_count())) {
      return absl::DataLossError(absl::StrCat("calibration.attribution: expected values of ",
                                              spec.channel_count(), " channels"));
    }
    anomaly = *std::move(model);
  }
  return GuardTorchOr("loading the flow", [&]() -> absl::StatusOr<std::unique_ptr<Scorer>> {
    BFLOW_ASSIGN_OR_RETURN(std::shared_ptr<Flow> flow,
                           Flow::Load(spec, tensors, options.float64 ? at::kDouble : at::kFloat));
    flow->MoveTo(at::Device(options.device));
    flow->Freeze();
    return std::make_unique<FlowScorer>(std::move(flow), std::move(anomaly), options);
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Scorer>> MakeFlowScorer(const Checkpoint& checkpoint,
                                                       const ScorerOptions& options) {
  return MakeFromTensors(checkpoint.spec, checkpoint.tensors,
                         checkpoint.calibration ? &*checkpoint.calibration : nullptr, options);
}

Noise CalibrationNoise(const FlowSpec& spec) {
  Noise noise;
  noise.kind = spec.quantised() ? NoiseKind::kCenter : NoiseKind::kNone;
  return noise;
}

ModelSignature MakeSignature(const FlowSpec& spec, const Calibration* calibration) {
  ModelSignature signature;
  signature.architecture = spec.architecture;
  signature.patient_sensitive = spec.sensitivity == Sensitivity::kPatient;
  signature.can_sample = spec.allow_sampling;
  signature.quantised = spec.quantised();
  signature.event_shape = spec.event_shape;
  for (const ChannelSpec& channel : spec.channels) {
    signature.channels.push_back({channel.name, channel.unit, channel.gain, channel.baseline,
                                  channel.step, channel.input_min, channel.input_max});
  }
  signature.sampling_rate_hz = spec.sampling_rate_hz;
  signature.code_unit_offset_nats = spec.code_unit_offset_nats();
  signature.calibration_noise = CalibrationNoise(spec).kind;
  if (calibration != nullptr) {
    signature.can_score_anomaly = true;
    signature.calibration_rows = calibration->n();
    signature.alpha = calibration->alpha;
    signature.score_definition = calibration->score_definition;
    signature.feature_names = calibration->feature_names;
    signature.reference_mean = calibration->reference_mean;
    signature.reference_stddev = calibration->reference_stddev;
    if (calibration->attribution) signature.attribution_stride = calibration->attribution->stride;
  }
  return signature;
}

absl::StatusOr<SelfTest> MakeSelfTest(const Flow& flow, const Calibration* calibration,
                                      const HostBatch& x) {
  BFLOW_ASSIGN_OR_RETURN(FlowTensors tensors, CopyFlowTensors(flow));
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, SerializeSafetensors(tensors.tensors, {}));
  BFLOW_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Parse(std::move(bytes)));
  const auto score_rows = [&](bool float64, SelfTest* out) -> absl::Status {
    ScorerOptions options;
    options.float64 = float64;
    BFLOW_ASSIGN_OR_RETURN(std::unique_ptr<Scorer> scorer,
                           MakeFromTensors(flow.spec(), file, calibration, options));
    std::vector<RowStatus> status;
    if (calibration != nullptr) {
      BFLOW_ASSIGN_OR_RETURN(AnomalyResult result, scorer->Anomaly(x, {}));
      out->log_prob = std::move(result.log_prob);
      out->score = std::move(result.score);
      status = std::move(result.status);
    } else {
      BFLOW_ASSIGN_OR_RETURN(LogLikelihoodResult result,
                             scorer->LogLikelihood(x, CalibrationNoise(flow.spec()), false));
      out->log_prob = std::move(result.log_prob);
      status = std::move(result.status);
    }
    for (size_t i = 0; i < status.size(); ++i) {
      if (status[i] != RowStatus::kOk) {
        return absl::InvalidArgumentError(absl::StrCat("x: row ", i, " has no finite log p"));
      }
    }
    return absl::OkStatus();
  };
  SelfTest exact, served;
  BFLOW_RETURN_IF_ERROR(score_rows(true, &exact));
  BFLOW_RETURN_IF_ERROR(score_rows(false, &served));
  exact.rows = x.rows;
  exact.x = x.values;
  for (size_t i = 0; i < exact.log_prob.size(); ++i) {
    const bool reproduced =
        Reproduces(served.log_prob[i], exact.log_prob[i], kSelfTestRtol) &&
        (exact.score.empty() || Reproduces(served.score[i], exact.score[i], kSelfTestRtol));
    if (!reproduced) {
      return absl::InvalidArgumentError(
          absl::StrCat("x: row ", i,
                       " is not reproduced in float32: the weights are ill-conditioned, as after a "
                       "training that diverged"));
    }
  }
  return exact;
}

}  // namespace bflow
