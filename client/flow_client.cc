#include "client/flow_client.h"

#include <algorithm>
#include <limits>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "client/model_name.h"
#include "client/row_codec.h"
#include "client/rpc_status.h"
#include "client/stream_job.h"
#include "google/protobuf/wrappers.pb.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace bflow::client {

namespace v1 = ::butterflyflow::v1;

namespace {

// Bytes of a request or reply beside its tensors.
constexpr int64_t kEnvelopeBytes = 64 << 10;
constexpr int64_t kMaxSide = int64_t{1} << 20;  // of an event: three multiply without overflow

// Passes of images through a flow per chunk: one can take a large part of a second, and the next
// answer is waited for only so long.
constexpr int64_t kImagePassesPerChunk = 64;

// Answers of other weights than those pinned are not the same measurement.
absl::Status CheckModelRef(const PinnedModel& model, const v1::ModelRef& ref) {
  if (ref.version() == model.version.version() &&
      (model.version.manifest_sha256().empty() ||
       ref.manifest_sha256() == model.version.manifest_sha256())) {
    return absl::OkStatus();
  }
  return absl::AbortedError("the model was replaced while the job ran; run it again");
}

absl::StatusOr<std::vector<RowLogLikelihood>> ReadLikelihood(int64_t n, const v1::Tensor& log_prob,
                                                             const v1::Tensor& nats,
                                                             const v1::Tensor& bits,
                                                             const std::string& row_status) {
  BFLOW_ASSIGN_OR_RETURN(const auto log_probs, DecodeScores(log_prob, n, "log_prob"));
  BFLOW_ASSIGN_OR_RETURN(const auto nats_per_dim, DecodeScores(nats, n, "nats_per_dim"));
  BFLOW_ASSIGN_OR_RETURN(const auto bits_per_dim, DecodeScores(bits, n, "bits_per_dim"));
  BFLOW_RETURN_IF_ERROR(CheckByteColumn(row_status, n, "row_status"));
  std::vector<RowLogLikelihood> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = {static_cast<uint8_t>(row_status[i]), log_probs[i], nats_per_dim[i], bits_per_dim[i]};
  }
  return out;
}

// The integer types that rows of codes may go as: those that the model takes.
std::vector<v1::DataType> CodeTypes(const PinnedModel& model, const RowSource& rows) {
  std::vector<v1::DataType> types;
  for (const int type : model.info.input_dtypes()) {
    const bool integer = type == v1::DATA_TYPE_UINT8 || type == v1::DATA_TYPE_INT16;
    if (integer && !rows.real_valued) types.push_back(static_cast<v1::DataType>(type));
  }
  return types;
}

// Puts `next` into descending `top` if it belongs there.
template <typename T, typename Larger>
void Insert(T next, std::array<T, 3>& top, Larger larger) {
  for (T& slot : top) {
    if (larger(next, slot)) std::swap(slot, next);
  }
}

// The largest contributions of a row, descending; zero and negative ones are no reasons.
std::array<Reason, 3> LargestContributions(const double* row, int features) {
  std::array<Reason, 3> top;
  for (int f = 0; f < features; ++f) {
    if (!(row[f] > 0)) continue;
    Insert(Reason{f, row[f]}, top, [](const Reason& a, const Reason& b) {
      return b.feature < 0 || a.contribution > b.contribution;
    });
  }
  return top;
}

// The largest entries of each row's attribution.
absl::Status ReadAttribution(const v1::AnomalyScoreResponse& reply, const PinnedModel& model,
                             int64_t n, RowAnomaly* out) {
  const int64_t stride = reply.attribution_stride();
  if (stride < 1) return absl::InternalError("attribution_stride: the server gave none");
  const int64_t channels = model.info.event_shape(1);
  const int64_t entries = (model.info.event_shape(0) + stride - 1) / stride * channels;
  BFLOW_ASSIGN_OR_RETURN(const auto z,
                         DecodeScores(reply.attribution(), n * entries, "attribution"));
  BFLOW_RETURN_IF_ERROR(
      CheckByteColumn(reply.attribution_cause(), n * entries, "attribution_cause"));
  for (int64_t i = 0; i < n * entries; ++i) {
    const size_t k = static_cast<size_t>(i);
    if (!(z[k] > 0)) continue;
    const int64_t entry = i % entries;
    Insert(Place{entry / channels, static_cast<int>(entry % channels),
                 static_cast<uint8_t>(reply.attribution_cause()[k]), z[k]},
           out[i / entries].places,
           [](const Place& a, const Place& b) { return b.segment < 0 || a.z > b.z; });
  }
  return absl::OkStatus();
}

