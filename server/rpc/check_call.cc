#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/names.h"
#include "base/status.h"
#include "server/config/server_config.h"
#include "server/exec/reason.h"
#include "server/rpc/operations.h"
#include "server/rpc/tensor_codec.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;
using pb::Dequantization;

constexpr uint32_t kDrawsMax = 64;
constexpr int kRowsListed = 16;
// Message fields beside the tensors: shapes, names, model reference.
constexpr int64_t kReplyOverhead = 4096;

absl::Status BadOption(const std::string& field, const std::string& expected) {
  return MakeError(Reason::kBadOption, absl::StrCat(field, ": ", expected), field);
}

absl::Status CheckOptions(const pb::RequestOptions& options, CallPlan& plan) {
  if (options.priority() > 2) return BadOption("options.priority", "takes 0, 1 or 2");
  if (options.invalid_rows() < 0 || options.invalid_rows() > pb::INVALID_ROW_POLICY_MARK) {
    return BadOption("options.invalid_rows", "takes REJECT or MARK");
  }
  switch (options.score_dtype()) {
    case pb::DATA_TYPE_UNSPECIFIED:
    case pb::DATA_TYPE_FP32:
      plan.score_dtype = pb::DATA_TYPE_FP32;
      break;
    case pb::DATA_TYPE_FP64:
      plan.score_dtype = pb::DATA_TYPE_FP64;
      break;
    default:
      return BadOption("options.score_dtype", "takes FP32 or FP64");
  }
  if (options.request_id().size() > 128) {
    return BadOption("options.request_id", "takes a UUID, at most 128 bytes");
  }
  plan.mark_invalid = options.invalid_rows() == pb::INVALID_ROW_POLICY_MARK;
  plan.request_id = options.request_id();
  plan.want_timing = options.return_timing();
  return absl::OkStatus();
}

absl::StatusOr<Noise> CheckNoise(const Dequantization& wanted, bool quantised) {
  Noise noise;
  switch (wanted.kind()) {
    case Dequantization::KIND_UNSPECIFIED:
      noise.kind = quantised ? NoiseKind::kUniform : NoiseKind::kNone;
      break;
    case Dequantization::KIND_NONE:
      noise.kind = NoiseKind::kNone;
      break;
    case Dequantization::KIND_UNIFORM:
      noise.kind = NoiseKind::kUniform;
      break;
    case Dequantization::KIND_CENTER:
      noise.kind = NoiseKind::kCenter;
      break;
    default:
      return BadOption("dequantization.kind", "takes NONE, UNIFORM or CENTER");
  }
  if (!quantised && noise.kind != NoiseKind::kNone) {
    return BadOption("dequantization.kind", "a continuous model takes NONE only");
  }
  const bool uniform = noise.kind == NoiseKind::kUniform;
  if (wanted.has_seed() && !uniform) {
    return BadOption("dequantization.seed", "goes with UNIFORM only");
  }
  if (wanted.draws() > kDrawsMax || (wanted.draws() > 1 && !uniform)) {
    return BadOption("dequantization.draws",
                     absl::StrCat("takes 0 to ", kDrawsMax, ", more than 1 with UNIFORM only"));
  }
  if (uniform) {
    noise.seed = wanted.has_seed() ? wanted.seed() : DrawSeed();
    noise.draws = std::max<uint32_t>(wanted.draws(), 1);
  }
  noise.row_offset = wanted.row_offset();
  return noise;
}

absl::Status CheckLimits(const char* field, const char* stream, int64_t rows, int64_t rows_max,
                         int64_t reply_bytes, int64_t reply_max) {
  if (rows > rows_max) {
    return MakeError(Reason::kLimitExceeded,
                     absl::StrCat(field, ": ", rows, " rows, at most ", rows_max,
                                  " per call (limits.max_rows, max_samples); use ", stream),
                     field);
  }
  if (reply_bytes > reply_max) {
    return MakeError(
        Reason::kLimitExceeded,
        absl::StrCat(field, ": the reply would take about ", reply_bytes, " bytes, at most ",
                     reply_max, " (public.max_send_message_bytes); use ", stream),
        field);
  }
  return absl::OkStatus();
}

// What is wrong with rows that are out of range: of codes, their noise says which numbers they are.
const char* OutOfRange(bool quantised, NoiseKind noise) {
  if (!quantised) return " rows are outside the channels' range";
  return noise == NoiseKind::kNone
             ? " rows are outside the channels' range, or hold nothing but whole codes, under NONE"
             : " rows are outside the channels' range, or hold a number that is no whole code";
}

