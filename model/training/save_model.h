// From trained weights to a complete version folder: calibration, self-test rows, model card.
#ifndef BFLOW_MODEL_TRAINING_SAVE_MODEL_H_
#define BFLOW_MODEL_TRAINING_SAVE_MODEL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_system.h"
#include "model/checkpoint/calibration.h"
#include "model/flow/flow.h"
#include "model/training/training_events.h"

namespace bflow {

// Nats per dimension in the scaled unit, means over the events whose log p is finite in all draws;
// NaN if there is none.
struct TestFigures {
  int64_t rows = 0;
  int64_t not_finite = 0;
  int64_t draws = 1;
  double nll = 0;                      // mean over draws k of -log p(x_k)
  double importance_weighted_nll = 0;  // -log mean_k p(x_k): a tighter bound on -log P(codes)
};

// What the card says of the run; the data's part of it comes from TrainingEvents.
struct RunDescription {
  std::string preset;
  int64_t steps = 0;
  uint64_t seed = 0;
  std::optional<double> validation_nll;  // nats per dimension, scaled unit
  std::optional<TestFigures> test;       // absent: no test part
  int64_t skipped_steps = 0;
  std::string ended;        // why before its time; empty: it did not
  std::string fingerprint;  // of the run that an intermediate checkpoint belongs to
  std::string licence, notes;
};

// Fewest usable calibration windows: two in each half.
inline constexpr int64_t kFewestCalibrationWindows = 4;

// The anomaly score's calibration on the calibration part: even windows are half A, odd ones half
// B, windows with a constant channel left out. nullopt where the part is empty.
absl::StatusOr<std::optional<Calibration>> Calibrate(Flow& flow, const TrainingEvents& data);

// bits_per_dim (images) or nats_per_sample_step_unit is that of the test part, or of the validation
// part where there is no test part; bits_per_dim_part or nats_per_sample_part tells which.
std::map<std::string, std::string> ModelCard(const RunDescription& run, const FlowSpec& spec,
                                             const TrainingEvents& data,
                                             const std::optional<Calibration>& calibration);

// Checks the weights as the reader would, then writes everything, the manifest last. The self-test
// rows are at most 16 windows of the calibration part, else of the validation part, else of the
// training part. Errors: those of WriteCheckpoint; DataLoss for weights that no reader would
// accept.
absl::Status SaveModel(FileSystem& files, const std::string& version_directory, Flow& flow,
                       const TrainingEvents& data, const RunDescription& run,
                       const std::optional<Calibration>& calibration);

// Whether a complete version carries this fingerprint.
bool IsCheckpointOf(const std::string& version_directory, const std::string& fingerprint);

// The smallest version above every version folder of the model, complete or not.
int64_t NextFreeVersion(const std::string& repository, const std::string& model);

// Rows of a self-test: 16, fewer where they would fill more than half of what its file may hold.
int64_t SelfTestRowCount(const FlowSpec& spec);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_SAVE_MODEL_H_
