#include "server/rpc/score_stream.h"

#include <limits>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "server/rpc/error_details.h"
#include "server/rpc/finish_task.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

constexpr size_t kRowKeysMax = 256 << 10;

absl::Status Protocol(const std::string& field, const std::string& expected) {
  return MakeError(Reason::kStreamProtocol, absl::StrCat(field, ": ", expected), field);
}

absl::Status BadOption(const std::string& field, const std::string& expected) {
  return MakeError(Reason::kBadOption, absl::StrCat(field, ": ", expected), field);
}

// Fields that exclude each other.
absl::Status CheckFields(const pb::StreamScoreRequest::Open& open) {
  if (!open.want_anomaly()) {
    if (open.want_attribution()) return BadOption("open.want_attribution", "needs want_anomaly");
    if (open.want_contributions()) {
      return BadOption("open.want_contributions", "needs want_anomaly");
    }
    if (open.has_alpha()) return BadOption("open.alpha", "needs want_anomaly");
  } else if (open.has_dequantization()) {
    return BadOption("open.dequantization", "not with want_anomaly: the calibration fixes it");
  }
  if (open.dequantization().row_offset() != 0) {
    return BadOption("open.dequantization.row_offset", "takes 0: each chunk says its first_row");
  }
  return absl::OkStatus();
}

pb::RequestOptions StreamOptions(pb::RequestOptions options) {
  if (options.invalid_rows() == pb::INVALID_ROW_POLICY_UNSPECIFIED) {
    options.set_invalid_rows(pb::INVALID_ROW_POLICY_MARK);
  }
  return options;
}

// Where a chunk's numbers go.
pb::LogLikelihoodResponse* NumbersOf(pb::StreamScoreResponse::Result* result,
                                     const pb::LogLikelihoodRequest&) {
  return result->mutable_log_likelihood();
}
pb::AnomalyScoreResponse* NumbersOf(pb::StreamScoreResponse::Result* result,
                                    const pb::AnomalyScoreRequest&) {
  return result->mutable_anomaly();
}

void SetFirstRow(uint64_t first_row, pb::LogLikelihoodRequest* request) {
  request->mutable_dequantization()->set_row_offset(first_row);
}
void SetFirstRow(uint64_t, pb::AnomalyScoreRequest*) {}  // its noise is the same in every row

}  // namespace

ScoreStream::ScoreStream(const ServiceContext& services, const Metrics::RpcMetrics& rpc,
                         SteadyTime deadline, Port* port)
    : OrderedStream(services, "StreamScore", rpc, deadline, port, services.stream.window_chunks) {}

void ScoreStream::Start() {
  record_.services().streams->Add(shared_from_this());
  EndStart(record_.Admit(0));
}

void ScoreStream::StartMore() { port()->StartRead(); }

void ScoreStream::ReadOn() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    busy_ = false;
  }
  Pump();
}

void ScoreStream::OnReadDone(bool ok) {
  bool take = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Touch();
    take = ok && !InputEnded();
    if (!ok) input_ended_ = true;
    if (take) BeginWork();
  }
  if (!take) return Pump();
  record_.rpc().received->Increment();
  pb::StreamScoreRequest message;
  message.Swap(&buffer_);
  bool read_on = true;
  try {
    read_on = Take(&message);
  } catch (const std::bad_alloc&) {
    EndAfterReplies(MakeError(Reason::kHostOutOfMemory, "not enough memory for this stream"));
  }
  if (read_on) ReadOn();
  EndWork();
}

bool ScoreStream::Take(pb::StreamScoreRequest* message) {
  if (message->has_open()) {
    absl::Status opened = Open(message->open());
    if (!opened.ok()) EndAfterReplies(std::move(opened));
    return true;
  }
  if (!opened_ || !message->has_chunk()) {
    EndAfterReplies(opened_ ? Protocol("chunk", "must follow")
                            : Protocol("open", "must come first"));
    return true;
  }
  Chunk* chunk = message->mutable_chunk();
  if (chunk->index() != next_index_) {
    EndAfterReplies(Protocol("chunk.index", "starts at resume_from and grows by one"));
    return true;
  }
  ++next_index_;
  const SlotPtr slot = AddSlot();
  absl::Status status;
  try {
    status = want_anomaly_ ? BeginChunk<AnomalyResult>(slot, anomaly_, chunk)
                           : BeginChunk<LogLikelihoodResult>(slot, likelihood_, chunk);
  } catch (const std::bad_alloc&) {
    status = MakeError(Reason::kHostOutOfMemory, "not enough memory for this chunk");
  }
  if (status.ok()) return false;
  Answer(slot, status);
  return true;
}

absl::Status ScoreStream::Open(const pb::StreamScoreRequest::Open& open) {
  if (opened_) return Protocol("open", "comes once");
  SetOperation(open.want_anomaly() ? Operation::kAnomaly : Operation::kLogLikelihood);
  pb::StreamScoreResponse::Opened opened;
  if (absl::Status pinned = Pin(open, &opened); !pinned.ok()) {
    record_.CountRequest(pinned);
    return pinned;
  }
  opened_ = true;
  next_index_ = open.resume_from();
  const SlotPtr slot = AddSlot();
  *slot->response.mutable_opened() = std::move(opened);
  Complete(slot, absl::OkStatus());
  return absl::OkStatus();
}

