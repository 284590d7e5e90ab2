#include "model/training/updater.h"

#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "ATen/ops/linalg_vector_norm.h"
#include "ATen/ops/stack.h"
#include "absl/strings/match.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace

Updater::Updater(std::shared_ptr<Flow> flow, double decay, EmaScheme scheme,
                 double largest_gradient)
    : flow_(std::move(flow)), largest_gradient_(largest_gradient) {
  const bool alternating = decay > 0 && scheme == EmaScheme::kAlternating;
  std::vector<at::Tensor> all, butterflies;
  for (const auto& parameter : flow_->named_parameters()) {
    const bool of_butterfly = absl::StrContains(parameter.key(), ".factors.");
    (alternating && of_butterfly ? butterflies : all).push_back(parameter.value());
  }
  groups_.emplace_back(std::move(all));
  if (alternating) groups_.emplace_back(std::move(butterflies));
  if (decay > 0) {
    average_.emplace(groups_.back().parameters.values(), decay,
                     alternating ? DecayStart::kAtOnce : DecayStart::kGrowing);
  }
}

Updater::Gradients Updater::Differentiate(const at::Tensor& x, const Group& group) const {
  const at::Tensor loss =
      -flow_->LogProb(x).mean() / static_cast<double>(flow_->spec().event_size());
  const std::vector<at::Tensor>& tensors = group.parameters.tensors();
  at::Tensor values = group.parameters.Gather(
      tensors.empty() ? tensors
                      : torch::autograd::grad({loss}, tensors, /*grad_outputs=*/{},
                                              /*retain_graph=*/false, /*create_graph=*/false,
                                              /*allow_unused=*/false));
  // In double the square of a finite float is finite. Both at once: a GPU is waited for here.
  const at::Tensor norm = at::linalg_vector_norm(values, 2, std::nullopt, false, at::kDouble);
  const at::Tensor figures = at::stack({loss.detach().to(at::kDouble), norm}).cpu();
  Gradients gradients{figures[0].item<double>(), std::move(values), figures[1].item<double>()};
  if (!std::isfinite(gradients.loss) || !std::isfinite(gradients.norm)) {
    gradients.values.reset();
  } else if (largest_gradient_ > 0 && gradients.norm > largest_gradient_) {
    gradients.values.mul_(largest_gradient_ / gradients.norm);
  }
  return gradients;
}

Update Updater::Step(const at::Tensor& x, double rate, std::optional<double> butterfly_rate) {
  return groups_.size() == 1 ? StepTogether(x, rate)
                             : StepAlternating(x, rate, butterfly_rate.value_or(rate));
}

Update Updater::StepTogether(const at::Tensor& x, double rate) {
  Group& group = groups_.front();
  const Gradients gradients = Differentiate(x, group);
  if (!gradients.values.defined()) return {false, gradients.loss, kNan};
  before_ = Copy();
  group.adam.Step(rate, gradients.values);
  if (average_) average_->Update();
  return {true, gradients.loss, gradients.norm};
}

Update Updater::StepAlternating(const at::Tensor& x, double rate, double butterfly_rate) {
  Group &others = groups_[0], &butterflies = groups_[1];
  SwapAverage();
  const Gradients first = Differentiate(x, others);
  SwapAverage();
  if (!first.values.defined()) return {false, first.loss, kNan};
  Before before = Copy();
  Adam::State adam_before = others.adam.CopyState();
  others.adam.Step(rate, first.values);
  const Gradients second = Differentiate(x, butterflies);
  if (!second.values.defined()) {
    others.adam.Restore(std::move(adam_before));
    Return(before);
    return {false, first.loss, kNan};
  }
  butterflies.adam.Step(butterfly_rate, second.values);
  average_->Update();
  before_ = std::move(before);
  return {true, first.loss, std::hypot(first.norm, second.norm)};
}

Updater::Before Updater::Copy() const {
  Before before;
  for (const Group& group : groups_) before.values.push_back(group.parameters.values().clone());
  if (average_) before.average = average_->average().clone();
  return before;
}

void Updater::Return(const Before& before) {
  for (size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].parameters.values().copy_(before.values[i]);
  }
}

bool Updater::Revert() {
  if (!before_) return false;
  Return(*before_);
  if (average_) average_->Restore(before_->average, average_->updates() - 1);
  before_.reset();
  return true;
}

void Updater::SwapAverage() {
  if (average_) average_->Swap();
}

void Updater::Save(TrainState* state) const {
  state->parameters = Values();
  const auto append = [](const std::vector<float>& values, std::vector<float>* to) {
    to->insert(to->end(), values.begin(), values.end());
  };
  for (const Group& group : groups_) {
    append(group.parameters.ToHost(group.adam.state().first_moment), &state->first_moment);
    append(group.parameters.ToHost(group.adam.state().second_moment), &state->second_moment);
  }
  if (average_) {
    state->average = groups_.back().parameters.ToHost(average_->average());
    state->average_updates = average_->updates();
  }
}

absl::Status Updater::Restore(const TrainState& state) {
  size_t count = 0;
  for (const Group& group : groups_) count += group.parameters.packed_size();
  const size_t averaged = average_ ? groups_.back().parameters.packed_size() : 0;
  if (state.parameters.size() != count || state.first_moment.size() != count ||
      state.second_moment.size() != count || state.average.size() != averaged) {
    return absl::DataLossError("training state: does not fit this run");
  }
  SetValues(state.parameters);
  std::span<const float> m(state.first_moment), v(state.second_moment);
  for (Group& group : groups_) {
    const size_t size = group.parameters.packed_size();
    group.adam.Restore({group.parameters.FromHost(m.first(size)),
                        group.parameters.FromHost(v.first(size)), state.step});
    m = m.subspan(size);
    v = v.subspan(size);
  }
  if (average_) {
    average_->Restore(groups_.back().parameters.FromHost(state.average), state.average_updates);
  }
  before_.reset();
  return absl::OkStatus();
}

}  // namespace bflow
