#include "server/exec/worker_pool.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <new>
#include <string>
#include <utility>

#include "server/exec/reason.h"

namespace bflow {
namespace {

absl::Status FromScorer(const absl::Status& status) {
  if (status.ok()) return status;
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    return MakeError(Reason::kHostOutOfMemory, "not enough memory for this request");
  }
  return MakeError(Reason::kInternal, "internal error while scoring");
}

template <typename T>
bool CopyRows(const std::vector<T>& from, std::vector<T>& to, const RowRange& rows) {
  if (to.empty()) return true;
  const size_t count = static_cast<size_t>(rows.end - rows.begin);
  const size_t width = from.size() / count;
  const size_t begin = static_cast<size_t>(rows.begin) * width;
  if (from.size() != width * count || begin + from.size() > to.size()) return false;
  std::copy(from.begin(), from.end(), to.begin() + static_cast<std::ptrdiff_t>(begin));
  return true;
}

bool Merge(const LogLikelihoodResult& from, LogLikelihoodResult& to, const RowRange& rows) {
  return CopyRows(from.log_prob, to.log_prob, rows) &&
         CopyRows(from.log_prob_mean, to.log_prob_mean, rows) &&
         CopyRows(from.latent, to.latent, rows) && CopyRows(from.status, to.status, rows);
}

bool Merge(const AnomalyResult& from, AnomalyResult& to, const RowRange& rows) {
  return CopyRows(from.log_prob, to.log_prob, rows) && CopyRows(from.score, to.score, rows) &&
         CopyRows(from.p_value, to.p_value, rows) &&
         CopyRows(from.score_ratio, to.score_ratio, rows) &&
         CopyRows(from.nll_rank, to.nll_rank, rows) &&
         CopyRows(from.typicality, to.typicality, rows) &&
         CopyRows(from.contributions, to.contributions, rows) &&
         CopyRows(from.attribution, to.attribution, rows) &&
         CopyRows(from.attribution_cause, to.attribution_cause, rows) &&
         CopyRows(from.status, to.status, rows);
}

bool Merge(const SampleResult& from, SampleResult& to, const RowRange& rows) {
  return CopyRows(from.samples, to.samples, rows) && CopyRows(from.log_prob, to.log_prob, rows);
}

template <typename Result>
absl::Status Store(absl::StatusOr<Result> result, RunningTask& running, const RowRange& rows) {
  if (!result.ok()) return FromScorer(result.status());
  Result& whole = std::get<Result>(running.reply.result);
  if (rows.begin == 0 && rows.end == running.task.rows) {
    whole = *std::move(result);
    return absl::OkStatus();
  }
  if (!Merge(*result, whole, rows)) {
    return MakeError(Reason::kInternal, "internal error while scoring");
  }
  return absl::OkStatus();
}

// The rows of a batch; the request's own values where the batch is the whole request.
HostBatch TakeRows(ScoreTask& task, const RowRange& rows) {
  if (rows.begin == 0 && rows.end == task.rows) return std::move(task.x);
  const int64_t width = task.scorer->signature().event_size();
  HostBatch part;
  part.rows = rows.end - rows.begin;
  part.values.assign(task.x.values.begin() + rows.begin * width,
                     task.x.values.begin() + rows.end * width);
  return part;
}

absl::Status RunUnguarded(RunningTask& running, const RowRange& rows) {
  ScoreTask& task = running.task;
  if (const auto* work = std::get_if<SampleWork>(&task.work)) {
    SampleOptions options = work->options;
    options.rows = rows.end - rows.begin;
    options.first_row += static_cast<uint64_t>(rows.begin);
    return Store(task.scorer->Sample(options), running, rows);
  }
  const HostBatch x = TakeRows(task, rows);
  if (const auto* work = std::get_if<LogLikelihoodWork>(&task.work)) {
    Noise noise = work->noise;
    noise.row_offset += static_cast<uint64_t>(rows.begin);
    return Store(task.scorer->LogLikelihood(x, noise, work->want_latent), running, rows);
  }
  return Store(task.scorer->Anomaly(x, std::get<AnomalyWork>(task.work).options), running, rows);
}

}  // namespace

absl::Status RunBatch(const Batch& batch) {
  try {
    return RunUnguarded(*batch.task, batch.rows);
  } catch (const std::bad_alloc&) {
    return MakeError(Reason::kHostOutOfMemory, "not enough memory for this request");
  }
}

WorkerPool::WorkerPool(Batcher* batcher, int threads, const Clock* clock)
    : batcher_(batcher), clock_(clock) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkerPool::~WorkerPool() {
  batcher_->Stop();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Run() {
  while (std::optional<Batch> batch = batcher_->Next()) {
    const SteadyTime start = clock_->Now();
    const absl::Status status = RunBatch(*batch);
    const double seconds = SecondsBetween(start, clock_->Now());
    const ScoreTask& task = batch->task->task;
    const size_t operation = static_cast<size_t>(task.operation());
    const double rows = static_cast<double>(batch->rows.end - batch->rows.begin);
    task.metrics->batches[operation]->Increment();
    task.metrics->batch_rows[operation]->Observe(rows);
    if (status.ok()) task.metrics->rows[operation]->Increment(rows);
    batcher_->Complete(*batch, status, seconds);
  }
}

int GrantedCores() {
  int cores = 1;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = std::max(1, CPU_COUNT(&set));
  std::ifstream file("/sys/fs/cgroup/cpu.max");  // "QUOTA PERIOD" or "max PERIOD"
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) {
    const double granted = std::ceil(std::strtod(quota.c_str(), nullptr) / period);
    if (granted >= 1) cores = std::min(cores, static_cast<int>(granted));
  }
  return cores;
}

}  // namespace bflow
