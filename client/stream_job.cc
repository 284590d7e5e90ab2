#include "client/stream_job.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/status.h"
#include "client/rpc_status.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/support/async_stream.h"

namespace bflow::client {

namespace v1 = ::butterflyflow::v1;

namespace {

enum class Event : intptr_t { kStarted = 1, kWritten, kRead, kFinished };

// A call's context and its events. An attempt lasts until its call has finished, so nothing is
// outstanding when this goes.
class Events {
 public:
  ~Events() { queue_.Shutdown(); }

  void* Expect(Event event) { return reinterpret_cast<void*>(event); }
  // The next event and whether its operation went well. At `limit` the call is cancelled, which
  // ends all that is outstanding.
  std::pair<Event, bool> Next(WallTime limit) {
    void* tag = nullptr;
    bool ok = false;
    if (!timed_out_ &&
        queue_.AsyncNext(&tag, &ok, limit) == grpc::CompletionQueue::NextStatus::TIMEOUT) {
      timed_out_ = true;
      context_.TryCancel();
    }
    if (tag == nullptr) queue_.Next(&tag, &ok);
    return {static_cast<Event>(reinterpret_cast<intptr_t>(tag)), ok};
  }

  grpc::ClientContext* context() { return &context_; }
  grpc::CompletionQueue* queue() { return &queue_; }
  // How the attempt ended: an error of ours, no answer in time, or what the server said.
  absl::Status End(const grpc::Status& status, const absl::Status& ours) const {
    if (!ours.ok()) return ours;
    if (timed_out_) {
      return StatusFromRpc(
          grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no answer within the deadline"));
    }
    return StatusFromRpc(status);
  }

 private:
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  bool timed_out_ = false;
};

// A lasting fault of one chunk, as the status that a unary call would have had.
absl::Status ChunkError(const google::rpc::Status& error) {
  return StatusFromRpc(grpc::Status(static_cast<grpc::StatusCode>(error.code()), error.message(),
                                    error.SerializeAsString()));
}

// One stream from the first chunk without an answer on.
class ScoreAttempt {
 public:
  ScoreAttempt(v1::FlowService::Stub* stub, const ScoreStreamJob& job, uint64_t* answered,
               Patience* patience)
      : job_(job), answered_(*answered), patience_(*patience), next_(*answered) {
    stream_ = stub->PrepareAsyncStreamScore(events_.context(), events_.queue());
  }

  absl::Status Run() {
    stream_->StartCall(events_.Expect(Event::kStarted));
    grpc::Status status;
    for (;;) {
      const auto [event, ok] = events_.Next(patience_.limit());
      if (event == Event::kFinished) return events_.End(status, error_);
      if (event == Event::kStarted && ok) Open();
      if (event == Event::kWritten && ok) WriteNext();
      if (event == Event::kRead && ok) {
        if (error_.ok()) error_ = Take();
        if (!error_.ok()) events_.context()->TryCancel();
      }
      if (event == Event::kWritten) continue;
      if (ok) {
        stream_->Read(&reply_, events_.Expect(Event::kRead));
      } else {
        stream_->Finish(&status, events_.Expect(Event::kFinished));
      }
    }
  }

 private:
  void Open() {
    *request_.mutable_open() = job_.open;
    request_.mutable_open()->set_resume_from(next_);
    stream_->Write(request_, events_.Expect(Event::kWritten));
  }
  void WriteNext() {
    if (next_ < job_.chunks) {
      *request_.mutable_chunk() = job_.chunk(next_);
      request_.mutable_chunk()->set_index(next_++);
      stream_->Write(request_, events_.Expect(Event::kWritten));
    } else if (!std::exchange(closed_, true)) {
      stream_->WritesDone(events_.Expect(Event::kWritten));
    }
  }
  absl::Status Take() {
    if (reply_.has_opened()) return job_.opened(reply_.opened());
    patience_.Progress();
    const v1::StreamScoreResponse::Result& result = reply_.result();
    if (!reply_.has_result() || result.index() != answered_) {
      return absl::InternalError("result.index: the server answered chunks out of order");
    }
    if (result.has_error()) return ChunkError(result.error());
    BFLOW_RETURN_IF_ERROR(job_.result(result));
    ++answered_;
    return absl::OkStatus();
  }