// Check 7 under REJECT: one kind of fault decides, with the first rows that have it.
absl::Status RejectInvalid(const std::vector<RowStatus>& status, const char* out_of_range) {
  for (RowStatus fault : {RowStatus::kNonFiniteInput, RowStatus::kOutOfRange}) {
    std::vector<size_t> rows;
    int64_t count = 0;
    for (size_t i = 0; i < status.size(); ++i) {
      if (status[i] != fault) continue;
      if (rows.size() < kRowsListed) rows.push_back(i);
      ++count;
    }
    if (count == 0) continue;
    const bool non_finite = fault == RowStatus::kNonFiniteInput;
    return MakeError(
        non_finite ? Reason::kNonFiniteInput : Reason::kValueOutOfRange,
        absl::StrCat("x.data: ", count, non_finite ? " rows hold NaN or infinity" : out_of_range,
                     "; rows ", absl::StrJoin(rows, ", "), count > kRowsListed ? ", ..." : "",
                     "; invalid_rows: MARK scores the others"),
        "x.data");
  }
  return absl::OkStatus();
}

// Runs of rows without a fault.
std::vector<RowRange> ValidRanges(const std::vector<RowStatus>& status) {
  std::vector<RowRange> ranges;
  const int64_t rows = static_cast<int64_t>(status.size());
  for (int64_t row = 0; row < rows; ++row) {
    if (status[static_cast<size_t>(row)] != RowStatus::kOk) continue;
    if (ranges.empty() || ranges.back().end != row) ranges.push_back({row, row});
    ranges.back().end = row + 1;
  }
  return ranges;
}

CallPlan NewPlan(ModelHandle model) {
  CallPlan plan;
  plan.task.scorer = std::shared_ptr<const Scorer>(model, model->scorer.get());
  plan.task.metrics = model->metrics;
  plan.task.model = model->name;
  plan.model = std::move(model);
  return plan;
}

// Check 3.
absl::Status CheckCanScore(const pb::AnomalyScoreRequest& request,
                           const ModelSignature& signature) {
  if (!signature.can_score_anomaly) {
    return MakeError(Reason::kNoCalibration, "model: has no calibration, so no anomaly score");
  }
  if (request.want_attribution() && signature.attribution_stride == 0) {
    return MakeError(Reason::kAttributionUnsupported,
                     signature.is_image()
                         ? "want_attribution: an image model has none, it is of waveforms only"
                         : "want_attribution: the model's calibration has none; train it anew");
  }
  return absl::OkStatus();
}

// And the memory of that many rows as floats: decoded input, or samples.
void SetRows(int64_t rows, CallPlan& plan) {
  plan.task.rows = rows;
  plan.task.bytes =
      rows * plan.model->scorer->signature().event_size() * static_cast<int64_t>(sizeof(float));
}

bool RangeFits(const ModelSignature& signature, double low, double high) {
  return std::all_of(signature.channels.begin(), signature.channels.end(),
                     [&](const ChannelSignature& channel) {
                       return channel.input_min >= low && channel.input_max <= high;
                     });
}

