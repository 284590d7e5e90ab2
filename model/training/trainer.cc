#include "model/training/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

#include "ATen/ops/empty.h"
#include "absl/strings/str_cat.h"
#include "base/philox.h"
#include "base/status.h"
#include "model/scoring/window_features.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

constexpr int64_t kMaxValidationWindows = 512;
// Numbers of the noise of validation and test; far from those of training.
constexpr uint64_t kEvaluationRow = uint64_t{1} << 62;

std::vector<std::span<float>> Spans(const std::vector<at::Tensor>& tensors) {
  std::vector<std::span<float>> spans;
  for (const at::Tensor& t : tensors) {
    TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_contiguous(),
                "parameters are float, contiguous");
    spans.emplace_back(t.data_ptr<float>(), static_cast<size_t>(t.numel()));
  }
  return spans;
}

bool AllFinite(const std::vector<std::span<const float>>& buffers) {
  for (std::span<const float> buffer : buffers) {
    float sum = 0;  // 0 * x is NaN exactly where x is not finite
    for (float x : buffer) sum += 0 * x;
    if (sum != 0) return false;
  }
  return true;
}

}  // namespace

double CodeUnitOffset(const FlowSpec& spec) {
  return spec.code_unit_offset_nats() / static_cast<double>(spec.event_size());
}

absl::StatusOr<double> MeanNll(Flow& flow, const std::vector<float>& codes, int64_t rows,
                               uint64_t seed, int64_t* not_finite) {
  HostBatch batch{rows, codes};
  Noise noise;
  noise.kind = flow.spec().quantised() ? NoiseKind::kUniform : NoiseKind::kNone;
  noise.seed = seed;
  noise.row_offset = kEvaluationRow;
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

Trainer::Trainer(std::shared_ptr<Flow> flow, const TrainingData& data,
                 const TrainerOptions& options)
    : flow_(std::move(flow)),
      data_(data),
      options_(options),
      tensors_(flow_->parameters()),
      parameters_(Spans(tensors_)),
      generator_(options.seed),
      adam_(parameters_) {
  options_.settings.schedule.total_steps = options_.settings.steps;
  validation_codes_ =
      data_.Gather(DataPart::kValidation, true, kMaxValidationWindows, &validation_rows_);
}

absl::StatusOr<at::Tensor> Trainer::NextBatch(int64_t rows) {
  const FlowSpec& spec = flow_->spec();
  const int64_t size = data_.event_size();
  const size_t channels = spec.channels.size();
  at::Tensor batch = at::empty({rows, data_.window(), static_cast<int64_t>(channels)}, at::kFloat);
  // x = 2 (v + step u - lo) / (hi - lo) - 1 = slope v + noise_slope u + offset
  std::vector<float> slope, noise_slope, offset;
  for (const ChannelSpec& c : spec.channels) {
    slope.push_back(static_cast<float>(2 / (c.hi - c.lo)));
    noise_slope.push_back(spec.quantised() ? static_cast<float>(2 * c.step / (c.hi - c.lo)) : 0);
    offset.push_back(static_cast<float>(-2 * c.lo / (c.hi - c.lo) - 1));
  }
  noise_.resize(static_cast<size_t>(size));
  float* out = batch.data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r, out += size) {
    BFLOW_RETURN_IF_ERROR(data_.DrawTrainingWindow(generator_, out));
    FillUniform(options_.seed, rows_drawn_++, 0, size, noise_.data());
    size_t c = 0;
    for (int64_t i = 0; i < size; ++i) {
      out[i] = slope[c] * out[i] + noise_slope[c] * noise_[static_cast<size_t>(i)] + offset[c];
      if (++c == channels) c = 0;
    }
  }
  return batch;
}

