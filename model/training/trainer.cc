#include "model/training/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

#include "ATen/Context.h"
#include "ATen/ops/empty.h"
#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/philox.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/scoring/window_features.h"
#include "model/training/start_weights.h"

namespace bflow {
namespace {

constexpr int64_t kMaxValidationEvents = 512;
// Numbers of the noise of validation and test; far from those of training.
constexpr uint64_t kEvaluationRow = uint64_t{1} << 62;

// x = 2 (v + step u - lo) / (hi - lo) - 1 = slope v + noise_slope u + offset, per channel.
template <typename T>
class CodeScaling {
 public:
  explicit CodeScaling(const FlowSpec& spec)
      : run_(spec.is_image() ? static_cast<size_t>(spec.positions()) : 1) {
    for (const ChannelSpec& c : spec.channels) {
      slope_.push_back(static_cast<T>(2 / (c.hi - c.lo)));
      noise_slope_.push_back(spec.quantised() ? static_cast<T>(2 * c.step / (c.hi - c.lo)) : T{0});
      offset_.push_back(static_cast<T>(-2 * c.lo / (c.hi - c.lo) - 1));
    }
  }

  // Of one event; `noise` is u.
  void Apply(const std::vector<float>& codes, const std::vector<float>& noise, T* out) const {
    size_t c = 0;
    for (size_t i = 0; i < codes.size();) {
      for (const size_t end = i + run_; i < end; ++i) {
        out[i] = slope_[c] * codes[i] + noise_slope_[c] * noise[i] + offset_[c];
      }
      if (++c == slope_.size()) c = 0;
    }
  }