// Unit and type of samples, defaults filled in.
absl::Status CheckSampleFormat(const pb::SampleRequest& request, const ModelSignature& signature,
                               bool* codes, pb::DataType* dtype) {
  if (request.unit() < 0 || request.unit() > pb::SampleRequest::UNIT_SCALED) {
    return BadOption("unit", "takes CODE or SCALED");
  }
  *codes = request.unit() == pb::SampleRequest::UNIT_UNSPECIFIED
               ? signature.quantised
               : request.unit() == pb::SampleRequest::UNIT_CODE;
  if (*codes && !signature.quantised) {
    return BadOption("unit", "a continuous model has no codes; takes SCALED");
  }
  const bool int16 = *codes && RangeFits(signature, -32'768, 32'767);
  const bool uint8 = *codes && RangeFits(signature, 0, 255);
  *dtype = request.dtype() != pb::DATA_TYPE_UNSPECIFIED ? request.dtype()
           : uint8 && signature.is_image()              ? pb::DATA_TYPE_UINT8
           : int16                                      ? pb::DATA_TYPE_INT16
                                                        : pb::DATA_TYPE_FP32;
  const bool allowed = *dtype == pb::DATA_TYPE_FP32 || (*dtype == pb::DATA_TYPE_INT16 && int16) ||
                       (*dtype == pb::DATA_TYPE_UINT8 && uint8);
  if (!allowed) {
    return BadOption("dtype",
                     "takes FP32, and for codes the integer types that hold the input range");
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t DrawSeed() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::StatusOr<ModelHandle> FindModel(const pb::ModelSelector& selector,
                                      const ModelRegistry& registry) {
  if (!IsValidModelName(selector.name())) {
    return MakeError(Reason::kBadName, absl::StrCat("model.name: ", kModelNameSyntax),
                     "model.name");
  }
  std::optional<int64_t> version;
  std::optional<std::string> label;
  if (selector.pick_case() == pb::ModelSelector::kVersion) {
    if (selector.version() < 1) {
      return MakeError(Reason::kBadName, "model.version: takes 1 or more", "model.version");
    }
    version = selector.version();
  } else if (selector.pick_case() == pb::ModelSelector::kLabel) {
    if (!IsValidLabel(selector.label())) {
      return MakeError(Reason::kBadName, "model.label: takes [a-z][a-z0-9_-]{0,31}", "model.label");
    }
    label = selector.label();
  }
  return registry.Find(selector.name(), version, label);
}

absl::StatusOr<CallPlan> CheckOpen(const pb::LogLikelihoodRequest& request, ModelHandle model) {
  CallPlan plan = NewPlan(std::move(model));
  LogLikelihoodWork work;
  BFLOW_ASSIGN_OR_RETURN(
      work.noise, CheckNoise(request.dequantization(), plan.model->scorer->signature().quantised));
  work.want_latent = request.want_latent();
  if (work.want_latent && work.noise.draws > 1) {
    return BadOption("want_latent", "needs dequantization.draws of at most 1");
  }
  BFLOW_RETURN_IF_ERROR(CheckOptions(request.options(), plan));
  plan.input_noise = work.noise.kind;
  plan.task.work = work;
  return plan;
}

absl::StatusOr<CallPlan> CheckCall(const pb::LogLikelihoodRequest& request, ModelHandle model,
                                   const RequestLimits& limits) {
  const ModelSignature& signature = model->scorer->signature();
  BFLOW_ASSIGN_OR_RETURN(const int64_t rows, CheckTensor(request.x(), signature));
  BFLOW_ASSIGN_OR_RETURN(CallPlan plan, CheckOpen(request, std::move(model)));
  SetRows(rows, plan);
  // Rows are bounded by the bytes of the request, so these products cannot overflow.
  plan.reply_bytes = kReplyOverhead + rows * (4 * 8 + 1) +
                     (request.want_latent() ? rows * signature.event_size() * 4 : 0);
  BFLOW_RETURN_IF_ERROR(CheckLimits("x", "StreamScore", rows, limits.max_rows, plan.reply_bytes,
                                    limits.max_reply_bytes));
  return plan;
}

absl::StatusOr<CallPlan> CheckOpen(const pb::AnomalyScoreRequest& request, ModelHandle model) {
  CallPlan plan = NewPlan(std::move(model));
  const ModelSignature& signature = plan.model->scorer->signature();
  BFLOW_RETURN_IF_ERROR(CheckCanScore(request, signature));
  plan.alpha = request.has_alpha() ? request.alpha() : signature.alpha;
  if (!(plan.alpha > 0 && plan.alpha < 1)) {
    return BadOption("alpha", "takes a number between 0 and 1, both excluded");
  }
  BFLOW_RETURN_IF_ERROR(CheckOptions(request.options(), plan));
  if (plan.alpha < 1.0 / (signature.calibration_rows + 1)) {
    return MakeError(
        Reason::kCalibrationTooSmall,
        absl::StrCat("alpha: below 1/(n+1), the smallest p-value of a calibration with n = ",
                     signature.calibration_rows, " rows"),
        "alpha");
  }
  plan.input_noise = signature.calibration_noise;
  plan.task.work = AnomalyWork{{request.want_contributions(), request.want_attribution()}};
  return plan;
}

absl::StatusOr<CallPlan> CheckCall(const pb::AnomalyScoreRequest& request, ModelHandle model,
                                   const RequestLimits& limits) {
  const ModelSignature& signature = model->scorer->signature();
  BFLOW_RETURN_IF_ERROR(CheckCanScore(request, signature));
  BFLOW_ASSIGN_OR_RETURN(const int64_t rows, CheckTensor(request.x(), signature));
  BFLOW_ASSIGN_OR_RETURN(CallPlan plan, CheckOpen(request, std::move(model)));
  SetRows(rows, plan);
  const int64_t features = static_cast<int64_t>(signature.feature_names.size());
  plan.reply_bytes = kReplyOverhead + rows * (7 * 8 + 3) +
                     (request.want_contributions() ? rows * features * 8 : 0) +
                     (request.want_attribution() ? rows * signature.attribution_entries() * 5 : 0) +
                     features * 64;
  BFLOW_RETURN_IF_ERROR(CheckLimits("x", "StreamScore", rows, limits.max_rows, plan.reply_bytes,
                                    limits.max_reply_bytes));
  return plan;
}

absl::Status DecodeInput(const pb::Tensor& x, CallPlan& plan) {
  const ModelSignature& signature = plan.model->scorer->signature();
  DecodedRows decoded = DecodeRows(x, plan.task.rows, signature, plan.input_noise);
  for (RowStatus status : decoded.status) {
    if (status == RowStatus::kOk) continue;
    const InvalidRow reason =
        status == RowStatus::kOutOfRange ? InvalidRow::kOutOfRange : InvalidRow::kNonFiniteInput;
    plan.model->metrics->invalid_rows[static_cast<size_t>(reason)]->Increment();
  }
  if (!plan.mark_invalid) {
    BFLOW_RETURN_IF_ERROR(
        RejectInvalid(decoded.status, OutOfRange(signature.quantised, plan.input_noise)));
  }
  plan.task.ranges = ValidRanges(decoded.status);
  plan.task.x = std::move(decoded.batch);
  plan.status = std::move(decoded.status);
  return absl::OkStatus();
}

absl::StatusOr<CallPlan> CheckOpen(const pb::SampleRequest& request, ModelHandle model) {
  CallPlan plan = NewPlan(std::move(model));
  const ModelSignature& signature = plan.model->scorer->signature();
  if (!signature.can_sample) {
    return MakeError(Reason::kSamplingNotAllowed, "model: its makers do not allow sampling");
  }
  if (request.num_samples() < 1) return BadOption("num_samples", "takes 1 or more");
  SampleOptions options;
  options.rows = request.num_samples();
  options.seed = request.has_seed() ? request.seed() : DrawSeed();
  options.first_row = request.first_row();
  if (options.first_row > std::numeric_limits<uint64_t>::max() - request.num_samples()) {
    return BadOption("first_row", "first_row + num_samples exceeds 2^64 - 1");
  }
  options.temperature = request.has_temperature() ? request.temperature() : 1.0;
  if (!(options.temperature > 0 && options.temperature <= 4)) {
    return BadOption("temperature", "takes a number above 0 and at most 4");
  }
  options.want_log_prob = request.want_log_prob();
  BFLOW_RETURN_IF_ERROR(CheckSampleFormat(request, signature, &options.codes, &plan.sample_dtype));
  BFLOW_RETURN_IF_ERROR(CheckOptions(request.options(), plan));
  plan.task.work = SampleWork{options};
  SetSampleRows(options.first_row, options.rows, plan);
  return plan;
}

void SetSampleRows(uint64_t first_row, int64_t rows, CallPlan& plan) {
  SampleOptions& options = std::get<SampleWork>(plan.task.work).options;
  options.first_row = first_row;
  options.rows = rows;
  // At most 2^32 samples of at most 2^31 bytes: no overflow.
  const int64_t event_size = plan.model->scorer->signature().event_size();
  plan.reply_bytes = kReplyOverhead + rows * (event_size * ElementSize(plan.sample_dtype) + 8);
  SetRows(rows, plan);
  plan.task.ranges = {{0, rows}};
}

absl::StatusOr<CallPlan> CheckCall(const pb::SampleRequest& request, ModelHandle model,
                                   const RequestLimits& limits) {
  BFLOW_ASSIGN_OR_RETURN(CallPlan plan, CheckOpen(request, std::move(model)));
  BFLOW_RETURN_IF_ERROR(CheckLimits("num_samples", "StreamSample", plan.task.rows,
                                    limits.max_samples, plan.reply_bytes, limits.max_reply_bytes));
  return plan;
}

}  // namespace bflow