absl::StatusOr<double> Trainer::Step(double rate) {
  BFLOW_ASSIGN_OR_RETURN(at::Tensor batch, NextBatch(options_.settings.batch));
  at::Tensor loss = -flow_->LogProb(batch).mean() / static_cast<double>(data_.event_size());
  const double value = loss.item<double>();
  if (!std::isfinite(value)) return std::numeric_limits<double>::quiet_NaN();
  std::vector<at::Tensor> gradients =
      torch::autograd::grad({loss}, tensors_, /*grad_outputs=*/{}, /*retain_graph=*/false,
                            /*create_graph=*/false, /*allow_unused=*/false);
  std::vector<std::span<const float>> buffers;
  for (at::Tensor& g : gradients) {
    g = g.contiguous();
    buffers.emplace_back(g.data_ptr<float>(), static_cast<size_t>(g.numel()));
  }
  if (!AllFinite(buffers)) return std::numeric_limits<double>::quiet_NaN();
  adam_.Step(rate, buffers);
  if (average_) average_->Update();
  return value;
}

absl::StatusOr<double> Trainer::Evaluate() {
  const c10::NoGradGuard no_grad;
  BFLOW_ASSIGN_OR_RETURN(at::Tensor batch, NextBatch(options_.settings.batch));
  return -flow_->LogProb(batch).mean().item<double>() / static_cast<double>(data_.event_size());
}

absl::StatusOr<double> Trainer::Validate() {
  return MeanNll(*flow_, validation_codes_, validation_rows_, options_.seed, nullptr);
}

absl::Status Trainer::Report(const TrainerHooks& hooks, int64_t step, double rate, bool interval) {
  TrainingReport report;
  if (interval && validation_rows_ > 0) {
    if (average_) average_->Swap();
    absl::StatusOr<double> nll = Validate();
    if (nll.ok() && std::isfinite(*nll)) {
      last_nll_ = *nll;
      if (!best_nll_ || *nll < *best_nll_) {
        best_nll_ = *nll;
        best_step_ = step;
        if (options_.keep == KeepCheckpoint::kBest) best_ = CopyValues(parameters_);
      }
      report.validation_nll = *nll;
    }
    if (average_) average_->Swap();
    BFLOW_RETURN_IF_ERROR(nll.status());
  }
  SteadyTime now = Clock::Real()->Now();
  report.step = step;
  report.learning_rate = rate;
  report.train_nll = interval_loss_ / static_cast<double>(std::max<int64_t>(interval_steps_, 1));
  report.code_unit_offset = CodeUnitOffset(flow_->spec());
  report.elapsed_seconds = SecondsBetween(start_, now);
  report.windows_per_second = static_cast<double>(interval_steps_ * options_.settings.batch) /
                              std::max(SecondsBetween(interval_start_, now), 1e-9);
  if (hooks.report) hooks.report(report, interval);
  if (interval) {
    interval_start_ = Clock::Real()->Now();
    interval_loss_ = 0;
    interval_steps_ = 0;
  }
  return absl::OkStatus();
}

absl::Status Trainer::Restore(const TrainState& state) {
  const size_t count = CopyValues(parameters_).size();
  std::istringstream generator(state.generator);
  generator >> generator_;
  if (generator.fail() || state.parameters.size() != count ||
      state.average.empty() == average_.has_value()) {
    return absl::DataLossError("training state: does not fit this run");
  }
  RestoreValues(state.parameters, parameters_);
  adam_.Restore(state.first_moment, state.second_moment, state.step);
  if (average_) average_->Restore(state.average, state.average_updates);
  rows_drawn_ = state.rows_drawn;
  best_ = state.best;
  best_nll_ = state.best_nll;
  best_step_ = state.best_step;
  last_nll_ = state.last_nll;
  interval_loss_ = state.interval_loss;
  interval_steps_ = state.interval_steps;
  return absl::OkStatus();
}

