#include "model/training/adam.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace bflow {
namespace {

size_t TotalSize(const std::vector<std::span<float>>& parameters) {
  size_t total = 0;
  for (std::span<float> p : parameters) total += p.size();
  return total;
}

}  // namespace

Adam::Adam(std::vector<std::span<float>> parameters, const AdamOptions& options)
    : parameters_(std::move(parameters)),
      options_(options),
      first_moment_(TotalSize(parameters_)),
      second_moment_(first_moment_.size()) {}

void Adam::Step(double rate, const std::vector<std::span<const float>>& gradients) {
  ++updates_;
  const double t = static_cast<double>(updates_);
  const float b1 = static_cast<float>(options_.beta1);
  const float b2 = static_cast<float>(options_.beta2);
  const float c1 = static_cast<float>(1 - options_.beta1);
  const float c2 = static_cast<float>(1 - options_.beta2);
  const float step = static_cast<float>(rate / (1 - std::pow(options_.beta1, t)));
  const float root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, t)));
  const float epsilon = static_cast<float>(options_.epsilon);
  float* m = first_moment_.data();
  float* v = second_moment_.data();
  for (size_t k = 0; k < parameters_.size(); ++k) {
    float* p = parameters_[k].data();
    const float* g = gradients[k].data();
    const size_t n = parameters_[k].size();
    for (size_t i = 0; i < n; ++i) {
      m[i] = b1 * m[i] + c1 * g[i];
      v[i] = b2 * v[i] + c2 * g[i] * g[i];
      p[i] -= step * m[i] / (std::sqrt(v[i]) * root_correction + epsilon);
    }
    m += n;
    v += n;
  }
}

void Adam::Restore(std::vector<float> first_moment, std::vector<float> second_moment,
                   int64_t updates) {
  first_moment_ = std::move(first_moment);
  second_moment_ = std::move(second_moment);
  updates_ = updates;
}

ExponentialAverage::ExponentialAverage(std::vector<std::span<float>> parameters, double decay,
                                       DecayStart start)
    : parameters_(std::move(parameters)),
      decay_(decay),
      start_(start),
      average_(CopyValues(parameters_)) {}

void ExponentialAverage::Update() {
  ++updates_;
  const double t = static_cast<double>(updates_);
  const bool growing = start_ == DecayStart::kGrowing;
  const float d = static_cast<float>(growing ? std::min(decay_, (1 + t) / (10 + t)) : decay_);
  float* average = average_.data();
  for (std::span<float> p : parameters_) {
    for (size_t i = 0; i < p.size(); ++i) average[i] += (1 - d) * (p[i] - average[i]);
    average += p.size();
  }
}

void ExponentialAverage::Restore(std::vector<float> average, int64_t updates) {
  average_ = std::move(average);
  updates_ = updates;
}

void ExponentialAverage::Swap() {
  auto average = average_.begin();
  for (std::span<float> p : parameters_) {
    std::swap_ranges(p.begin(), p.end(), average);
    average += static_cast<std::ptrdiff_t>(p.size());
  }
}

std::vector<float> CopyValues(const std::vector<std::span<float>>& parameters) {
  std::vector<float> values;
  values.reserve(TotalSize(parameters));
  for (std::span<float> p : parameters) values.insert(values.end(), p.begin(), p.end());
  return values;
}

void RestoreValues(const std::vector<float>& values,
                   const std::vector<std::span<float>>& parameters) {
  auto next = values.begin();
  for (std::span<float> p : parameters) {
    std::copy_n(next, p.size(), p.begin());
    next += static_cast<std::ptrdiff_t>(p.size());
  }
}

}  // namespace bflow
