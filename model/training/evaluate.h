// The likelihood of the test part, and what a run prints in the end.
#ifndef BFLOW_MODEL_TRAINING_EVALUATE_H_
#define BFLOW_MODEL_TRAINING_EVALUATE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/flow/flow.h"
#include "model/training/save_model.h"
#include "model/training/trainer.h"
#include "model/training/training_events.h"

namespace bflow {

// Of `rows` events (codes) with draws 0 .. draws - 1 of the noise of `seed`; draw 0 is MeanNll's. A
// flow that is not quantised takes no noise, and one draw. Once `stop` (may be null) is set, the
// figures are those of the events done by then. Errors: those of RunPass.
absl::StatusOr<TestFigures> EvaluateDraws(Flow& flow, const std::vector<float>& codes, int64_t rows,
                                          uint64_t seed, int64_t draws,
                                          const std::atomic<bool>* stop = nullptr);

struct RunSummary {
  std::string model;
  int64_t version = 0;
  TrainingOutcome outcome;
  RunDescription run;
  int64_t calibration_rows = 0;
  std::string noun;  // TrainingEvents
};

// To stdout.
void PrintSummary(const RunSummary& summary, const FlowSpec& spec);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_EVALUATE_H_
