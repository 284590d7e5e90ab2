// The fixed threads that run all model code: each takes the next batch, scores it, writes the rows
// into the task's result and hands the batch back.
#ifndef BFLOW_SERVER_EXEC_WORKER_POOL_H_
#define BFLOW_SERVER_EXEC_WORKER_POOL_H_

#include <thread>
#include <vector>

#include "base/clock.h"
#include "server/batching/batcher.h"

namespace bflow {

class WorkerPool {
 public:
  // `batcher` outlives the pool. Throws std::system_error if the system has no threads left.
  WorkerPool(Batcher* batcher, int threads, const Clock* clock);
  // Stops the batcher and waits for the batches in work.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

 private:
  void Run();

  Batcher* const batcher_;
  const Clock* const clock_;
  std::vector<std::thread> threads_;
};

// Scores rows of a task into its result. Errors: HOST_OUT_OF_MEMORY, INTERNAL.
absl::Status RunBatch(const Batch& batch);

// Cores granted to this process: the smallest of its affinity mask and its control group's quota
// (rounded up), at least 1.
int GrantedCores();

}  // namespace bflow

#endif  // BFLOW_SERVER_EXEC_WORKER_POOL_H_
