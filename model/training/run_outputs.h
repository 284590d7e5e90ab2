// What a run writes besides its model, and where: progress, metrics, checkpoints of intermediate
// steps, states to go on from, pictures of samples. While it trains an error of one of them is told
// at once and the run goes on: what was written before is intact, and the disk may have room again.
#ifndef BFLOW_MODEL_TRAINING_RUN_OUTPUTS_H_
#define BFLOW_MODEL_TRAINING_RUN_OUTPUTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/file_system.h"
#include "model/flow/flow.h"
#include "model/training/options.h"
#include "model/training/progress.h"
#include "model/training/save_model.h"
#include "model/training/train_state.h"
#include "model/training/trainer.h"
#include "model/training/training_events.h"

namespace bflow {

// What is known of a run before it ends.
RunDescription DescribeRun(const TrainOptions& options, int64_t steps);

class RunOutputs {
 public:
  // `options` and `files` must outlive this.
  RunOutputs(const TrainOptions& options, FileSystem& files, std::string fingerprint);

  // Finds the version of the model, makes folders, opens the metrics file: of a run of `steps`
  // steps that goes on after step `through` (0: from the start). Errors: AlreadyExists (a version
  // or checkpoint, never overwritten), PermissionDenied, ResourceExhausted; all name the flag.
  absl::Status Claim(int64_t steps, int64_t through);

  int64_t version() const { return version_; }
  const std::string& directory() const { return directory_; }  // of the version
  const std::string& state_path() const { return state_path_; }

  // Hooks that write; flow and data must outlive them.
  TrainerHooks Hooks(const std::shared_ptr<Flow>& flow, const TrainingEvents& data);
  // Ends the progress line.
  void Finish() { progress_->Finish(); }
  // The first error that a run ends with; a state that could not be written is told only.
  absl::Status status() const;

 private:
  // Where the checkpoint of an intermediate step goes.
  std::string StepDirectory(int64_t step) const;
  absl::Status ClaimCheckpoints(int64_t steps) const;
  void SaveStep(const std::shared_ptr<Flow>& flow, const TrainingEvents& data, int64_t step);
  void SaveState(TrainState state);
  void SaveSamples(Flow& flow, int64_t step);
  void Report(const TrainingReport& report, bool interval);

  const TrainOptions& options_;
  FileSystem& files_;
  const std::string fingerprint_;
  int64_t version_ = 0;
  std::string directory_, state_path_;
  std::unique_ptr<Progress> progress_;
  std::optional<MetricsCsv> csv_;
  absl::Status csv_status_, checkpoint_status_, sample_status_;  // the first error of each
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_RUN_OUTPUTS_H_
