#include <cmath>
#include <limits>
#include <utility>

#include "server/rpc/operations.h"
#include "server/rpc/tensor_codec.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLn2 = 0.693147180559945309417232121458;

// Status per row: the fault found before scoring, else the scorer's; a NaN that slipped through is
// an overflow, since NaN is never sent.
std::vector<RowStatus> MergeStatus(const CallPlan& plan, const std::vector<RowStatus>& scored,
                                   const std::vector<double>& log_prob) {
  std::vector<RowStatus> status = plan.status;
  for (size_t i = 0; i < status.size(); ++i) {
    if (status[i] != RowStatus::kOk) continue;
    status[i] = scored[i];
    if (status[i] == RowStatus::kOk && !std::isfinite(log_prob[i])) {
      status[i] = RowStatus::kNonFiniteScore;
    }
    if (status[i] == RowStatus::kNonFiniteScore) {
      plan.model->metrics->invalid_rows[static_cast<size_t>(InvalidRow::kNonFiniteScore)]
          ->Increment();
    }
  }
  return status;
}

std::string StatusBytes(const std::vector<RowStatus>& status) {
  std::string bytes;
  for (RowStatus row : status) bytes.push_back(static_cast<char>(row));
  return bytes;
}

// Fail-safe value in every row that is not OK.
void MakeSafe(const std::vector<RowStatus>& status, double safe, std::vector<double>& values) {
  const size_t width = status.empty() ? 0 : values.size() / status.size();
  for (size_t i = 0; i < status.size(); ++i) {
    if (status[i] == RowStatus::kOk) continue;
    std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(i * width), width, safe);
  }
}

// nats_per_dim and bits_per_dim of log_prob; -infinity gives +infinity in both.
template <typename Response>
void FillRates(const CallPlan& plan, const std::vector<double>& log_prob, Response* response) {
  const ModelSignature& signature = plan.model->scorer->signature();
  const double size = static_cast<double>(signature.event_size());
  std::vector<double> nats(log_prob.size()), bits(log_prob.size());
  for (size_t i = 0; i < log_prob.size(); ++i) {
    nats[i] = -log_prob[i] / size;
    bits[i] = (-log_prob[i] + signature.code_unit_offset_nats) / (size * kLn2);
    if (std::isfinite(nats[i])) plan.model->metrics->nats_per_dim->Observe(nats[i]);
  }
  EncodeScores(log_prob, plan.score_dtype, 0, response->mutable_log_prob());
  EncodeScores(nats, plan.score_dtype, 0, response->mutable_nats_per_dim());
  EncodeScores(bits, plan.score_dtype, 0, response->mutable_bits_per_dim());
}

void FillAttribution(const ModelSignature& signature, const std::vector<RowStatus>& status,
                     AnomalyResult result, pb::AnomalyScoreResponse* response) {
  const size_t entries = static_cast<size_t>(signature.attribution_entries());
  for (size_t i = 0; i < status.size(); ++i) {
    if (status[i] == RowStatus::kOk) continue;
    const auto begin = static_cast<std::ptrdiff_t>(i * entries);
    std::fill_n(result.attribution.begin() + begin, entries, 0.0f);
    std::fill_n(result.attribution_cause.begin() + begin, entries, AttributionCause::kNone);
  }
  const int64_t channels = signature.event_shape[1];
  EncodeFloats(
      result.attribution,
      {static_cast<int64_t>(status.size()), static_cast<int64_t>(entries) / channels, channels},
      response->mutable_attribution());
  response->set_attribution_stride(static_cast<uint32_t>(signature.attribution_stride));
  std::string causes;
  for (AttributionCause cause : result.attribution_cause) {
    causes.push_back(static_cast<char>(cause));
  }
  response->set_attribution_cause(std::move(causes));
}

}  // namespace

void FillModelRef(const ModelVersion& model, pb::ModelRef* ref) {
  ref->set_name(model.name);
  ref->set_version(model.version);
  ref->set_manifest_sha256(model.manifest_sha256);
}

void FillDequantization(const Noise& noise, pb::Dequantization* used) {
  used->set_row_offset(noise.row_offset);
  switch (noise.kind) {
    case NoiseKind::kNone:
      used->set_kind(pb::Dequantization::KIND_NONE);
      break;
    case NoiseKind::kCenter:
      used->set_kind(pb::Dequantization::KIND_CENTER);
      break;
    case NoiseKind::kUniform:
      used->set_kind(pb::Dequantization::KIND_UNIFORM);
      used->set_seed(noise.seed);
      used->set_draws(noise.draws);
      break;
  }
}

