#include "model/training/adam.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ATen/ops/_fused_adam.h"
#include "ATen/ops/full.h"
#include "ATen/ops/zeros_like.h"

namespace bflow {

Adam::Adam(const at::Tensor& parameters, const AdamOptions& options)
    : parameters_(parameters),
      options_(options),
      state_{at::zeros_like(parameters), at::zeros_like(parameters), 0} {}

void Adam::Step(double rate, const at::Tensor& gradients) {
  ++state_.updates;
  if (parameters_.is_cpu()) return StepOnCpu(rate, gradients);
  const at::Tensor updates = at::full({}, static_cast<double>(state_.updates),
                                      at::TensorOptions(at::kFloat).device(parameters_.device()));
  at::_fused_adam_({parameters_}, {gradients}, {state_.first_moment}, {state_.second_moment},
                   /*max_exp_avg_sqs=*/{}, {updates}, rate, options_.beta1, options_.beta2,
                   /*weight_decay=*/0, options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
}

// One loop whose results do not depend on the processor's vector units, as a run must be
// repeatable to the bit.
void Adam::StepOnCpu(double rate, const at::Tensor& gradients) {
  const double t = static_cast<double>(state_.updates);
  const float b1 = static_cast<float>(options_.beta1);
  const float b2 = static_cast<float>(options_.beta2);
  const float c1 = static_cast<float>(1 - options_.beta1);
  const float c2 = static_cast<float>(1 - options_.beta2);
  const float step = static_cast<float>(rate / (1 - std::pow(options_.beta1, t)));
  const float root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, t)));
  const float epsilon = static_cast<float>(options_.epsilon);
  float* const p = parameters_.data_ptr<float>();
  float* const m = state_.first_moment.data_ptr<float>();
  float* const v = state_.second_moment.data_ptr<float>();
  const float* const g = gradients.const_data_ptr<float>();
  for (int64_t i = 0; i < parameters_.numel(); ++i) {
    m[i] = b1 * m[i] + c1 * g[i];
    v[i] = b2 * v[i] + c2 * g[i] * g[i];
    p[i] -= step * m[i] / (std::sqrt(v[i]) * root_correction + epsilon);
  }
}

Adam::State Adam::CopyState() const {
  return {state_.first_moment.clone(), state_.second_moment.clone(), state_.updates};
}

ExponentialAverage::ExponentialAverage(const at::Tensor& parameters, double decay, DecayStart start)
    : parameters_(parameters), decay_(decay), start_(start), average_(parameters.clone()) {}

void ExponentialAverage::Update() {
  ++updates_;
  const double t = static_cast<double>(updates_);
  const bool growing = start_ == DecayStart::kGrowing;
  const float d = static_cast<float>(growing ? std::min(decay_, (1 + t) / (10 + t)) : decay_);
  if (!parameters_.is_cpu()) {
    average_.lerp_(parameters_, 1 - d);
    return;
  }
  const float* const p = parameters_.const_data_ptr<float>();
  float* const average = average_.data_ptr<float>();
  for (int64_t i = 0; i < parameters_.numel(); ++i) average[i] += (1 - d) * (p[i] - average[i]);
}

void ExponentialAverage::Restore(const at::Tensor& average, int64_t updates) {
  average_.copy_(average);
  updates_ = updates;
}

void ExponentialAverage::Swap() {
  at::Tensor average = parameters_.clone();
  parameters_.copy_(average_);
  average_ = std::move(average);
}

}  // namespace bflow
