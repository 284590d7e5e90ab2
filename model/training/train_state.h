// Everything that a training run is made of between two steps, and its file: a run that goes on
// from one gives the same bits as a run that never stopped (on the CPU, with the same number of
// threads). Torch-free.
#ifndef BFLOW_MODEL_TRAINING_TRAIN_STATE_H_
#define BFLOW_MODEL_TRAINING_TRAIN_STATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_system.h"

namespace bflow {

struct TrainState {
  std::string fingerprint;    // of data, spec and settings: a state of another run is refused
  int64_t step = 0;           // updates done
  int64_t bad_steps = 0;      // in a row, just before
  int64_t skipped_steps = 0;  // bad ones in all
  uint64_t rows_drawn = 0;    // row number of the next row's noise
  std::string generator;      // std::mt19937_64 as its stream operator writes it

  // One value per parameter of the flow, in its order. Where two optimisers take turns, the moments
  // are the first one's, then the second one's, and the average has a value per butterfly weight.
  // Average and best may be empty.
  std::vector<float> parameters, first_moment, second_moment, average, best;
  int64_t average_updates = 0;

  int64_t best_step = 0;
  std::optional<double> best_nll, last_nll;
  double first_nll = 0;
  double interval_loss = 0;  // sums since the last report
  double interval_gradient_norm = 0;
  int64_t interval_steps = 0;
  double seconds = 0;  // of training
};

// The file of a model's unfinished run: REPOSITORY/.MODEL.training, no folder that a server lists.
std::string TrainStatePath(const std::string& repository, const std::string& model);

// The bytes of a safetensors file and back. Errors: DataLoss (damaged, or of another format).
absl::StatusOr<std::string> SerialiseTrainState(const TrainState& state);
absl::StatusOr<TrainState> ParseTrainState(std::string bytes);

// The file, written whole or not at all (base/file.h), readable by its owner only. Errors: those of
// WriteFileAtomically.
absl::Status WriteTrainState(FileSystem& files, const std::string& path, const TrainState& state);
// Errors: DataLoss, NotFound, Internal.
absl::StatusOr<TrainState> ReadTrainState(const std::string& path);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAIN_STATE_H_