absl::Status ReadAnomaly(const v1::AnomalyScoreResponse& reply, int64_t n, RowAnomaly* out) {
  const int features = reply.feature_names_size();
  BFLOW_ASSIGN_OR_RETURN(const auto likelihood,
                         ReadLikelihood(n, reply.log_prob(), reply.nats_per_dim(),
                                        reply.bits_per_dim(), reply.row_status()));
  BFLOW_ASSIGN_OR_RETURN(const auto score, DecodeScores(reply.score(), n, "score"));
  BFLOW_ASSIGN_OR_RETURN(const auto p_value, DecodeScores(reply.p_value(), n, "p_value"));
  BFLOW_ASSIGN_OR_RETURN(const auto ratio, DecodeScores(reply.score_ratio(), n, "score_ratio"));
  BFLOW_ASSIGN_OR_RETURN(const auto rank, DecodeScores(reply.nll_rank(), n, "nll_rank"));
  BFLOW_ASSIGN_OR_RETURN(const auto contributions,
                         DecodeScores(reply.contributions(), n * features, "contributions"));
  BFLOW_RETURN_IF_ERROR(CheckByteColumn(reply.flagged(), n, "flagged"));
  BFLOW_RETURN_IF_ERROR(CheckByteColumn(reply.typicality(), n, "typicality"));
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    RowAnomaly& row = out[i];
    row.likelihood = likelihood[i];
    row.score = score[i];
    row.p_value = p_value[i];
    row.flagged = reply.flagged()[i] != 0;
    row.score_ratio = ratio[i];
    row.nll_rank = rank[i];
    row.typicality = static_cast<uint8_t>(reply.typicality()[i]);
    row.reasons =
        LargestContributions(contributions.data() + i * static_cast<size_t>(features), features);
  }
  return absl::OkStatus();
}

}  // namespace

std::string ServiceConfig(const std::string& target) {
  const bool replicas = target.find(',') != std::string::npos || target.rfind("dns:", 0) == 0;
  // maxTokens must exceed twice the calls in flight, or throttling stops retries when a replica
  // dies.
  return absl::StrCat(
      R"({"loadBalancingConfig": [{"round_robin": {}}], )",
      replicas ? R"("healthCheckConfig": {"serviceName": "readiness"}, )" : "",
      R"("retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1}, "methodConfig": [{"name": [)",
      R"({"service": "butterflyflow.v1.FlowService", "method": "LogLikelihood"}, )",
      R"({"service": "butterflyflow.v1.FlowService", "method": "AnomalyScore"}, )",
      R"({"service": "butterflyflow.v1.FlowService", "method": "Sample"}], )",
      R"("retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", )",
      R"("backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]})");
}

uint64_t RandomSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

int64_t PinnedModel::EventValues() const {
  int64_t values = 1;
  for (const int64_t n : info.event_shape()) values *= n;
  return values;
}

v1::ModelSelector PinnedModel::Selector() const {
  v1::ModelSelector selector;
  selector.set_name(info.name());
  selector.set_version(version.version());
  return selector;
}

FlowClient::FlowClient(const ClientOptions& options) : options_(options) {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(ServiceConfig(options.server));
  arguments.SetMaxReceiveMessageSize(options.max_message_bytes);
  arguments.SetMaxSendMessageSize(options.max_message_bytes);
  // A server that restarts is back within a second: do not wait much longer to look again.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A call that outgrows this buffer is never retried; gRPC's own 256 KiB is less than one chunk.
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, 2 * options.max_message_bytes);
  channel_ =
      grpc::CreateCustomChannel(options.server, grpc::InsecureChannelCredentials(), arguments);
  flow_ = v1::FlowService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
}

absl::Status FlowClient::Call(const std::function<grpc::Status(grpc::ClientContext*)>& attempt) {
  const Clock& clock = *Clock::Real();
  const WallTime end = clock.WallNow() + absl::ToChronoMilliseconds(options_.deadline);
  auto pause = std::chrono::milliseconds(100);
  absl::Status refusal;  // the last one: what a deadline that passes while retrying is due to
  for (;;) {
    grpc::ClientContext context;
    context.set_deadline(end);
    const grpc::Status status = attempt(&context);
    if (status.ok()) {
      answered_ = true;
      return absl::OkStatus();
    }
    const absl::Status error = StatusFromRpc(status);
    const bool reason = !ReadErrorDetails(status).reason.empty();
    if (absl::IsDeadlineExceeded(error) && !reason && !refusal.ok()) return refusal;
    if (!absl::IsUnavailable(error) || !(answered_ || reason)) return error;
    if (clock.WallNow() + pause >= end) return error;
    refusal = error;
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, std::chrono::milliseconds(1000));
  }
}

