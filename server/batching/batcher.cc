#include "server/batching/batcher.h"

#include <algorithm>
#include <set>
#include <utility>

#include "server/exec/reason.h"

namespace bflow {
namespace {

// Rows of batches not handed out yet.
int64_t WaitingRows(const RunningTask& running) {
  int64_t rows = 0;
  for (size_t i = running.next_batch; i < running.batches.size(); ++i) {
    rows += running.batches[i].end - running.batches[i].begin;
  }
  return rows;
}

std::vector<RowRange> Split(const std::vector<RowRange>& ranges, int64_t rows_max) {
  std::vector<RowRange> batches;
  for (const RowRange& range : ranges) {
    for (int64_t begin = range.begin; begin < range.end; begin += rows_max) {
      batches.push_back({begin, std::min(range.end, begin + rows_max)});
    }
  }
  return batches;
}

// Result with room for every row, so that workers write without a lock.
TaskResult EmptyResult(const ScoreTask& task) {
  const size_t rows = static_cast<size_t>(task.rows);
  const ModelSignature& signature = task.scorer->signature();
  const size_t event = static_cast<size_t>(signature.event_size());
  if (const auto* work = std::get_if<LogLikelihoodWork>(&task.work)) {
    LogLikelihoodResult result;
    result.log_prob.resize(rows);
    result.status.resize(rows);
    if (work->noise.draws > 1) result.log_prob_mean.resize(rows);
    if (work->want_latent) result.latent.resize(rows * event);
    return result;
  }
  if (const auto* work = std::get_if<AnomalyWork>(&task.work)) {
    AnomalyResult result;
    for (auto* values : {&result.log_prob, &result.score, &result.p_value, &result.score_ratio,
                         &result.nll_rank}) {
      values->resize(rows);
    }
    result.typicality.resize(rows);
    result.status.resize(rows);
    if (work->options.want_contributions) {
      result.contributions.resize(rows * signature.feature_names.size());
    }
    if (work->options.want_attribution) {
      const size_t entries = static_cast<size_t>(signature.attribution_entries());
      result.attribution.resize(rows * entries);
      result.attribution_cause.resize(rows * entries);
    }
    return result;
  }
  SampleResult result;
  result.samples.resize(rows * event);
  if (std::get<SampleWork>(task.work).options.want_log_prob) result.log_prob.resize(rows);
  return result;
}

}  // namespace

absl::Status Batcher::DeadStatus(const ScoreTask& task) const {
  if (task.cancelled && task.cancelled->load(std::memory_order_relaxed)) {
    return MakeError(Reason::kClientGone, "the client has cancelled the call");
  }
  if (clock_->Now() >= task.deadline) {
    return MakeError(Reason::kExpired, "the deadline passed before the work was done");
  }
  return absl::OkStatus();
}

bool Batcher::HasRoom(const ScoreTask& task) const {
  const auto found = loads_.find(task.model);
  const Load load = found == loads_.end() ? Load{} : found->second;
  // A task larger than the whole queue may run alone.
  if (load.rows == 0) return true;
  return load.rows + task.rows <= options_.max_queue_rows &&
         load.bytes + task.bytes <= options_.max_queue_bytes;
}

absl::Status Batcher::MakeRoom(const ScoreTask& task, Finished* finished) {
  if (stopped_) return MakeError(Reason::kDraining, "the server is shutting down");
  if (!HasRoom(task)) SweepDead(finished);
  if (HasRoom(task)) return absl::OkStatus();
  return MakeError(Reason::kQueueFull,
                   "the model's queue is full: batching.max_queue_rows or max_queue_bytes");
}

void Batcher::EnterQueue(const std::shared_ptr<RunningTask>& running) {
  const int64_t rows = WaitingRows(*running);
  Load& load = loads_[running->task.model];
  load.rows += rows;
  load.bytes += running->task.bytes;
  ModelMetrics& metrics = *running->task.metrics;
  metrics.queue_rows->Increment(static_cast<double>(rows));
  metrics.queue_bytes->Increment(static_cast<double>(running->task.bytes));
  metrics.queue_limit_rows->Set(static_cast<double>(options_.max_queue_rows));
  running->queued = true;
  queue_.push_back(running);
  running->batches.size() > 1 ? work_ready_.notify_all() : work_ready_.notify_one();
}

void Batcher::OpenDoor() {
  std::set<std::string> full;
  std::erase_if(door_, [&](const std::shared_ptr<RunningTask>& running) {
    const std::string& model = running->task.model;
    if (full.count(model) > 0 || !HasRoom(running->task)) {
      full.insert(model);
      return false;
    }
    EnterQueue(running);
    return true;
  });
}

absl::Status Batcher::Enqueue(const std::shared_ptr<RunningTask>& running, Finished* finished) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (absl::Status full = MakeRoom(running->task, finished); !full.ok()) {
    if (stopped_ || !running->task.wait_for_room) return full;
    door_.push_back(running);
    return absl::OkStatus();
  }
  EnterQueue(running);
  return absl::OkStatus();
}

