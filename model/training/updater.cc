#include "model/training/updater.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace

Updater::Updater(std::shared_ptr<Flow> flow, double decay, EmaScheme scheme,
                 double largest_gradient)
    : flow_(std::move(flow)), largest_gradient_(largest_gradient), parameters_(*flow_) {
  const bool alternating = decay > 0 && scheme == EmaScheme::kAlternating;
  groups_.resize(alternating ? 2 : 1);
  for (size_t i = 0; i < parameters_.tensors().size(); ++i) {
    Group& group = groups_[alternating && parameters_.butterfly()[i] ? 1 : 0];
    group.tensors.push_back(parameters_.tensors()[i]);
    group.buffers.push_back(parameters_.buffers()[i]);
  }
  for (Group& group : groups_) group.adam.emplace(group.buffers);
  if (decay > 0) {
    average_.emplace(groups_.back().buffers, decay,
                     alternating ? DecayStart::kAtOnce : DecayStart::kGrowing);
  }
}

Updater::Gradients Updater::Differentiate(const at::Tensor& x, const Group& group) const {
  const at::Tensor loss =
      -flow_->LogProb(x).mean() / static_cast<double>(flow_->spec().event_size());
  Gradients gradients{loss.item<double>(), std::nullopt, kNan};
  if (!std::isfinite(gradients.loss)) return gradients;
  HostGradients values(group.tensors.empty()
                           ? std::vector<at::Tensor>()
                           : torch::autograd::grad({loss}, group.tensors, /*grad_outputs=*/{},
                                                   /*retain_graph=*/false, /*create_graph=*/false,
                                                   /*allow_unused=*/false));
  gradients.squared_norm = values.SquaredNorm();
  if (!std::isfinite(gradients.squared_norm)) return gradients;
  const double norm = std::sqrt(gradients.squared_norm);
  if (largest_gradient_ > 0 && norm > largest_gradient_) values.Scale(largest_gradient_ / norm);
  gradients.values = std::move(values);
  return gradients;
}

Update Updater::Step(const at::Tensor& x, double rate, std::optional<double> butterfly_rate) {
  return groups_.size() == 1 ? StepTogether(x, rate)
                             : StepAlternating(x, rate, butterfly_rate.value_or(rate));
}

Update Updater::StepTogether(const at::Tensor& x, double rate) {
  Group& group = groups_.front();
  const Gradients gradients = Differentiate(x, group);
  if (!gradients.values) return {false, gradients.loss, kNan};
  before_ = Before{Values(), average_ ? average_->average() : std::vector<float>()};
  group.adam->Step(rate, gradients.values->buffers());
  if (average_) average_->Update();
  parameters_.Upload();
  return {true, gradients.loss, std::sqrt(gradients.squared_norm)};
}

Update Updater::StepAlternating(const at::Tensor& x, double rate, double butterfly_rate) {
  Group &others = groups_[0], &butterflies = groups_[1];
  SwapAverage();
  const Gradients first = Differentiate(x, others);
  SwapAverage();
  if (!first.values) return {false, first.loss, kNan};
  Before before{Values(), average_->average()};
  const Adam adam_before = *others.adam;
  others.adam->Step(rate, first.values->buffers());
  parameters_.Upload();
  const Gradients second = Differentiate(x, butterflies);
  if (!second.values) {
    *others.adam = adam_before;
    SetValues(before.values);
    return {false, first.loss, kNan};
  }
  butterflies.adam->Step(butterfly_rate, second.values->buffers());
  average_->Update();
  parameters_.Upload();
  before_ = std::move(before);
  return {true, first.loss, std::sqrt(first.squared_norm + second.squared_norm)};
}

bool Updater::Revert() {
  if (!before_) return false;
  SetValues(before_->values);
  if (average_) average_->Restore(before_->average, average_->updates() - 1);
  before_.reset();
  return true;
}

void Updater::SwapAverage() {
  if (!average_) return;
  average_->Swap();
  parameters_.Upload();
}

void Updater::SetValues(const std::vector<float>& values) {
  RestoreValues(values, parameters_.buffers());
  parameters_.Upload();
}

void Updater::Save(TrainState* state) const {
  state->parameters = Values();
  for (const Group& group : groups_) {
    const std::vector<float>& m = group.adam->first_moment();
    const std::vector<float>& v = group.adam->second_moment();
    state->first_moment.insert(state->first_moment.end(), m.begin(), m.end());
    state->second_moment.insert(state->second_moment.end(), v.begin(), v.end());
  }
  if (average_) {
    state->average = average_->average();
    state->average_updates = average_->updates();
  }
}

absl::Status Updater::Restore(const TrainState& state) {
  const size_t count = Values().size();
  if (state.parameters.size() != count || state.first_moment.size() != count ||
      state.second_moment.size() != count ||
      state.average.size() != (average_ ? average_->average().size() : 0)) {
    return absl::DataLossError("training state: does not fit this run");
  }
  SetValues(state.parameters);
  auto m = state.first_moment.begin(), v = state.second_moment.begin();
  for (Group& group : groups_) {
    const auto size = static_cast<std::ptrdiff_t>(group.adam->first_moment().size());
    group.adam->Restore({m, m + size}, {v, v + size}, state.step);
    m += size;
    v += size;
  }
  if (average_) average_->Restore(state.average, state.average_updates);
  before_.reset();
  return absl::OkStatus();
}

}  // namespace bflow