absl::Status ScoreStream::Pin(const pb::StreamScoreRequest::Open& open,
                              pb::StreamScoreResponse::Opened* opened) {
  const ServiceContext& services = record_.services();
  BFLOW_ASSIGN_OR_RETURN(ModelHandle model, FindModel(open.model(), *services.registry));
  record_.SetModel(model);
  want_anomaly_ = open.want_anomaly();
  Noise noise;
  if (want_anomaly_) {
    if (open.has_alpha()) anomaly_.set_alpha(open.alpha());
    anomaly_.set_want_contributions(open.want_contributions());
    anomaly_.set_want_attribution(open.want_attribution());
    *anomaly_.mutable_options() = StreamOptions(open.options());
    BFLOW_RETURN_IF_ERROR(CheckOpen(anomaly_, model).status());
    BFLOW_RETURN_IF_ERROR(CheckFields(open));
    noise.kind = model->scorer->signature().calibration_noise;
  } else {
    BFLOW_RETURN_IF_ERROR(CheckFields(open));
    *likelihood_.mutable_dequantization() = open.dequantization();
    *likelihood_.mutable_options() = StreamOptions(open.options());
    BFLOW_ASSIGN_OR_RETURN(const CallPlan plan, CheckOpen(likelihood_, model));
    noise = std::get<LogLikelihoodWork>(plan.task.work).noise;
    // One seed for all chunks, also where the server draws it.
    FillDequantization(noise, likelihood_.mutable_dequantization());
  }
  FillModelRef(*model, opened->mutable_model());
  opened->set_window_chunks(static_cast<uint32_t>(services.stream.window_chunks));
  opened->set_max_chunk_bytes(static_cast<uint64_t>(services.stream.max_chunk_bytes));
  FillDequantization(noise, opened->mutable_dequantization());
  return absl::OkStatus();
}

absl::Status ScoreStream::CheckData(const std::string& data) const {
  const int64_t bytes_max = record_.services().stream.max_chunk_bytes;
  if (static_cast<int64_t>(data.size()) > bytes_max) {
    return MakeError(Reason::kLimitExceeded,
                     absl::StrCat("chunk.x.data: ", data.size(), " bytes, at most ", bytes_max,
                                  " (stream.max_chunk_bytes); send smaller chunks"),
                     "chunk.x.data");
  }
  return absl::OkStatus();
}

template <typename Result, typename Request>
absl::Status ScoreStream::BeginChunk(const SlotPtr& slot, const Request& like, Chunk* chunk) {
  pb::StreamScoreResponse::Result* result = slot->response.mutable_result();
  result->set_index(chunk->index());
  if (chunk->row_keys().size() > kRowKeysMax) {
    return MakeError(
        Reason::kLimitExceeded,
        absl::StrCat("chunk.row_keys: ", chunk->row_keys().size(), " bytes, at most ", kRowKeysMax),
        "chunk.row_keys");
  }
  result->set_row_keys(std::move(*chunk->mutable_row_keys()));
  BFLOW_RETURN_IF_ERROR(CheckData(chunk->x().data()));
  auto request = std::make_shared<Request>(like);
  *request->mutable_x() = std::move(*chunk->mutable_x());
  SetFirstRow(chunk->first_row(), request.get());
  BFLOW_ASSIGN_OR_RETURN(CallPlan checked,
                         CheckCall(*request, record_.model(), record_.services().limits));
  if (chunk->first_row() >
      std::numeric_limits<uint64_t>::max() - static_cast<uint64_t>(checked.task.rows)) {
    return BadOption("chunk.first_row", "first_row and the chunk's rows exceed 2^64 - 1");
  }
  const int64_t bytes =
      static_cast<int64_t>(request->x().data().size() + result->row_keys().size()) +
      checked.memory_bytes();
  auto plan = std::make_shared<CallPlan>(std::move(checked));
  return WithRoom(slot, bytes, [this, slot, request, plan] {
    RunChunk<Result>(slot, *request, plan);
    ReadOn();
  });
}

template <typename Result, typename Request>
void ScoreStream::RunChunk(const SlotPtr& slot, const Request& request,
                           const std::shared_ptr<CallPlan>& plan) {
  const ServiceContext& services = record_.services();
  absl::Status status;
  try {
    status = DecodeInput(request.x(), *plan);
    if (status.ok()) {
      record_.AddRows(plan->task.rows);
      ScoreTask task = std::move(plan->task);
      plan->task.work = task.work;  // Reply reads the noise as used
      task.deadline = record_.deadline();
      task.cancelled = record_.cancelled();
      task.wait_for_room = true;
      task.done = [self = shared_from_this(), this, slot, plan](TaskReply reply) {
        auto* response = NumbersOf(slot->response.mutable_result(), Request());
        Answer(slot, FinishTask<Result>(*plan, std::move(reply), slot->arrived,
                                        *record_.services().clock, response));
      };
      plan->model->metrics->stages[static_cast<size_t>(Stage::kDecode)]->Observe(
          SecondsBetween(slot->arrived, services.clock->Now()));
      status = services.batcher->Submit(std::move(task));
    }
  } catch (const std::bad_alloc&) {
    status = MakeError(Reason::kHostOutOfMemory, "not enough memory for this chunk");
  }
  if (!status.ok()) Answer(slot, status);
}

void ScoreStream::Answer(const SlotPtr& slot, const absl::Status& status) {
  record_.CountRequest(status);
  const bool of_chunk = absl::IsInvalidArgument(status) || absl::IsResourceExhausted(status);
  if (of_chunk) *slot->response.mutable_result()->mutable_error() = ToRpcStatus(status);
  Complete(slot, of_chunk ? absl::OkStatus() : status);
}

}  // namespace bflow
