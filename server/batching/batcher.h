// The bounded first-come queue between the handlers and the workers. A worker takes the next rows
// of the oldest task, at most `batch_rows_max` of them, so a large request is shared by idle
// workers and its deadline and cancellation are looked at between batches: rows nobody waits for
// are dropped and counted. Chunks of streams wait at the door of a full queue, where each stream
// has no more than its window; everybody else is refused.
#ifndef BFLOW_SERVER_BATCHING_BATCHER_H_
#define BFLOW_SERVER_BATCHING_BATCHER_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "server/batching/score_task.h"

namespace bflow {

struct BatcherOptions {
  int64_t max_queue_rows = 65'536;               // waiting, per model
  int64_t max_queue_bytes = int64_t{512} << 20;  // waiting, per model
  int64_t batch_rows_max = 128;
};

// A task between Submit and done. Workers write disjoint row ranges of `reply.result`; everything
// else is the Batcher's, under its lock.
struct RunningTask {
  ScoreTask task;
  TaskReply reply;
  std::vector<RowRange> batches;
  size_t next_batch = 0;
  size_t outstanding = 0;  // batches at workers
  bool queued = false;     // in the queue, and so in its counters
  SteadyTime submitted;
};

struct Batch {
  std::shared_ptr<RunningTask> task;
  RowRange rows;
};

class Batcher {
 public:
  Batcher(const BatcherOptions& options, const Clock* clock) : options_(options), clock_(clock) {}

  // Takes the task or refuses it at once: QUEUE_FULL (never with wait_for_room), EXPIRED,
  // CLIENT_GONE, DRAINING (after Stop); `done` is called only if it was taken. A task without rows
  // to compute is done before Submit returns.
  absl::Status Submit(ScoreTask task);

  // Waits for rows to compute; nullopt after Stop. Dropped tasks are completed on the way.
  std::optional<Batch> Next();

  // Every batch from Next comes back here once. The last one calls the task's `done`.
  void Complete(const Batch& batch, const absl::Status& status, double compute_seconds);

  // Queued tasks are done with DRAINING, workers waiting in Next leave.
  void Stop();

  int64_t queue_rows() const;

 private:
  struct Load {
    int64_t rows = 0;
    int64_t bytes = 0;
  };
  using Finished = std::vector<std::shared_ptr<RunningTask>>;

  // Under the lock. Drop takes the task off the queue with a status; Finished gets it if no worker
  // has it.
  void Drop(const std::shared_ptr<RunningTask>& running, absl::Status status, Finished* finished);
  void LeaveQueue(RunningTask& running);
  void EnterQueue(const std::shared_ptr<RunningTask>& running);
  // Those at the door go in as far as there is room, first come first served per model.
  void OpenDoor();
  void SweepDead(Finished* finished);
  static void CallDone(const Finished& finished);
  bool HasRoom(const ScoreTask& task) const;
  // Error: stopped, or no room even without the dead work.
  absl::Status MakeRoom(const ScoreTask& task, Finished* finished);

  absl::Status Enqueue(const std::shared_ptr<RunningTask>& running, Finished* finished);
  absl::Status DeadStatus(const ScoreTask& task) const;

  const BatcherOptions options_;
  const Clock* const clock_;
  mutable std::mutex mutex_;
  std::condition_variable work_ready_;
  std::deque<std::shared_ptr<RunningTask>> queue_;
  std::deque<std::shared_ptr<RunningTask>> door_;
  std::map<std::string, Load> loads_;
  bool stopped_ = false;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_BATCHING_BATCHER_H_
