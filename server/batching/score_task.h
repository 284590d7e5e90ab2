// One call's work on its way from the handler to the workers and back: rows, what to compute, until
// when, and the completion that is called exactly once. Nothing here knows gRPC or a tensor
// library.
#ifndef BFLOW_SERVER_BATCHING_SCORE_TASK_H_
#define BFLOW_SERVER_BATCHING_SCORE_TASK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "model/scoring/scorer.h"
#include "server/metrics/metrics.h"

namespace bflow {

struct LogLikelihoodWork {
  Noise noise;
  bool want_latent = false;
};

struct AnomalyWork {
  AnomalyOptions options;
};

struct SampleWork {
  SampleOptions options;
};

// Rows [begin, end) of the request.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
};

using TaskResult = std::variant<LogLikelihoodResult, AnomalyResult, SampleResult>;

// What `done` gets. The result has all rows of the request; rows outside the task's ranges keep
// zeros and are to be ignored.
struct TaskReply {
  absl::Status status;
  TaskResult result;
  double queue_seconds = 0;    // until the first rows were taken
  double compute_seconds = 0;  // summed over batches
  uint32_t batches = 0;
};

struct ScoreTask {
  std::shared_ptr<const Scorer> scorer;  // pins the model version
  std::shared_ptr<ModelMetrics> metrics;
  std::string model;  // queue limits count per model
  std::variant<LogLikelihoodWork, AnomalyWork, SampleWork> work;
  HostBatch x;  // empty for samples
  int64_t rows = 0;
  std::vector<RowRange> ranges;  // rows to compute, ascending; the others were found invalid
  int64_t bytes = 0;             // memory the task holds while it waits
  bool wait_for_room = false;    // a full queue is waited out instead of refusing the task
  SteadyTime deadline = SteadyTime::max();
  std::shared_ptr<std::atomic<bool>> cancelled;  // set when the client has gone
  std::function<void(TaskReply)> done;           // on a worker's thread

  Operation operation() const { return static_cast<Operation>(work.index()); }
};

}  // namespace bflow

#endif  // BFLOW_SERVER_BATCHING_SCORE_TASK_H_