void Reply(const CallPlan& plan, LogLikelihoodResult result, pb::LogLikelihoodResponse* response) {
  const ModelSignature& signature = plan.model->scorer->signature();
  const std::vector<RowStatus> status = MergeStatus(plan, result.status, result.log_prob);
  MakeSafe(status, -kInfinity, result.log_prob);
  FillModelRef(*plan.model, response->mutable_model());
  FillRates(plan, result.log_prob, response);
  if (!result.log_prob_mean.empty()) {
    MakeSafe(status, -kInfinity, result.log_prob_mean);
    EncodeScores(result.log_prob_mean, plan.score_dtype, 0, response->mutable_log_prob_mean());
  }
  const LogLikelihoodWork& work = std::get<LogLikelihoodWork>(plan.task.work);
  if (work.want_latent) {
    const int64_t width = signature.event_size();
    for (size_t i = 0; i < status.size(); ++i) {
      if (status[i] == RowStatus::kOk) continue;
      std::fill_n(result.latent.begin() + static_cast<std::ptrdiff_t>(i) * width, width, 0.0f);
    }
    EncodeEvents(result.latent, signature, pb::DATA_TYPE_FP32, response->mutable_latent());
  }
  response->set_row_status(StatusBytes(status));
  FillDequantization(work.noise, response->mutable_dequantization());
  response->set_request_id(plan.request_id);
}

void Reply(const CallPlan& plan, AnomalyResult result, pb::AnomalyScoreResponse* response) {
  const ModelSignature& signature = plan.model->scorer->signature();
  const std::vector<RowStatus> status = MergeStatus(plan, result.status, result.log_prob);
  const double smallest = 1.0 / (signature.calibration_rows + 1);
  MakeSafe(status, -kInfinity, result.log_prob);
  MakeSafe(status, kInfinity, result.score);
  MakeSafe(status, smallest, result.p_value);
  MakeSafe(status, kInfinity, result.score_ratio);
  MakeSafe(status, 1.0, result.nll_rank);
  FillModelRef(*plan.model, response->mutable_model());
  FillRates(plan, result.log_prob, response);
  EncodeScores(result.score, plan.score_dtype, 0, response->mutable_score());
  EncodeScores(result.p_value, plan.score_dtype, 0, response->mutable_p_value());
  EncodeScores(result.score_ratio, plan.score_dtype, 0, response->mutable_score_ratio());
  EncodeScores(result.nll_rank, plan.score_dtype, 0, response->mutable_nll_rank());
  std::string flagged, typicality;
  ModelMetrics& metrics = *plan.model->metrics;
  for (size_t i = 0; i < status.size(); ++i) {
    const bool ok = status[i] == RowStatus::kOk;
    const bool flag = !ok || result.p_value[i] <= plan.alpha;
    flagged.push_back(flag ? 1 : 0);
    typicality.push_back(ok ? static_cast<char>(result.typicality[i]) : 2);
    if (ok || status[i] == RowStatus::kNonFiniteScore) {
      metrics.anomaly_scored->Increment();
      if (flag) metrics.anomaly_flagged->Increment();
    }
  }
  response->set_flagged(flagged);
  response->set_typicality(typicality);
  const AnomalyOptions& wanted = std::get<AnomalyWork>(plan.task.work).options;
  if (wanted.want_contributions) {
    MakeSafe(status, 0.0, result.contributions);
    EncodeScores(result.contributions, plan.score_dtype,
                 static_cast<int64_t>(signature.feature_names.size()),
                 response->mutable_contributions());
  }
  if (wanted.want_attribution) FillAttribution(signature, status, std::move(result), response);
  for (const std::string& name : signature.feature_names) response->add_feature_names(name);
  response->set_score_definition(signature.score_definition);
  response->set_calibration_rows(static_cast<uint32_t>(signature.calibration_rows));
  response->set_alpha(plan.alpha);
  Noise noise;
  noise.kind = signature.calibration_noise;
  FillDequantization(noise, response->mutable_dequantization());
  response->set_row_status(StatusBytes(status));
  response->set_request_id(plan.request_id);
}

void Reply(const CallPlan& plan, SampleResult result, pb::SampleResponse* response) {
  const ModelSignature& signature = plan.model->scorer->signature();
  const SampleOptions& options = std::get<SampleWork>(plan.task.work).options;
  FillModelRef(*plan.model, response->mutable_model());
  EncodeEvents(result.samples, signature, plan.sample_dtype, response->mutable_samples());
  if (options.want_log_prob) {
    for (double& value : result.log_prob) {
      if (std::isnan(value)) value = -kInfinity;
    }
    EncodeScores(result.log_prob, plan.score_dtype, 0, response->mutable_log_prob());
  }
  response->set_seed(options.seed);
  response->set_first_row(options.first_row);
  response->set_request_id(plan.request_id);
}

}  // namespace bflow