absl::StatusOr<std::vector<v1::ModelInfo>> FlowClient::ListModels() {
  std::vector<v1::ModelInfo> models;
  v1::ListModelsRequest request;
  do {
    v1::ListModelsResponse reply;
    BFLOW_RETURN_IF_ERROR(Call([&](grpc::ClientContext* context) {
      return models_->ListModels(context, request, &reply);
    }));
    models.insert(models.end(), reply.models().begin(), reply.models().end());
    if (reply.next_page_token() == request.page_token()) break;
    request.set_page_token(reply.next_page_token());
  } while (!request.page_token().empty());
  return models;
}

absl::StatusOr<v1::GetModelResponse> FlowClient::GetModel(const std::string& name) {
  v1::GetModelRequest request;
  request.set_name(name);
  v1::GetModelResponse reply;
  BFLOW_RETURN_IF_ERROR(Call(
      [&](grpc::ClientContext* context) { return models_->GetModel(context, request, &reply); }));
  return reply;
}

absl::StatusOr<PinnedModel> FlowClient::Pin(const v1::ModelSelector& selector) {
  BFLOW_ASSIGN_OR_RETURN(v1::GetModelResponse reply, GetModel(selector.name()));
  PinnedModel model;
  BFLOW_ASSIGN_OR_RETURN(model.version, ChooseVersion(reply.model(), selector));
  model.info = std::move(*reply.mutable_model());
  model.limits = std::move(*reply.mutable_limits());
  const auto& shape = model.info.event_shape();
  if (shape.size() != (model.is_image() ? 3 : 2) ||
      std::any_of(shape.begin(), shape.end(), [](int64_t d) { return d < 1 || d > kMaxSide; })) {
    return absl::InternalError("event_shape: the server gave none that fits its architecture");
  }
  return model;
}