  const ScoreStreamJob& job_;
  uint64_t& answered_;
  Patience& patience_;
  uint64_t next_;  // chunk to send
  bool closed_ = false;
  absl::Status error_;  // of ours: the call is cancelled because of it
  v1::StreamScoreRequest request_;
  v1::StreamScoreResponse reply_;
  Events events_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::StreamScoreRequest, v1::StreamScoreResponse>>
      stream_;
};

// A version that was there and is gone was replaced: no other may take its place within a job.
absl::Status GoneWhileRunning(absl::Status error, bool resumed) {
  if (!resumed || !absl::IsNotFound(error)) return error;
  return absl::AbortedError("the model was replaced while the job ran; run it again");
}

// Draws `*request`'s rows and advances it by those that came.
absl::Status SampleAttempt(v1::FlowService::Stub* stub, v1::SampleRequest* request,
                           const std::function<absl::Status(const v1::SampleResponse&)>& consume,
                           Patience* patience) {
  v1::StreamSampleRequest whole;
  *whole.mutable_sample() = *request;
  v1::StreamSampleResponse reply;
  Events events;
  const auto stream = stub->PrepareAsyncStreamSample(events.context(), whole, events.queue());
  stream->StartCall(events.Expect(Event::kStarted));
  grpc::Status status;
  absl::Status error;
  for (;;) {
    const auto [event, ok] = events.Next(patience->limit());
    if (event == Event::kFinished) return events.End(status, error);
    if (event == Event::kRead && ok && error.ok()) {
      patience->Progress();
      const v1::SampleResponse& chunk = reply.chunk();
      const int64_t rows = chunk.samples().shape_size() > 0 ? chunk.samples().shape(0) : 0;
      if (rows < 1 || rows > request->num_samples() || chunk.first_row() != request->first_row()) {
        error = absl::InternalError("chunk.first_row: the server's samples are not consecutive");
      } else if (error = consume(chunk); error.ok()) {
        request->set_num_samples(request->num_samples() - static_cast<uint32_t>(rows));
        request->set_first_row(request->first_row() + static_cast<uint64_t>(rows));
      }
      if (!error.ok()) events.context()->TryCancel();
    }
    if (ok) {
      stream->Read(&reply, events.Expect(Event::kRead));
    } else {
      stream->Finish(&status, events.Expect(Event::kFinished));
    }
  }
}

}  // namespace

void Patience::Progress() {
  limit_ = Clock::Real()->WallNow() + deadline_;
  pause_ = std::chrono::milliseconds(100);
  refusal_ = absl::OkStatus();
}

bool Patience::TryAgain(absl::Status* error) {
  if (absl::IsDeadlineExceeded(*error) && !refusal_.ok()) *error = refusal_;
  if (!absl::IsUnavailable(*error) || Clock::Real()->WallNow() + pause_ >= limit_) return false;
  refusal_ = *error;
  std::this_thread::sleep_for(pause_);
  pause_ = std::min(2 * pause_, std::chrono::milliseconds(1000));
  return true;
}

absl::Status RunScoreStream(v1::FlowService::Stub* stub, const ScoreStreamJob& job,
                            absl::Duration deadline) {
  Patience patience(deadline);
  uint64_t answered = 0;
  while (answered < job.chunks) {
    absl::Status ended = ScoreAttempt(stub, job, &answered, &patience).Run();
    if (answered == job.chunks) break;  // whatever came after the last answer
    if (ended.ok()) return absl::InternalError("the server ended the stream before its end");
    if (!patience.TryAgain(&ended)) return GoneWhileRunning(std::move(ended), answered > 0);
  }
  return absl::OkStatus();
}

absl::Status RunSampleStream(v1::FlowService::Stub* stub, v1::SampleRequest request,
                             const std::function<absl::Status(const v1::SampleResponse&)>& consume,
                             absl::Duration deadline) {
  Patience patience(deadline);
  bool resumed = false;
  while (request.num_samples() > 0) {
    const uint32_t before = request.num_samples();
    absl::Status ended = SampleAttempt(stub, &request, consume, &patience);
    if (request.num_samples() == 0) break;
    if (ended.ok()) return absl::InternalError("the server ended the stream before its end");
    resumed = resumed || request.num_samples() < before;
    if (!patience.TryAgain(&ended)) return GoneWhileRunning(std::move(ended), resumed);
  }
  return absl::OkStatus();
}

}  // namespace bflow::client
