#include "model/training/train_program.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <utility>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/status.h"
#include "model/checkpoint/repository.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/backend.h"
#include "model/scoring/torch_guard.h"
#include "model/training/fit_fixed_layers.h"
#include "model/training/host_parameters.h"
#include "model/training/presets.h"
#include "model/training/progress.h"
#include "model/training/run_setup.h"
#include "model/training/save_model.h"
#include "model/training/train_state.h"
#include "model/training/trainer.h"
#include "model/training/training_data.h"

namespace bflow {
namespace {

constexpr int64_t kDefaultWindow = 1024;
// A loss that far (nats per dimension) above the first one is no noise of batches.
constexpr double kMaxNllRise = 5;

int Fail(int exit_code, const absl::Status& status) {
  std::fprintf(stderr, "bflow-train: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

// Cores this process may use.
int CoreCount() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// One run from a checked command line to the model on disk.
class Run {
 public:
  Run(const TrainOptions& options, const std::atomic<bool>& stop, FileSystem& files,
      const std::string& device)
      : options_(options), stop_(stop), files_(files), device_(device) {}

  int Execute();

 private:
  // Each returns an exit code, kExitOk to go on.
  int Prepare();
  int FindState();
  int ClaimOutput();
  int Train();
  int Finish();

  // Where the checkpoint of an intermediate step goes.
  std::string StepDirectory(int64_t step) const {
    return VersionDirectory(options_.out, absl::StrCat(options_.model, "-v", version_, "-steps"),
                            step);
  }
  RunDescription Describe(int64_t steps) const;
  absl::StatusOr<TrainingOutcome> RunTrainer();
  absl::Status CheckOutcome() const;
  void SaveStep(int64_t step);
  void SaveState(TrainState state);
  void Report(const TrainingReport& report, bool interval);
  void PrintNll(const char* part, double nll) const;
  void PrintSummary(const RunDescription& run, int64_t test_rows, int64_t not_finite,
                    int64_t calibration_rows) const;

  const TrainOptions& options_;
  const std::atomic<bool>& stop_;
  FileSystem& files_;
  const at::Device device_;
  TrainingSettings settings_;
  std::unique_ptr<TrainingData> data_;
  FlowSpec spec_;
  int records_failed_ = 0;
  int64_t version_ = 0;
  std::string directory_;
  std::unique_ptr<Progress> progress_;
  std::optional<MetricsCsv> csv_;
  absl::Status csv_status_, checkpoint_status_;  // the first error of each
  std::string state_path_, fingerprint_;
  std::optional<TrainState> state_;  // to go on from
  std::shared_ptr<Flow> flow_;
  TrainingOutcome outcome_;
};

int Run::Execute() {
  for (int (Run::*stage)() :
       {&Run::Prepare, &Run::FindState, &Run::ClaimOutput, &Run::Train, &Run::Finish}) {
    if (int code = (this->*stage)(); code != kExitOk) return code;
  }
  switch (outcome_.end) {
    case TrainingEnd::kInterrupted:
      return kExitInterrupted;
    case TrainingEnd::kDiverged:
      return kExitInternal;
    case TrainingEnd::kFinished:
      break;
  }
  if (!csv_status_.ok()) return Fail(kExitCannotWrite, csv_status_);
  if (!checkpoint_status_.ok()) return Fail(kExitCannotWrite, checkpoint_status_);
  return records_failed_ > 0 ? kExitPartial : kExitOk;
}

int Run::Prepare() {
  absl::StatusOr<Preset> preset = FindPreset(options_.preset);
  if (!preset.ok()) return Fail(kExitUsage, preset.status());
  settings_ = MergeSettings(*preset, options_);
  if (settings_.schedule.warmup_steps >= settings_.steps) {
    settings_.schedule.warmup_steps = settings_.steps - 1;
  }
  absl::StatusOr<std::optional<FlowSpec>> from_file = ReadSpecFile(options_);
  if (!from_file.ok()) return Fail(kExitUsage, from_file.status());

  const int64_t window =
      *from_file ? (*from_file)->time_steps() : options_.window.value_or(kDefaultWindow);
  absl::StatusOr<TrainingData> data = LoadData(options_, window, &records_failed_);
  if (!data.ok()) return Fail(kExitBadInput, data.status());
  data_ = std::make_unique<TrainingData>(*std::move(data));
  spec_ = MakeSpec(*from_file, options_, *data_);
  if (absl::Status valid = ValidateFlowSpec(spec_); !valid.ok()) return Fail(kExitUsage, valid);
  return kExitOk;
}

int Run::FindState() {
  state_path_ = TrainStatePath(options_.out, options_.model);
  fingerprint_ = Fingerprint(options_, settings_, spec_, *data_);
  if (!FileExists(state_path_)) return kExitOk;
  if (!options_.resume) {
    std::fprintf(stderr, "starting anew; --resume would have gone on with the unfinished run\n");
    return kExitOk;
  }
  absl::StatusOr<TrainState> state = ReadTrainState(state_path_);
  if (!state.ok()) return Fail(kExitBadInput, state.status());
  if (state->fingerprint != fingerprint_) {
    return Fail(kExitUsage, absl::FailedPreconditionError(
                                "--resume: the unfinished run had other data, settings or program; "
                                "leave --resume out to start anew"));
  }
  std::fprintf(stderr, "going on after step %d\n", static_cast<int>(state->step));
  state_ = *std::move(state);
  return kExitOk;
}

void Run::SaveState(TrainState state) {
  state.fingerprint = fingerprint_;
  const absl::Status saved = WriteTrainState(files_, state_path_, state);
  // The state before is intact; the run goes on.
  if (!saved.ok()) {
    progress_->Note(absl::StrCat("state of step ", state.step, " not written: ", saved.message()));
  }
}

int Run::ClaimOutput() {
  version_ = options_.version.value_or(NextFreeVersion(options_.out, options_.model));
  directory_ = VersionDirectory(options_.out, options_.model, version_);
  if (FileExists(JoinPath(directory_, "manifest.json"))) {
    return Fail(kExitCannotWrite,
                absl::AlreadyExistsError(absl::StrCat("--version: version ", version_,
                                                      " exists and is never overwritten")));
  }
  const int64_t every = options_.checkpoint_every;
  for (int64_t step = every; every > 0 && step < settings_.steps; step += every) {
    // A run that goes on finds its own: it was killed after a checkpoint and before the next state.
    if (options_.resume && IsCheckpointOf(StepDirectory(step), fingerprint_)) continue;
    if (FileExists(JoinPath(StepDirectory(step), "manifest.json"))) {
      return Fail(kExitCannotWrite,
                  absl::AlreadyExistsError(
                      absl::StrCat("--checkpoint_every: the checkpoint of step ", step,
                                   " exists and is never overwritten; choose another --version")));
    }
  }
  if (absl::Status made = MakeDirectories(files_, options_.out); !made.ok()) {
    return Fail(kExitCannotWrite,
                absl::Status(made.code(), absl::StrCat("--out: ", made.message())));
  }
  if (access(options_.out.c_str(), W_OK | X_OK) != 0) {
    return Fail(kExitCannotWrite, absl::PermissionDeniedError("--out: the folder is not writable"));
  }
  if (!options_.metrics_csv.empty()) {
    absl::StatusOr<MetricsCsv> csv =
        MetricsCsv::Create(options_.metrics_csv, state_ ? state_->step : 0);
    if (!csv.ok()) return Fail(kExitCannotWrite, csv.status());
    csv_.emplace(*std::move(csv));
  }
  return kExitOk;
}

RunDescription Run::Describe(int64_t steps) const {
  RunDescription run;
  run.preset = options_.preset;
  run.steps = steps;
  run.seed = options_.seed;
  run.licence = options_.licence;
  run.notes = options_.notes;
  return run;
}

void Run::SaveStep(int64_t step) {
  // There already (ClaimOutput): the same bits.
  if (FileExists(JoinPath(StepDirectory(step), "manifest.json"))) return;
  RunDescription run = Describe(step);
  run.fingerprint = fingerprint_;
  const absl::Status saved = [&]() -> absl::Status {
    BFLOW_ASSIGN_OR_RETURN(const std::shared_ptr<Flow> flow, OnCpu(flow_));
    BFLOW_ASSIGN_OR_RETURN(const auto calibration, Calibrate(*flow, *data_));
    return SaveModel(files_, StepDirectory(step), *flow, *data_, run, calibration);
  }();
  if (saved.ok()) return;
  // Earlier checkpoints are intact; the run goes on, the disk may have room again at its end.
  const absl::Status failed(
      saved.code(), absl::StrCat("checkpoint of step ", step, " not written: ", saved.message()));
  progress_->Note(std::string(failed.message()));
  checkpoint_status_.Update(failed);
}

void Run::Report(const TrainingReport& report, bool interval) {
  if (interval || progress_->terminal()) progress_->Show(report);
  if (interval && csv_ && csv_status_.ok()) {
    csv_status_ = csv_->Write(report);
    if (!csv_status_.ok()) progress_->Note(std::string(csv_status_.message()));
  }
}

absl::StatusOr<TrainingOutcome> Run::RunTrainer() {
  progress_ = std::make_unique<Progress>(stderr, isatty(STDERR_FILENO) != 0, settings_.steps);
  TrainerOptions trainer_options;
  trainer_options.settings = settings_;
  trainer_options.seed = options_.seed;
  trainer_options.checkpoint_every = options_.checkpoint_every;
  if (options_.checkpoint_every > 0) trainer_options.state_every = options_.checkpoint_every;
  trainer_options.keep =
      options_.keep.value_or(data_->windows(DataPart::kValidation).empty() ? KeepCheckpoint::kLast
                                                                           : KeepCheckpoint::kBest);
  std::fprintf(stderr, "%d windows to train, %d to validate, %d to calibrate, %d to test\n",
               static_cast<int>(data_->windows(DataPart::kTrain).size()),
               static_cast<int>(data_->windows(DataPart::kValidation).size()),
               static_cast<int>(data_->windows(DataPart::kCalibration).size()),
               static_cast<int>(data_->windows(DataPart::kTest).size()));
  Trainer trainer(flow_, *data_, trainer_options);
  TrainerHooks hooks;
  hooks.stop = &stop_;
  hooks.report = [this](const TrainingReport& report, bool interval) { Report(report, interval); };
  hooks.checkpoint = [this](int64_t step) { SaveStep(step); };
  hooks.state = [this](const TrainState& state) { SaveState(state); };
  hooks.batch = [](at::Tensor* batch) {
    if (BFLOW_FAULT_FIRES("trainer.nan_batch")) {
      batch->fill_(std::numeric_limits<double>::quiet_NaN());
    }
  };
  return trainer.Run(hooks, state_ ? &*state_ : nullptr);
}

absl::Status Run::CheckOutcome() const {
  if (outcome_.steps == 0 && outcome_.end == TrainingEnd::kDiverged) {
    return absl::InternalError("model not written: no step had a finite loss and gradients");
  }
  const double reached = outcome_.validation_nll.value_or(outcome_.last_nll);
  if (outcome_.steps > 0 && !(reached <= outcome_.first_nll + kMaxNllRise)) {
    return absl::InternalError(
        "model not written: the training diverged, its loss is far above that of the first step; "
        "try a smaller --learning_rate");
  }
  return absl::OkStatus();
}

int Run::Train() {
  absl::StatusOr<std::shared_ptr<Flow>> flow = Flow::Create(spec_, options_.seed, at::kFloat);
  if (!flow.ok()) return Fail(kExitUsage, flow.status());
  flow_ = *flow;
  if (absl::Status fitted = FitFixedLayers(*flow_, *data_, options_.seed); !fitted.ok()) {
    return Fail(kExitBadInput, fitted);
  }
  flow_->MoveTo(device_);
  absl::StatusOr<TrainingOutcome> outcome = RunTrainer();
  progress_->Finish();
  if (!outcome.ok()) {
    bool bad_data = outcome.status().code() == absl::StatusCode::kInvalidArgument;
    return Fail(bad_data ? kExitBadInput : kExitInternal, outcome.status());
  }
  outcome_ = *outcome;
  // Calibration, self-test and files are the CPU's, as a loader without a GPU would compute them.
  flow = OnCpu(flow_);
  if (!flow.ok()) return Fail(kExitInternal, flow.status());
  flow_ = *flow;
  if (outcome_.end == TrainingEnd::kDiverged) {
    std::fprintf(stderr,
                 "bflow-train: training ended: the loss or the gradients of %d steps in a row were "
                 "not finite after step %d; the last good weights are those of step %d\n",
                 Trainer::kMaxBadSteps, static_cast<int>(outcome_.steps),
                 static_cast<int>(outcome_.kept_step));
  }
  if (absl::Status good = CheckOutcome(); !good.ok()) return Fail(kExitInternal, good);
  if (outcome_.end == TrainingEnd::kInterrupted) {
    std::fprintf(
        stderr,
        "interrupted after step %d; writing the model as it is (once more ends without one)\n",
        static_cast<int>(outcome_.steps));
  }
  return kExitOk;
}

void Run::PrintNll(const char* part, double nll) const {
  std::printf("%-12s %.5f nats/dim (scaled unit)", part, nll);
  if (spec_.quantised()) {
    std::printf("  %.5f nats/sample (converter step)", nll + CodeUnitOffset(spec_));
  }
  std::printf("\n");
}

int Run::Finish() {
  RunDescription run = Describe(outcome_.kept_step);
  run.validation_nll = outcome_.validation_nll;
  run.skipped_steps = outcome_.skipped_steps;
  if (outcome_.end == TrainingEnd::kInterrupted) run.ended = "interrupted";
  if (outcome_.end == TrainingEnd::kDiverged) {
    run.ended = absl::StrCat("loss or gradients of ", Trainer::kMaxBadSteps,
                             " steps in a row were not finite after step ", outcome_.steps);
  }
  int64_t test_rows = 0, not_finite = 0;
  std::vector<float> test =
      data_->Gather(DataPart::kTest, false,
                    static_cast<int64_t>(data_->windows(DataPart::kTest).size()), &test_rows);
  if (test_rows > 0) {
    absl::StatusOr<double> nll = MeanNll(*flow_, test, test_rows, options_.seed, &not_finite);
    if (!nll.ok()) return Fail(kExitInternal, nll.status());
    if (std::isfinite(*nll)) run.test_nll = *nll;
  }
  absl::StatusOr<std::optional<Calibration>> calibration = Calibrate(*flow_, *data_);
  if (!calibration.ok()) return Fail(kExitInternal, calibration.status());
  if (*calibration && 2 * (*calibration)->n() < kMinCalibrationWindows) {
    std::fprintf(stderr,
                 "warning: %d calibration windows; fewer than %d make p-values unreliable\n",
                 2 * (*calibration)->n(), static_cast<int>(kMinCalibrationWindows));
  }
  absl::Status saved = SaveModel(files_, directory_, *flow_, *data_, run, *calibration);
  if (!saved.ok()) {
    bool ours = saved.code() == absl::StatusCode::kInvalidArgument ||
                saved.code() == absl::StatusCode::kDataLoss;
    return Fail(ours ? kExitInternal : kExitCannotWrite,
                absl::Status(saved.code(), absl::StrCat("model not written: ", saved.message())));
  }
  // A run that was interrupted can go on; one that is finished has nothing to go on with.
  if (outcome_.end == TrainingEnd::kFinished) files_.RemoveFile(state_path_).IgnoreError();
  PrintSummary(run, test_rows, not_finite, *calibration ? 2 * (*calibration)->n() : 0);
  return kExitOk;
}

void Run::PrintSummary(const RunDescription& run, int64_t test_rows, int64_t not_finite,
                       int64_t calibration_rows) const {
  std::printf("%-12s %s version %d, step %d, %.1f s of training, %d steps skipped\n", "model",
              options_.model.c_str(), static_cast<int>(version_),
              static_cast<int>(outcome_.kept_step), outcome_.seconds,
              static_cast<int>(outcome_.skipped_steps));
  if (run.validation_nll) PrintNll("validation", *run.validation_nll);
  if (run.test_nll) PrintNll("test", *run.test_nll);
  if (test_rows > 0) {
    std::printf("%-12s %d windows, %d not finite\n", "test part", static_cast<int>(test_rows),
                static_cast<int>(not_finite));
  }
  std::printf("%-12s %d windows\n", "calibration", static_cast<int>(calibration_rows));
}

}  // namespace

int RunTrain(const TrainOptions& options, const std::atomic<bool>& stop, FileSystem& files) {
  // Before everything else of torch, which looks for CUDA once per process.
  const absl::StatusOr<DevicePreference> preference = ParseDevicePreference(options.device);
  if (!preference.ok()) return Fail(kExitUsage, preference.status());
  const absl::StatusOr<BackendInfo> backend = LoadBackend(*preference);
  if (!backend.ok()) return Fail(kExitConfiguration, backend.status());
  if (*preference != DevicePreference::kCpu) {
    std::fprintf(stderr, "computing on %s: %s%s%s%s\n", backend->device.c_str(),
                 backend->reason.c_str(), backend->detail.empty() ? "" : " (",
                 backend->detail.c_str(), backend->detail.empty() ? "" : ")");
  }
  at::set_num_threads(CoreCount());
  int exit_code = kExitInternal;
  absl::Status status = GuardTorch("bflow-train", [&] {
    exit_code = Run(options, stop, files, backend->device).Execute();
    return absl::OkStatus();
  });
  return status.ok() ? exit_code : Fail(kExitInternal, status);
}

}  // namespace bflow
