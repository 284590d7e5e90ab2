// Everything that a training run is made of between two steps, and its file: a run that goes on
// from one gives the same bits as a run that never stopped (on the CPU, with the same number of
// threads).
#ifndef BFLOW_MODEL_TRAINING_TRAIN_STATE_H_
#define BFLOW_MODEL_TRAINING_TRAIN_STATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bflow {

struct TrainState {
  std::string fingerprint;  // of data, spec and settings: a state of another run is refused
  int64_t step = 0;         // updates done
  int64_t bad_steps = 0;    // in a row, just before
  uint64_t rows_drawn = 0;  // row number of the next row's noise
  std::string generator;    // std::mt19937_64 as its stream operator writes it

  // One value per parameter of the flow, in its order; the last two may be empty.
  std::vector<float> parameters, first_moment, second_moment, average, best;
  int64_t average_updates = 0;

  int64_t best_step = 0;
  std::optional<double> best_nll, last_nll;
  double first_nll = 0;
  double interval_loss = 0;
  int64_t interval_steps = 0;
};

// The file of a model's unfinished run: REPOSITORY/.MODEL.training, no folder that a server lists.
std::string TrainStatePath(const std::string& repository, const std::string& model);

// The bytes of a safetensors file and back. Errors: DataLoss (damaged, or of another format).
absl::StatusOr<std::string> SerialiseTrainState(const TrainState& state);
absl::StatusOr<TrainState> ParseTrainState(std::string bytes);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAIN_STATE_H_