 private:
  size_t run_;  // this many values in a row are of the same channel
  std::vector<T> slope_, noise_slope_, offset_;
};

// Events one after the other, without noise.
template <typename T>
void ScaleEvents(const FlowSpec& spec, const std::vector<float>& codes, T* out) {
  const CodeScaling<T> scaling(spec);
  const int64_t size = spec.event_size();
  const std::vector<float> noise(static_cast<size_t>(size), 0.0f);
  for (auto event = codes.begin(); event != codes.end(); event += size, out += size) {
    scaling.Apply(std::vector<float>(event, event + size), noise, out);
  }
}

}  // namespace

double CodeUnitOffset(const FlowSpec& spec) {
  return spec.code_unit_offset_nats() / static_cast<double>(spec.event_size());
}

Noise EvaluationNoise(const FlowSpec& spec, uint64_t seed) {
  Noise noise;
  noise.kind = spec.quantised() ? NoiseKind::kUniform : NoiseKind::kNone;
  noise.seed = seed;
  noise.row_offset = kEvaluationRow;
  return noise;
}

absl::StatusOr<double> MeanNll(Flow& flow, const std::vector<float>& codes, int64_t rows,
                               uint64_t seed, int64_t* not_finite) {
  HostBatch batch{rows, codes};
  const Noise noise = EvaluationNoise(flow.spec(), seed);
  BFLOW_ASSIGN_OR_RETURN(PassResult pass, RunPass(flow, batch, noise, 0, PassOptions{}));
  double sum = 0;
  int64_t finite = 0;
  for (double log_prob : pass.log_prob) {
    if (!std::isfinite(log_prob)) continue;
    sum += log_prob;
    ++finite;
  }
  if (not_finite != nullptr) *not_finite = rows - finite;
  if (finite == 0) return std::numeric_limits<double>::quiet_NaN();
  return -sum / static_cast<double>(finite) / static_cast<double>(flow.spec().event_size());
}

Trainer::Trainer(std::shared_ptr<Flow> flow, const TrainingEvents& data,
                 const TrainerOptions& options)
    : flow_(std::move(flow)), data_(data), options_(options), generator_(options.seed) {
  options_.settings.schedule.total_steps = options_.settings.steps;
  validation_codes_ =
      data_.Gather(DataPart::kValidation, true, kMaxValidationEvents, &validation_rows_);
}

template <typename T>
absl::Status Trainer::FillBatch(int64_t rows, T* out) {
  const int64_t size = flow_->spec().event_size();
  const CodeScaling<T> scaling(flow_->spec());
  codes_.resize(static_cast<size_t>(size));
  noise_.resize(static_cast<size_t>(size));
  for (int64_t r = 0; r < rows; ++r, out += size) {
    BFLOW_RETURN_IF_ERROR(draws_->Draw(rows_drawn_, generator_, codes_.data()));
    FillUniform(options_.seed, rows_drawn_++, 0, size, noise_.data());
    scaling.Apply(codes_, noise_, out);
  }
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> Trainer::NextBatch(int64_t rows) {
  at::Tensor batch =
      at::empty(Batched(rows, flow_->spec().event_shape), at::TensorOptions(flow_->input_dtype()));
  if (flow_->input_dtype() == at::kDouble) {
    BFLOW_RETURN_IF_ERROR(FillBatch(rows, batch.data_ptr<double>()));
  } else {
    BFLOW_RETURN_IF_ERROR(FillBatch(rows, batch.data_ptr<float>()));
  }
  return batch.to(flow_->device());
}

absl::StatusOr<at::Tensor> Trainer::FirstBatch() {
  const int64_t wanted = data_.InitialisationRows();
  if (wanted == 0) {
    const TrainingSettings& settings = options_.settings;
    return NextBatch(settings.first_batch > 0 ? settings.first_batch : settings.batch);
  }
  const FlowSpec& spec = flow_->spec();
  int64_t rows = 0;
  const std::vector<float> codes = data_.Gather(DataPart::kTrain, false, wanted, &rows);
  at::Tensor batch =
      at::empty(Batched(rows, spec.event_shape), at::TensorOptions(flow_->input_dtype()));
  if (flow_->input_dtype() == at::kDouble) {
    ScaleEvents(spec, codes, batch.data_ptr<double>());
  } else {
    ScaleEvents(spec, codes, batch.data_ptr<float>());
  }
  return batch.to(flow_->device());
}

std::optional<double> Trainer::ButterflyRate() const {
  const TrainingSettings& settings = options_.settings;
  if (!settings.butterfly_decay) return std::nullopt;
  const int64_t per_epoch = std::max<int64_t>(data_.Count(DataPart::kTrain) / settings.batch, 1);
  return settings.schedule.learning_rate *
         std::pow(*settings.butterfly_decay, static_cast<double>(outcome_.steps / per_epoch));
}

absl::StatusOr<Update> Trainer::Step(const TrainerHooks& hooks, double rate) {
  BFLOW_ASSIGN_OR_RETURN(at::Tensor batch, NextBatch(options_.settings.batch));
  if (hooks.batch) hooks.batch(&batch);
  BFLOW_FAULT_POINT("trainer.before_step");
  // Of this step alone: what is validated and kept computes in float32.
  const ConvolutionPrecision precision = options_.settings.precision;
  if (precision == ConvolutionPrecision::kBf16) flow_->UseBfloat16Convolutions(true);
  at::globalContext().setAllowTF32CuDNN(precision == ConvolutionPrecision::kTf32);
  const Update update = updater_->Step(batch, rate, ButterflyRate());
  at::globalContext().setAllowTF32CuDNN(false);
  flow_->UseBfloat16Convolutions(false);
  BFLOW_FAULT_POINT("trainer.after_step");
  return update;
}

absl::Status Trainer::Validate() {
  updater_->SwapAverage();
  const absl::StatusOr<double> nll =
      MeanNll(*flow_, validation_codes_, validation_rows_, options_.seed, nullptr);
  if (nll.ok() && std::isfinite(*nll)) {
    last_nll_ = *nll;
    if (!best_nll_ || *nll < *best_nll_) {
      best_nll_ = *nll;
      best_step_ = outcome_.steps;
      if (options_.keep == KeepCheckpoint::kBest) best_ = updater_->Values();
    }
  }
  updater_->SwapAverage();
  return nll.status();
}

double Trainer::Seconds() const {
  return seconds_before_ + SecondsBetween(start_, Clock::Real()->Now());
}

absl::Status Trainer::Report(const TrainerHooks& hooks, double rate, bool interval) {
  TrainingReport report;
  if (interval && validation_rows_ > 0) {
    last_nll_.reset();
    BFLOW_RETURN_IF_ERROR(Validate());
    report.validation_nll = last_nll_;
  }
  const double steps = static_cast<double>(std::max<int64_t>(interval_steps_, 1));
  report.step = outcome_.steps;
  report.skipped_steps = outcome_.skipped_steps;
  report.learning_rate = rate;
  report.train_nll = interval_loss_ / steps;
  report.gradient_norm = interval_gradient_norm_ / steps;
  report.code_unit_offset = CodeUnitOffset(flow_->spec());
  report.is_image = flow_->spec().is_image();
  report.elapsed_seconds = Seconds();
  report.windows_per_second = static_cast<double>(interval_steps_here_ * options_.settings.batch) /
                              std::max(SecondsBetween(interval_start_, Clock::Real()->Now()), 1e-9);
  if (hooks.report) hooks.report(report, interval);
  if (interval) {
    interval_start_ = Clock::Real()->Now();
    interval_loss_ = interval_gradient_norm_ = 0;
    interval_steps_ = interval_steps_here_ = 0;
  }
  return absl::OkStatus();
}

absl::Status Trainer::Restore(const TrainState& state) {
  std::istringstream generator(state.generator);
  generator >> generator_;
  if (generator.fail()) return absl::DataLossError("training state: does not fit this run");
  BFLOW_RETURN_IF_ERROR(updater_->Restore(state));
  rows_drawn_ = state.rows_drawn;
  best_ = state.best;
  best_nll_ = state.best_nll;
  best_step_ = state.best_step;
  last_nll_ = state.last_nll;
  interval_loss_ = state.interval_loss;
  interval_gradient_norm_ = state.interval_gradient_norm;
  interval_steps_ = state.interval_steps;
  outcome_.steps = state.step;
  outcome_.skipped_steps = state.skipped_steps;
  outcome_.first_nll = state.first_nll;
  bad_steps_ = static_cast<int>(state.bad_steps);
  seconds_before_ = state.seconds;
  return absl::OkStatus();
}

TrainState Trainer::State() const {
  TrainState state;
  updater_->Save(&state);
  std::ostringstream generator;
  generator << generator_;
  state.generator = generator.str();
  state.step = outcome_.steps;
  state.bad_steps = bad_steps_;
  state.skipped_steps = outcome_.skipped_steps;
  state.rows_drawn = rows_drawn_;
  state.best = best_;
  state.best_nll = best_nll_;
  state.best_step = best_step_;
  state.last_nll = last_nll_;
  state.first_nll = outcome_.first_nll;
  state.interval_loss = interval_loss_;
  state.interval_gradient_norm = interval_gradient_norm_;
  state.interval_steps = interval_steps_;
  state.seconds = Seconds();
  return state;
}

absl::Status Trainer::Begin(const TrainState* state) {
  const TrainingSettings& settings = options_.settings;
  BFLOW_ASSIGN_OR_RETURN(draws_, data_.Draws(options_.seed, settings.batch));
  // Also for a state, which holds parameters alone: permutations and signs are set here.
  if (settings.start == TrainingStart::kNearIdentity) flow_->StartNearIdentity();
  if (settings.start == TrainingStart::kIdentityButterflies) SetButterfliesToIdentity(*flow_);
  if (state == nullptr) {
    BFLOW_ASSIGN_OR_RETURN(const at::Tensor first, FirstBatch());
    flow_->InitialiseFrom(first);
  }
  updater_ = std::make_unique<Updater>(
      flow_, settings.ema_decay, settings.ema_scheme,
      settings.largest_gradient / static_cast<double>(flow_->spec().event_size()));
  if (state != nullptr) BFLOW_RETURN_IF_ERROR(Restore(*state));
  start_ = interval_start_ = last_drawn_ = Clock::Real()->Now();
  return absl::OkStatus();
}

absl::Status Trainer::AfterStep(const TrainerHooks& hooks, double rate) {
  const TrainingSettings& settings = options_.settings;
  const int64_t step = outcome_.steps;
  const bool last = step == settings.steps;
  const bool interval = step % settings.validate_every == 0 || last;
  const SteadyTime now = Clock::Real()->Now();
  if (interval || SecondsBetween(last_drawn_, now) > 0.2) {
    BFLOW_RETURN_IF_ERROR(Report(hooks, rate, interval));
    last_drawn_ = now;
  }
  const int64_t every = options_.checkpoint_every;
  if (hooks.checkpoint && every > 0 && step % every == 0 && !last) {
    updater_->SwapAverage();
    hooks.checkpoint(step);
    updater_->SwapAverage();
  }
  const int64_t pictures = options_.sample_every;
  if (hooks.sample && pictures > 0 && (step % pictures == 0 || last)) {
    updater_->SwapAverage();
    hooks.sample(step);
    updater_->SwapAverage();
  }
  if (hooks.state && step % options_.state_every == 0 && !last) hooks.state(State());
  return absl::OkStatus();
}

absl::Status Trainer::Loop(const TrainerHooks& hooks) {
  while (outcome_.steps < options_.settings.steps) {
    if (hooks.stop != nullptr && hooks.stop->load()) {
      outcome_.end = TrainingEnd::kInterrupted;
      if (hooks.state && outcome_.steps > 0) hooks.state(State());
      return absl::OkStatus();
    }
    const double rate = options_.settings.schedule.RateAt(outcome_.steps);
    BFLOW_ASSIGN_OR_RETURN(const Update update, Step(hooks, rate));
    if (!update.done) {
      ++outcome_.skipped_steps;
      if (++bad_steps_ < kMaxBadSteps) continue;
      outcome_.end = TrainingEnd::kDiverged;
      return absl::OkStatus();
    }
    bad_steps_ = 0;
    if (outcome_.steps++ == 0) outcome_.first_nll = update.loss;
    interval_loss_ += update.loss;
    interval_gradient_norm_ += update.gradient_norm;
    ++interval_steps_;
    ++interval_steps_here_;
    BFLOW_RETURN_IF_ERROR(AfterStep(hooks, rate));
  }
  return absl::OkStatus();
}

absl::Status Trainer::End() {
  outcome_.seconds = Seconds();
  outcome_.kept_step = outcome_.steps;
  if (options_.keep == KeepCheckpoint::kBest && !best_.empty()) {
    updater_->SetValues(best_);
    outcome_.kept_step = best_step_;
    outcome_.validation_nll = best_nll_;
    return absl::OkStatus();
  }
  // After the last update no loss was finite: the weights before it are the last good ones.
  if (outcome_.end == TrainingEnd::kDiverged && updater_->Revert()) --outcome_.kept_step;
  updater_->SwapAverage();
  const c10::NoGradGuard no_grad;
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor batch, NextBatch(options_.settings.batch));
  outcome_.last_nll = -flow_->LogProb(batch).mean().item<double>() /
                      static_cast<double>(flow_->spec().event_size());
  if (validation_rows_ > 0) {
    BFLOW_ASSIGN_OR_RETURN(const double nll, MeanNll(*flow_, validation_codes_, validation_rows_,
                                                     options_.seed, nullptr));
    if (std::isfinite(nll)) outcome_.validation_nll = nll;
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainingOutcome> Trainer::Run(const TrainerHooks& hooks, const TrainState* state) {
  BFLOW_RETURN_IF_ERROR(Begin(state));
  BFLOW_RETURN_IF_ERROR(Loop(hooks));
  BFLOW_RETURN_IF_ERROR(End());
  return outcome_;
}

}  // namespace bflow
