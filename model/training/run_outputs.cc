#include "model/training/run_outputs.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "model/checkpoint/repository.h"
#include "model/training/flat_parameters.h"
#include "model/training/sample_picture.h"

namespace bflow {
namespace {

absl::Status Named(const char* flag, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(flag, ": ", status.message()));
}

}  // namespace

RunDescription DescribeRun(const TrainOptions& options, int64_t steps) {
  RunDescription run;
  run.preset = options.preset;
  run.steps = steps;
  run.seed = options.seed;
  run.licence = options.licence;
  run.notes = options.notes;
  return run;
}

RunOutputs::RunOutputs(const TrainOptions& options, FileSystem& files, std::string fingerprint)
    : options_(options),
      files_(files),
      fingerprint_(std::move(fingerprint)),
      version_(options.version.value_or(NextFreeVersion(options.out, options.model))),
      directory_(VersionDirectory(options.out, options.model, version_)),
      state_path_(TrainStatePath(options.out, options.model)) {}

std::string RunOutputs::StepDirectory(int64_t step) const {
  return VersionDirectory(options_.out, absl::StrCat(options_.model, "-v", version_, "-steps"),
                          step);
}

absl::Status RunOutputs::ClaimCheckpoints(int64_t steps) const {
  const int64_t every = options_.checkpoint_every;
  for (int64_t step = every; every > 0 && step < steps; step += every) {
    // A run that goes on finds its own: it was killed after a checkpoint and before the next state.
    if (options_.resume && IsCheckpointOf(StepDirectory(step), fingerprint_)) continue;
    if (FileExists(JoinPath(StepDirectory(step), "manifest.json"))) {
      return absl::AlreadyExistsError(
          absl::StrCat("--checkpoint_every: the checkpoint of step ", step,
                       " exists and is never overwritten; choose another --version"));
    }
  }
  return absl::OkStatus();
}

absl::Status RunOutputs::Claim(int64_t steps, int64_t through) {
  if (FileExists(JoinPath(directory_, "manifest.json"))) {
    return absl::AlreadyExistsError(
        absl::StrCat("--version: version ", version_, " exists and is never overwritten"));
  }
  BFLOW_RETURN_IF_ERROR(ClaimCheckpoints(steps));
  BFLOW_RETURN_IF_ERROR(Named("--out", MakeDirectories(files_, options_.out)));
  if (access(options_.out.c_str(), W_OK | X_OK) != 0) {
    return absl::PermissionDeniedError("--out: the folder is not writable");
  }
  if (const std::string& folder = options_.image.sample_dir; !folder.empty()) {
    BFLOW_RETURN_IF_ERROR(Named("--sample_dir", MakeDirectories(files_, folder)));
  }
  if (!options_.metrics_csv.empty()) {
    BFLOW_ASSIGN_OR_RETURN(csv_, MetricsCsv::Create(options_.metrics_csv, through));
  }
  progress_ = std::make_unique<Progress>(stderr, isatty(STDERR_FILENO) != 0, steps);
  return absl::OkStatus();
}

TrainerHooks RunOutputs::Hooks(const std::shared_ptr<Flow>& flow, const TrainingEvents& data) {
  TrainerHooks hooks;
  hooks.report = [this](const TrainingReport& report, bool interval) { Report(report, interval); };
  hooks.checkpoint = [this, flow, &data](int64_t step) { SaveStep(flow, data, step); };
  hooks.sample = [this, flow](int64_t step) { SaveSamples(*flow, step); };
  hooks.state = [this](const TrainState& state) { SaveState(state); };
  return hooks;
}

void RunOutputs::SaveState(TrainState state) {
  state.fingerprint = fingerprint_;
  const absl::Status saved = WriteTrainState(files_, state_path_, state);
  if (!saved.ok()) {
    progress_->Note(absl::StrCat("state of step ", state.step, " not written: ", saved.message()));
  }
}

void RunOutputs::SaveStep(const std::shared_ptr<Flow>& flow, const TrainingEvents& data,
                          int64_t step) {
  // There already (ClaimCheckpoints): the same bits.
  if (FileExists(JoinPath(StepDirectory(step), "manifest.json"))) return;
  RunDescription run = DescribeRun(options_, step);
  run.fingerprint = fingerprint_;
  const absl::Status saved = [&]() -> absl::Status {
    BFLOW_ASSIGN_OR_RETURN(const auto calibration, Calibrate(*flow, data));
    BFLOW_ASSIGN_OR_RETURN(const std::shared_ptr<Flow> on_cpu, OnCpu(flow));
    return SaveModel(files_, StepDirectory(step), *on_cpu, data, run, calibration);
  }();
  if (saved.ok()) return;
  const absl::Status failed(
      saved.code(), absl::StrCat("checkpoint of step ", step, " not written: ", saved.message()));
  progress_->Note(std::string(failed.message()));
  checkpoint_status_.Update(failed);
}

void RunOutputs::SaveSamples(Flow& flow, int64_t step) {
  const std::string name = absl::StrFormat("step-%08d.png", step);
  const absl::Status saved =
      WriteSamplePicture(flow, options_.seed, JoinPath(options_.image.sample_dir, name));
  if (saved.ok()) return;
  const absl::Status failed(saved.code(), absl::StrCat("--sample_dir: samples of step ", step,
                                                       " not written: ", saved.message()));
  progress_->Note(std::string(failed.message()));
  sample_status_.Update(failed);
}

void RunOutputs::Report(const TrainingReport& report, bool interval) {
  if (interval || progress_->terminal()) progress_->Show(report);
  if (interval && csv_ && csv_status_.ok()) {
    csv_status_ = csv_->Write(report);
    if (!csv_status_.ok()) progress_->Note(std::string(csv_status_.message()));
  }
}

absl::Status RunOutputs::status() const {
  absl::Status first = csv_status_;
  first.Update(checkpoint_status_);
  first.Update(sample_status_);
  return first;
}

}  // namespace bflow
