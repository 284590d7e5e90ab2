#include "model/training/train_program.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <utility>

#include "ATen/Context.h"
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
#include "model/training/evaluate.h"
#include "model/training/fit_fixed_layers.h"
#include "model/training/flat_parameters.h"
#include "model/training/load_data.h"
#include "model/training/presets.h"
#include "model/training/run_outputs.h"
#include "model/training/run_setup.h"
#include "model/training/save_model.h"
#include "model/training/train_state.h"
#include "model/training/trainer.h"
#include "model/training/training_data.h"
#include "model/training/training_events.h"

namespace bflow {
namespace {

constexpr int64_t kDefaultWindow = 1024;
constexpr int64_t kImageDraws = 8;  // as in the paper
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

  absl::StatusOr<TrainingOutcome> RunTrainer();
  absl::Status CheckOutcome() const;
  absl::Status EvaluateTest(RunDescription* run);

  const TrainOptions& options_;
  const std::atomic<bool>& stop_;
  FileSystem& files_;
  const at::Device device_;
  TrainingSettings settings_;
  std::unique_ptr<TrainingEvents> data_;
  FlowSpec spec_;
  int records_failed_ = 0;
  std::string fingerprint_;
  std::unique_ptr<RunOutputs> outputs_;
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
  if (absl::Status written = outputs_->status(); !written.ok()) {
    return Fail(kExitCannotWrite, written);
  }
  return records_failed_ > 0 ? kExitPartial : kExitOk;
}

int Run::Prepare() {
  absl::StatusOr<Preset> preset = FindPreset(options_.preset);
  if (!preset.ok()) return Fail(kExitUsage, preset.status());
  settings_ = MergeSettings(*preset, options_);
  if (settings_.schedule.warmup_steps >= settings_.steps) {
    settings_.schedule.warmup_steps = settings_.steps - 1;
  }
  absl::StatusOr<std::optional<FlowSpec>> from_file = ReadSpecFile(*preset, options_);
  if (!from_file.ok()) return Fail(kExitUsage, from_file.status());

  absl::StatusOr<std::unique_ptr<TrainingEvents>> data =
      preset->image ? LoadImages(options_, *preset->image)
                    : LoadWaveforms(options_,
                                    *from_file ? (*from_file)->time_steps()
                                               : options_.window.value_or(kDefaultWindow),
                                    &records_failed_);
  if (!data.ok()) return Fail(kExitBadInput, data.status());
  data_ = *std::move(data);
  absl::StatusOr<FlowSpec> spec = MakeSpec(*preset, *from_file, options_, *data_);
  if (!spec.ok()) return Fail(kExitUsage, spec.status());
  spec_ = *std::move(spec);
  return kExitOk;
}

int Run::FindState() {
  fingerprint_ = Fingerprint(options_, settings_, spec_, *data_);
  outputs_ = std::make_unique<RunOutputs>(options_, files_, fingerprint_);
  const std::string& path = outputs_->state_path();
  if (!FileExists(path)) return kExitOk;
  if (!options_.resume) {
    std::fprintf(stderr, "starting anew; --resume would have gone on with the unfinished run\n");
    return kExitOk;
  }
  absl::StatusOr<TrainState> state = ReadTrainState(path);
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

int Run::ClaimOutput() {
  const absl::Status claimed = outputs_->Claim(settings_.steps, state_ ? state_->step : 0);
  return claimed.ok() ? kExitOk : Fail(kExitCannotWrite, claimed);
}

absl::StatusOr<TrainingOutcome> Run::RunTrainer() {
  TrainerOptions trainer_options;
  trainer_options.settings = settings_;
  trainer_options.seed = options_.seed;
  trainer_options.checkpoint_every = options_.checkpoint_every;
  if (options_.checkpoint_every > 0) trainer_options.state_every = options_.checkpoint_every;
  trainer_options.keep = options_.keep.value_or(
      data_->Count(DataPart::kValidation) == 0 ? KeepCheckpoint::kLast : KeepCheckpoint::kBest);
  trainer_options.sample_every = options_.image.sample_every.value_or(0);
  std::fprintf(stderr, "%d %s to train, %d to validate, %d to calibrate, %d to test\n",
               static_cast<int>(data_->Count(DataPart::kTrain)), data_->noun().c_str(),
               static_cast<int>(data_->Count(DataPart::kValidation)),
               static_cast<int>(data_->Count(DataPart::kCalibration)),
               static_cast<int>(data_->Count(DataPart::kTest)));
  Trainer trainer(flow_, *data_, trainer_options);
  TrainerHooks hooks = outputs_->Hooks(flow_, *data_);
  hooks.stop = &stop_;
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
  if (const auto* waveforms = dynamic_cast<const TrainingData*>(data_.get())) {
    if (absl::Status fitted = FitFixedLayers(*flow_, *waveforms, options_.seed); !fitted.ok()) {
      return Fail(kExitBadInput, fitted);
    }
  }
  flow_->MoveTo(device_);
  absl::StatusOr<TrainingOutcome> outcome = RunTrainer();
  outputs_->Finish();
  if (!outcome.ok()) {
    bool bad_data = outcome.status().code() == absl::StatusCode::kInvalidArgument;
    return Fail(bad_data ? kExitBadInput : kExitInternal, outcome.status());
  }
  outcome_ = *outcome;
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

absl::Status Run::EvaluateTest(RunDescription* run) {
  if (outcome_.end == TrainingEnd::kInterrupted) return absl::OkStatus();  // whoever waits, waits
  int64_t rows = 0;
  const std::vector<float> test =
      data_->Gather(DataPart::kTest, false, data_->Count(DataPart::kTest), &rows);
  if (rows == 0) return absl::OkStatus();
  const int64_t draws = options_.draws.value_or(spec_.is_image() ? kImageDraws : 1);
  BFLOW_ASSIGN_OR_RETURN(run->test,
                         EvaluateDraws(*flow_, test, rows, options_.seed, draws, &stop_));
  return absl::OkStatus();
}

int Run::Finish() {
  RunDescription run = DescribeRun(options_, outcome_.kept_step);
  run.validation_nll = outcome_.validation_nll;
  run.skipped_steps = outcome_.skipped_steps;
  if (outcome_.end == TrainingEnd::kInterrupted) run.ended = "interrupted";
  if (outcome_.end == TrainingEnd::kDiverged) {
    run.ended = absl::StrCat("loss or gradients of ", Trainer::kMaxBadSteps,
                             " steps in a row were not finite after step ", outcome_.steps);
  }
  // Where it was trained: a CPU would take hours for the test part of a large image flow.
  if (absl::Status tested = EvaluateTest(&run); !tested.ok()) return Fail(kExitInternal, tested);
  absl::StatusOr<std::optional<Calibration>> calibration = Calibrate(*flow_, *data_);
  if (!calibration.ok()) return Fail(kExitInternal, calibration.status());
  // The self-test and the files are the CPU's, as a loader without a GPU would compute them.
  absl::StatusOr<std::shared_ptr<Flow>> on_cpu = OnCpu(flow_);
  if (!on_cpu.ok()) return Fail(kExitInternal, on_cpu.status());
  if (*calibration && 2 * (*calibration)->n() < kMinCalibrationWindows) {
    std::fprintf(stderr, "warning: %d calibration %s; fewer than %d make p-values unreliable\n",
                 2 * (*calibration)->n(), data_->noun().c_str(),
                 static_cast<int>(kMinCalibrationWindows));
  }
  absl::Status saved =
      SaveModel(files_, outputs_->directory(), **on_cpu, *data_, run, *calibration);
  if (!saved.ok()) {
    bool ours = saved.code() == absl::StatusCode::kInvalidArgument ||
                saved.code() == absl::StatusCode::kDataLoss;
    return Fail(ours ? kExitInternal : kExitCannotWrite,
                absl::Status(saved.code(), absl::StrCat("model not written: ", saved.message())));
  }
  // A run that was interrupted can go on; one that is finished has nothing to go on with.
  if (outcome_.end == TrainingEnd::kFinished)
    files_.RemoveFile(outputs_->state_path()).IgnoreError();
  RunSummary summary{options_.model, outputs_->version(), outcome_, run, 0, data_->noun()};
  if (*calibration) summary.calibration_rows = 2 * (*calibration)->n();
  PrintSummary(summary, spec_);
  return kExitOk;
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
  const bool tf32 = options.image.precision == ConvolutionPrecision::kTf32;
  if (tf32 && backend->device == "cpu") {
    return Fail(kExitConfiguration,
                absl::InvalidArgumentError("--convolution_precision: tf32 needs a GPU"));
  }
  if (std::getenv("OMP_NUM_THREADS") == nullptr) at::set_num_threads(CoreCount());
  int exit_code = kExitInternal;
  absl::Status status = GuardTorch("bflow-train", [&] {
    exit_code = Run(options, stop, files, backend->device).Execute();
    return absl::OkStatus();
  });
  return status.ok() ? exit_code : Fail(kExitInternal, status);
}

}  // namespace bflow