TrainState Trainer::State(const TrainingOutcome& outcome, int bad_steps) const {
  TrainState state;
  state.step = outcome.steps;
  state.bad_steps = bad_steps;
  state.rows_drawn = rows_drawn_;
  std::ostringstream generator;
  generator << generator_;
  state.generator = generator.str();
  state.parameters = CopyValues(parameters_);
  state.first_moment = adam_.first_moment();
  state.second_moment = adam_.second_moment();
  if (average_) {
    state.average = average_->average();
    state.average_updates = average_->updates();
  }
  state.best = best_;
  state.best_nll = best_nll_;
  state.best_step = best_step_;
  state.last_nll = last_nll_;
  state.first_nll = outcome.first_nll;
  state.interval_loss = interval_loss_;
  state.interval_steps = interval_steps_;
  return state;
}

absl::StatusOr<TrainingOutcome> Trainer::Run(const TrainerHooks& hooks, const TrainState* state) {
  const TrainingSettings& settings = options_.settings;
  if (state == nullptr) {
    BFLOW_ASSIGN_OR_RETURN(at::Tensor first, NextBatch(settings.batch));
    flow_->InitialiseFrom(first);
  }
  if (settings.ema_decay > 0) average_.emplace(parameters_, settings.ema_decay);
  TrainingOutcome outcome;
  int bad_steps = 0;
  if (state != nullptr) {
    BFLOW_RETURN_IF_ERROR(Restore(*state));
    outcome.steps = state->step;
    outcome.first_nll = state->first_nll;
    bad_steps = static_cast<int>(state->bad_steps);
  }
  start_ = interval_start_ = Clock::Real()->Now();
  SteadyTime last_drawn = start_;

  while (outcome.steps < settings.steps) {
    if (hooks.stop != nullptr && hooks.stop->load()) {
      outcome.end = TrainingEnd::kInterrupted;
      if (hooks.state && outcome.steps > 0) hooks.state(State(outcome, bad_steps));
      break;
    }
    const double rate = settings.schedule.RateAt(outcome.steps);
    BFLOW_ASSIGN_OR_RETURN(double loss, Step(rate));
    if (std::isnan(loss)) {
      if (++bad_steps < kMaxBadSteps) continue;  // another batch, the weights are as they were
      outcome.end = TrainingEnd::kDiverged;
      break;
    }
    bad_steps = 0;
    if (outcome.steps++ == 0) outcome.first_nll = loss;
    interval_loss_ += loss;
    ++interval_steps_;
    const bool interval =
        outcome.steps % settings.validate_every == 0 || outcome.steps == settings.steps;
    const SteadyTime now = Clock::Real()->Now();
    if (interval || SecondsBetween(last_drawn, now) > 0.2) {
      BFLOW_RETURN_IF_ERROR(Report(hooks, outcome.steps, rate, interval));
      last_drawn = now;
    }
    if (options_.checkpoint_every > 0 && outcome.steps % options_.checkpoint_every == 0 &&
        outcome.steps < settings.steps && hooks.checkpoint) {
      if (average_) average_->Swap();
      hooks.checkpoint(outcome.steps);
      if (average_) average_->Swap();
    }
    if (hooks.state && outcome.steps % options_.state_every == 0 &&
        outcome.steps < settings.steps) {
      hooks.state(State(outcome, bad_steps));
    }
  }
  outcome.seconds = SecondsBetween(start_, Clock::Real()->Now());
  outcome.kept_step = outcome.steps;
  if (options_.keep == KeepCheckpoint::kBest && !best_.empty()) {
    RestoreValues(best_, parameters_);
    outcome.kept_step = best_step_;
    outcome.validation_nll = best_nll_;
    return outcome;
  }
  if (average_) average_->Swap();
  BFLOW_ASSIGN_OR_RETURN(outcome.last_nll, Evaluate());
  if (validation_rows_ > 0) {
    BFLOW_ASSIGN_OR_RETURN(double nll, Validate());
    if (std::isfinite(nll)) outcome.validation_nll = nll;
  }
  return outcome;
}

}  // namespace bflow