absl::Status Batcher::Submit(ScoreTask task) {
  if (absl::Status dead = DeadStatus(task); !dead.ok()) return dead;
  Finished finished;
  if (!task.ranges.empty() && !task.wait_for_room) {
    // Also before the result is allocated: a full queue must refuse at no cost.
    absl::Status full;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      full = MakeRoom(task, &finished);
    }
    CallDone(std::exchange(finished, {}));
    if (!full.ok()) return full;
  }
  auto running = std::make_shared<RunningTask>();
  running->batches =
      Split(task.ranges, task.scorer->signature().batch_rows(options_.batch_rows_max));
  running->reply.result = EmptyResult(task);
  running->task = std::move(task);
  running->submitted = clock_->Now();
  if (running->batches.empty()) {
    running->task.done(std::move(running->reply));
    return absl::OkStatus();
  }
  absl::Status status = Enqueue(running, &finished);
  CallDone(finished);
  return status;
}

void Batcher::LeaveQueue(RunningTask& running) {
  if (!running.queued) return;
  running.queued = false;
  const int64_t rows = WaitingRows(running);
  Load& load = loads_[running.task.model];
  load.rows -= rows;
  load.bytes -= running.task.bytes;
  running.task.metrics->queue_rows->Decrement(static_cast<double>(rows));
  running.task.metrics->queue_bytes->Decrement(static_cast<double>(running.task.bytes));
  if (load.rows <= 0) loads_.erase(running.task.model);
}

void Batcher::Drop(const std::shared_ptr<RunningTask>& running, absl::Status status,
                   Finished* finished) {
  const double rows = static_cast<double>(WaitingRows(*running));
  if (status.code() == absl::StatusCode::kCancelled) {
    running->task.metrics->cancelled_rows_saved->Increment(rows);
  } else if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    running->task.metrics->deadline_dropped_rows->Increment(rows);
  }
  LeaveQueue(*running);
  running->next_batch = running->batches.size();
  if (running->reply.status.ok()) running->reply.status = std::move(status);
  if (running->outstanding == 0) finished->push_back(running);
}

void Batcher::SweepDead(Finished* finished) {
  for (auto* waiting : {&queue_, &door_}) {
    std::erase_if(*waiting, [&](const std::shared_ptr<RunningTask>& running) {
      absl::Status dead = DeadStatus(running->task);
      if (dead.ok()) return false;
      Drop(running, std::move(dead), finished);
      return true;
    });
  }
}

std::optional<Batch> Batcher::Next() {
  for (;;) {
    Finished finished;
    std::optional<Batch> batch;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      work_ready_.wait(lock, [&] { return stopped_ || !queue_.empty(); });
      if (stopped_) return std::nullopt;
      std::shared_ptr<RunningTask> running = queue_.front();
      if (absl::Status dead = DeadStatus(running->task); !dead.ok()) {
        queue_.pop_front();
        Drop(running, std::move(dead), &finished);
        OpenDoor();
      } else {
        if (running->next_batch == 0) {
          running->reply.queue_seconds = SecondsBetween(running->submitted, clock_->Now());
          running->task.metrics->queue_wait->Observe(running->reply.queue_seconds);
        }
        const RowRange rows = running->batches[running->next_batch++];
        const int64_t count = rows.end - rows.begin;
        ++running->outstanding;
        loads_[running->task.model].rows -= count;
        running->task.metrics->queue_rows->Decrement(static_cast<double>(count));
        if (running->next_batch == running->batches.size()) {
          queue_.pop_front();
          LeaveQueue(*running);
        }
        OpenDoor();
        batch = Batch{std::move(running), rows};
      }
    }
    CallDone(finished);
    if (batch) return batch;
  }
}

void Batcher::Complete(const Batch& batch, const absl::Status& status, double compute_seconds) {
  RunningTask& running = *batch.task;
  Finished finished;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    --running.outstanding;
    running.reply.compute_seconds += compute_seconds;
    ++running.reply.batches;
    if (!status.ok() && running.queued) {
      std::erase(queue_, batch.task);
      LeaveQueue(running);
      OpenDoor();
      running.next_batch = running.batches.size();
    }
    if (!status.ok() && running.reply.status.ok()) running.reply.status = status;
    if (running.outstanding == 0 && running.next_batch == running.batches.size()) {
      finished.push_back(batch.task);
    }
  }
  CallDone(finished);
}

void Batcher::CallDone(const Finished& finished) {
  for (const std::shared_ptr<RunningTask>& running : finished) {
    running->task.done(std::move(running->reply));
  }
}

void Batcher::Stop() {
  Finished finished;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    for (auto* waiting : {&queue_, &door_}) {
      for (const std::shared_ptr<RunningTask>& running : std::exchange(*waiting, {})) {
        Drop(running, MakeError(Reason::kDraining, "the server is shutting down"), &finished);
      }
    }
  }
  work_ready_.notify_all();
  CallDone(finished);
}

int64_t Batcher::queue_rows() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t rows = 0;
  for (const auto& [model, load] : loads_) rows += load.rows;
  return rows;
}

}  // namespace bflow