absl::StatusOr<int> FlowClient::CheckHealth(const std::string& service) {
  // HealthCheckRequest {string service = 1;} and HealthCheckResponse {enum status = 1;} have the
  // bytes of these two well-known types, which saves a copy of health.proto.
  using Stub =
      grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value>;
  Stub stub(channel_);
  google::protobuf::StringValue request;
  request.set_value(service);
  google::protobuf::Int32Value reply;
  BFLOW_RETURN_IF_ERROR(Call([&](grpc::ClientContext* context) {
    grpc::CompletionQueue queue;
    auto call = stub.PrepareUnaryCall(context, "/grpc.health.v1.Health/Check", request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }));
  return reply.value();
}

int64_t FlowClient::RowsPerChunk(const PinnedModel& model, uint32_t draws) const {
  int64_t bytes = options_.max_chunk_data_bytes;
  const auto at_most = [&](uint64_t limit, int64_t beside) {
    if (limit > 0) bytes = std::min(bytes, static_cast<int64_t>(limit) - beside);
  };
  at_most(model.limits.max_chunk_bytes(), 0);
  at_most(model.limits.max_message_bytes(), kEnvelopeBytes);
  // FP32 is the largest form a row can take here; whether its codes fit INT16 is known only later.
  int64_t rows =
      std::max<int64_t>(bytes / (model.EventValues() * static_cast<int64_t>(sizeof(float))), 1);
  if (model.limits.max_rows() > 0) rows = std::min<int64_t>(rows, model.limits.max_rows());
  if (model.is_image()) {
    rows = std::min(rows, std::max<int64_t>(kImagePassesPerChunk / std::max(draws, 1u), 1));
  }
  return rows;
}

absl::Status FlowClient::Score(
    const PinnedModel& model, const RowSource& rows, const v1::StreamScoreRequest::Open& open,
    const ProgressCallback& progress,
    const std::function<absl::Status(int64_t, int64_t, const Result&)>& take) {
  const int64_t step = RowsPerChunk(model, open.dequantization().draws());
  const int64_t values = model.EventValues();
  const std::vector<v1::DataType> dtypes = CodeTypes(model, rows);
  const std::vector<int64_t> shape(model.info.event_shape().begin(),
                                   model.info.event_shape().end());
  const auto first_row = [&](uint64_t chunk) { return static_cast<int64_t>(chunk) * step; };
  const auto count = [&](uint64_t chunk) { return std::min(step, rows.rows - first_row(chunk)); };
  std::vector<float> buffer;
  ScoreStreamJob job;
  job.open = open;
  *job.open.mutable_model() = model.Selector();
  job.open.mutable_options()->set_score_dtype(v1::DATA_TYPE_FP64);
  job.chunks = static_cast<uint64_t>((rows.rows + step - 1) / step);
  job.chunk = [&](uint64_t index) {
    buffer.resize(static_cast<size_t>(count(index) * values));
    rows.fill(first_row(index), count(index), buffer.data());
    v1::StreamScoreRequest::Chunk chunk;
    chunk.set_first_row(static_cast<uint64_t>(first_row(index)));
    *chunk.mutable_x() = EncodeRows(buffer, shape, SmallestType(buffer, dtypes));
    return chunk;
  };
  job.opened = [&](const v1::StreamScoreResponse::Opened& opened) {
    return CheckModelRef(model, opened.model());
  };
  job.result = [&](const Result& result) -> absl::Status {
    BFLOW_RETURN_IF_ERROR(take(first_row(result.index()), count(result.index()), result));
    if (progress) progress(first_row(result.index()) + count(result.index()));
    return absl::OkStatus();
  };
  return RunScoreStream(flow_.get(), job, options_.deadline);
}

absl::StatusOr<std::vector<RowLogLikelihood>> FlowClient::LogLikelihood(
    const PinnedModel& model, const RowSource& rows, const LogLikelihoodOptions& options,
    const ProgressCallback& progress) {
  std::vector<RowLogLikelihood> out(static_cast<size_t>(rows.rows));
  const bool noisy = model.info.quantised() && !rows.real_valued;
  v1::StreamScoreRequest::Open open;
  v1::Dequantization* noise = open.mutable_dequantization();
  noise->set_kind(noisy ? v1::Dequantization::KIND_UNIFORM : v1::Dequantization::KIND_NONE);
  if (noisy) {
    noise->set_seed(options.seed);
    noise->set_draws(options.draws);
  }
  auto take = [&](int64_t first, int64_t count, const Result& result) -> absl::Status {
    const v1::LogLikelihoodResponse& reply = result.log_likelihood();
    BFLOW_RETURN_IF_ERROR(CheckModelRef(model, reply.model()));
    BFLOW_ASSIGN_OR_RETURN(const auto part,
                           ReadLikelihood(count, reply.log_prob(), reply.nats_per_dim(),
                                          reply.bits_per_dim(), reply.row_status()));
    std::copy(part.begin(), part.end(), out.begin() + first);
    return absl::OkStatus();
  };
  BFLOW_RETURN_IF_ERROR(Score(model, rows, open, progress, take));
  return out;
}

absl::StatusOr<AnomalyResult> FlowClient::AnomalyScore(const PinnedModel& model,
                                                       const RowSource& rows,
                                                       const AnomalyOptions& options,
                                                       const ProgressCallback& progress) {
  AnomalyResult out;
  out.rows.resize(static_cast<size_t>(rows.rows));
  v1::StreamScoreRequest::Open open;
  open.set_want_anomaly(true);
  open.set_want_contributions(true);
  open.set_want_attribution(options.want_attribution);
  if (options.alpha.has_value()) open.set_alpha(*options.alpha);
  auto take = [&](int64_t first, int64_t count, const Result& result) -> absl::Status {
    const v1::AnomalyScoreResponse& reply = result.anomaly();
    BFLOW_RETURN_IF_ERROR(CheckModelRef(model, reply.model()));
    BFLOW_RETURN_IF_ERROR(ReadAnomaly(reply, count, out.rows.data() + first));
    if (options.want_attribution) {
      BFLOW_RETURN_IF_ERROR(ReadAttribution(reply, model, count, out.rows.data() + first));
      out.attribution_stride = reply.attribution_stride();
    }
    out.feature_names.assign(reply.feature_names().begin(), reply.feature_names().end());
    out.score_definition = reply.score_definition();
    out.calibration_rows = reply.calibration_rows();
    out.alpha = reply.alpha();
    return absl::OkStatus();
  };
  BFLOW_RETURN_IF_ERROR(Score(model, rows, open, progress, take));
  return out;
}

absl::Status FlowClient::Sample(const PinnedModel& model, uint64_t count,
                                const SampleOptions& options, const SampleCallback& consume) {
  if (count > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError("num: at most 4294967295 samples in one job");
  }
  v1::SampleRequest request;
  *request.mutable_model() = model.Selector();
  request.set_num_samples(static_cast<uint32_t>(count));
  request.set_seed(options.seed);
  request.set_first_row(options.first_row);
  if (options.temperature.has_value()) request.set_temperature(*options.temperature);
  request.set_unit(options.unit);
  auto take = [&](const v1::SampleResponse& reply) -> absl::Status {
    BFLOW_RETURN_IF_ERROR(CheckModelRef(model, reply.model()));
    const int64_t bytes =
        reply.samples().shape(0) * model.EventValues() * ValueBytes(reply.samples().dtype());
    if (bytes == 0) return absl::InternalError("samples: the reply's data type is unknown");
    BFLOW_RETURN_IF_ERROR(CheckByteColumn(reply.samples().data(), bytes, "samples"));
    return consume(reply);
  };
  return RunSampleStream(flow_.get(), std::move(request), take, options_.deadline);
}

}  // namespace bflow::client
