#include "server/rpc/sample_stream.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "server/rpc/finish_task.h"

namespace bflow {

namespace pb = ::butterflyflow::v1;

namespace {

// An image can take a large part of a second: the client hears of the first ones soon.
constexpr int64_t kImagesPerChunk = 64;

}  // namespace

SampleStream::SampleStream(const ServiceContext& services, const Metrics::RpcMetrics& rpc,
                           SteadyTime deadline, Port* port)
    : OrderedStream(services, "StreamSample", rpc, deadline, port, /*window=*/2) {
  rpc.received->Increment();
  SetOperation(Operation::kSample);
}

void SampleStream::Start(const pb::SampleRequest& request) {
  record_.services().streams->Add(shared_from_this());
  absl::Status status = Check(request);
  if (!status.ok()) record_.CountRequest(status);
  EndStart(std::move(status));
}

absl::Status SampleStream::Check(const pb::SampleRequest& request) {
  const ServiceContext& services = record_.services();
  BFLOW_RETURN_IF_ERROR(record_.Admit(0));
  BFLOW_ASSIGN_OR_RETURN(ModelHandle model, FindModel(request.model(), *services.registry));
  record_.SetModel(model);
  BFLOW_ASSIGN_OR_RETURN(CallPlan plan, CheckOpen(request, std::move(model)));
  const auto reply_bytes = [&](int64_t rows) {
    CallPlan part = plan;
    SetSampleRows(request.first_row(), rows, part);
    return part.reply_bytes;
  };
  if (reply_bytes(1) > services.limits.max_reply_bytes) {
    return MakeError(
        Reason::kLimitExceeded,
        absl::StrCat("num_samples: one sample takes about ", reply_bytes(1), " bytes, at most ",
                     services.limits.max_reply_bytes, " (public.max_send_message_bytes)"),
        "num_samples");
  }
  // The whole message keeps the limit: with the default of 4 MiB it passes clients of gRPC's own.
  rows_per_chunk_ = std::clamp<int64_t>(
      (services.stream.max_chunk_bytes - reply_bytes(0)) / (reply_bytes(1) - reply_bytes(0)), 1,
      services.limits.max_samples);
  if (plan.model->scorer->signature().is_image()) {
    rows_per_chunk_ = std::min(rows_per_chunk_, kImagesPerChunk);
  }
  whole_ = std::move(plan);
  return absl::OkStatus();
}

void SampleStream::MoreWillStart() {
  starting_ = true;
  chunk_begin_ = done_;
  done_ = std::min(done_ + rows_per_chunk_, whole_->task.rows);
  if (done_ == whole_->task.rows) input_ended_ = true;
}

void SampleStream::StartMore() {
  const auto no_memory = [] {
    return MakeError(Reason::kHostOutOfMemory, "not enough memory for this chunk");
  };
  std::shared_ptr<Slot> slot;
  try {
    const uint64_t first_row = std::get<SampleWork>(whole_->task.work).options.first_row;
    auto plan = std::make_shared<CallPlan>(*whole_);
    SetSampleRows(first_row + static_cast<uint64_t>(chunk_begin_), done_ - chunk_begin_, *plan);
    slot = AddSlot();
    absl::Status status =
        WithRoom(slot, plan->memory_bytes(), [this, slot, plan] { Run(slot, plan); });
    if (!status.ok()) Complete(slot, std::move(status));
  } catch (const std::bad_alloc&) {
    slot == nullptr ? EndAfterReplies(no_memory()) : Complete(slot, no_memory());
  }
}

void SampleStream::Run(const std::shared_ptr<Slot>& slot, const std::shared_ptr<CallPlan>& plan) {
  const ServiceContext& services = record_.services();
  absl::Status status;
  try {
    record_.AddRows(plan->task.rows);
    ScoreTask task = plan->task;
    task.deadline = record_.deadline();
    task.cancelled = record_.cancelled();
    task.wait_for_room = true;
    task.done = [self = shared_from_this(), this, slot, plan](TaskReply reply) {
      const absl::Status drawn =
          FinishTask<SampleResult>(*plan, std::move(reply), slot->arrived,
                                   *record_.services().clock, slot->response.mutable_chunk());
      record_.CountRequest(drawn);
      Complete(slot, drawn);
    };
    status = services.batcher->Submit(std::move(task));
  } catch (const std::bad_alloc&) {
    status = MakeError(Reason::kHostOutOfMemory, "not enough memory for this chunk");
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    starting_ = false;
  }
  if (status.ok()) return Pump();
  record_.CountRequest(status);
  Complete(slot, status);
}

}  // namespace bflow
