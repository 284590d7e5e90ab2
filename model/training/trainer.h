// The training loop: batches of the training part, dequantisation noise, Adam on the mean
// negative log-likelihood, validation, the weights to keep. Everything random follows from
// the seed: the same data, settings, seed and number of threads give the same weights (on the CPU).
//
// A step whose loss or gradients are not finite is skipped: weights, optimiser, averages and
// schedule stay as they are, the next step takes the next batch, and it is counted. Many in a row
// end the run with the last weights whose loss was finite.
#ifndef BFLOW_MODEL_TRAINING_TRAINER_H_
#define BFLOW_MODEL_TRAINING_TRAINER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "model/flow/flow.h"
#include "model/scoring/scorer.h"
#include "model/training/options.h"
#include "model/training/presets.h"
#include "model/training/progress.h"
#include "model/training/train_state.h"
#include "model/training/training_events.h"
#include "model/training/updater.h"

namespace bflow {

// Mean negative log-likelihood of events (codes), nats per dimension in the scaled unit, with
// noise seeded by `seed` (uniform if the flow is quantised). Rows whose log p is not finite are
// counted in
// `*not_finite` (may be null) and left out; NaN if none is left.
absl::StatusOr<double> MeanNll(Flow& flow, const std::vector<float>& codes, int64_t rows,
                               uint64_t seed, int64_t* not_finite);

// The noise of validation and test: uniform if the flow is quantised.
Noise EvaluationNoise(const FlowSpec& spec, uint64_t seed);

// Mean over channels of log((hi - lo) / (2 step)): NLL in nats per sample and converter step = NLL
// in nats per dimension of the scaled unit + this. 0 if the flow is not quantised.
double CodeUnitOffset(const FlowSpec& spec);

struct TrainerOptions {
  TrainingSettings settings;
  uint64_t seed = 0;
  KeepCheckpoint keep = KeepCheckpoint::kLast;
  int64_t checkpoint_every = 0;
  int64_t sample_every = 0;
  int64_t state_every = 200;
};

struct TrainerHooks {
  // Set from a signal handler: the loop ends after the step it is in.
  const std::atomic<bool>* stop = nullptr;
  // Every validation; `finished_interval` is false for the frequent calls that only redraw a bar.
  std::function<void(const TrainingReport&, bool finished_interval)> report;
  // After `checkpoint_every` steps, with the weights that would be kept (average, if any) in the
  // flow.
  std::function<void(int64_t step)> checkpoint;
  // After `sample_every` steps and after the last one, with the same weights.
  std::function<void(int64_t step)> sample;
  // After `state_every` steps and when interrupted: what Run goes on from.
  std::function<void(const TrainState&)> state;
  // Every training batch before it is used, [B, T, C] in the scaled unit: for tests, which look at
  // it or spoil it.
  std::function<void(at::Tensor*)> batch;
};

enum class TrainingEnd { kFinished, kInterrupted, kDiverged };

struct TrainingOutcome {
  TrainingEnd end = TrainingEnd::kFinished;
  int64_t steps = 0;                     // updates done
  int64_t skipped_steps = 0;             // not done: not finite
  std::optional<double> validation_nll;  // of the weights kept, nats per dimension
  double first_nll = 0;                  // of the first batch before its update, nats per dimension
  double last_nll = 0;                   // of one more batch with the last weights
  int64_t kept_step = 0;
  double seconds = 0;
};

class Trainer {
 public:
  // This many steps in a row are skipped: the run ends.
  static constexpr int kMaxBadSteps = 10;

  Trainer(std::shared_ptr<Flow> flow, const TrainingEvents& data, const TrainerOptions& options);

  // Initialises the flow from a first batch (TrainingEvents::InitialisationRows), or goes on from
  // `state` (null: none), and trains it. The flow is trained on the device where it is. On return
  // it holds the weights to keep: finite whatever happened. To be called once. Errors:
  // InvalidArgument (data), DataLoss (a state that does not fit), ResourceExhausted, Internal.
  absl::StatusOr<TrainingOutcome> Run(const TrainerHooks& hooks, const TrainState* state = nullptr);

 private:
  // The next `rows` training events, scaled and with noise, in the flow's input type on its device.
  absl::StatusOr<at::Tensor> NextBatch(int64_t rows);
  // What the flow is initialised from.
  absl::StatusOr<at::Tensor> FirstBatch();
  template <typename T>
  absl::Status FillBatch(int64_t rows, T* out);
  absl::Status Begin(const TrainState* state);
  absl::Status Loop(const TrainerHooks& hooks);
  // Of the butterflies' own optimiser in the next update, if it differs.
  std::optional<double> ButterflyRate() const;
  absl::StatusOr<Update> Step(const TrainerHooks& hooks, double rate);
  // What an update that was done leads to: counts, reports, checkpoints, states.
  absl::Status AfterStep(const TrainerHooks& hooks, double rate);
  // Makes the flow hold the weights to keep.
  absl::Status End();
  // NLL of the validation part with the weights that would be kept.
  absl::Status Validate();
  absl::Status Report(const TrainerHooks& hooks, double rate, bool interval);
  absl::Status Restore(const TrainState& state);
  TrainState State() const;
  double Seconds() const;

  std::shared_ptr<Flow> flow_;
  const TrainingEvents& data_;
  std::unique_ptr<TrainingDraws> draws_;  // from Begin on
  TrainerOptions options_;
  std::mt19937_64 generator_;
  uint64_t rows_drawn_ = 0;           // row number of the noise
  std::vector<float> codes_, noise_;  // of a window
  std::unique_ptr<Updater> updater_;  // from Begin on: it averages initialised weights

  std::vector<float> validation_codes_;
  int64_t validation_rows_ = 0;
  std::vector<float> best_;
  std::optional<double> best_nll_;
  std::optional<double> last_nll_;
  int64_t best_step_ = 0;

  TrainingOutcome outcome_;
  int bad_steps_ = 0;  // in a row
  SteadyTime start_, last_drawn_;
  double seconds_before_ = 0;  // of the runs that this one goes on from

  // Since the last report.
  double interval_loss_ = 0, interval_gradient_norm_ = 0;
  int64_t interval_steps_ = 0;
  SteadyTime interval_start_;  // in this process
  int64_t interval_steps_here_ = 0;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAINER_H_
