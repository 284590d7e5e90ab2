#include "model/flow/base_distribution.h"

#include <cmath>
#include <numbers>
#include <string>

#include "ATen/ops/full.h"
#include "ATen/ops/lgamma.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/zeros.h"

namespace bflow {

at::Tensor BaseDistribution::LogProb(const std::vector<at::Tensor>& level_latents) const {
  at::Tensor sum;
  for (size_t level = 0; level < level_latents.size(); ++level) {
    const at::Tensor of_level = LogDensity(level, level_latents[level]).flatten(1).sum(1);
    sum = sum.defined() ? sum + of_level : of_level;
  }
  return sum;
}

at::Tensor NormalBase::LogDensity(size_t /*level*/, const at::Tensor& latents) const {
  return -0.5 * (latents.to(at::kDouble).square() + std::log(2 * std::numbers::pi));
}

at::Tensor LogisticBase::LogDensity(size_t /*level*/, const at::Tensor& latents) const {
  const at::Tensor size = latents.to(at::kDouble).abs();
  return -size - 2 * at::log1p((-size).exp());
}

StudentTBase::StudentTBase(const FlowSpec& spec, at::ScalarType dtype)
    : is_image_(spec.is_image()) {
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    Level& level = levels_.emplace_back();
    const int64_t channels = LatentChannels(spec, l);
    if (channels == 0) continue;
    const std::string name = std::to_string(l);
    auto module = register_module(name, std::make_shared<torch::nn::Module>(name));
    level.log_degrees = module->register_parameter(
        "log_degrees", at::full({channels}, std::log(5.0), at::TensorOptions(dtype)));
    level.log_scale =
        module->register_parameter("log_scale", at::zeros({channels}, at::TensorOptions(dtype)));
  }
}

BaseDistribution::Marginals StudentTBase::LevelMarginals(size_t level) const {
  const auto per_channel = [this](const at::Tensor& values) {
    const at::Tensor exact = values.to(at::kDouble).exp();
    return is_image_ ? exact.view({-1, 1, 1}) : exact;
  };
  if (!levels_[level].log_scale.defined()) return {};
  return {1 + per_channel(levels_[level].log_degrees), per_channel(levels_[level].log_scale)};
}

at::Tensor StudentTBase::LogDensity(size_t level, const at::Tensor& latents) const {
  const at::Tensor z = latents.to(at::kDouble);
  if (!levels_[level].log_scale.defined()) return z;  // empty
  const auto per_channel = [this](const at::Tensor& values) {
    const at::Tensor exact = values.to(at::kDouble);
    return is_image_ ? exact.view({-1, 1, 1}) : exact;
  };
  const at::Tensor log_scale = per_channel(levels_[level].log_scale);
  const at::Tensor degrees = 1 + per_channel(levels_[level].log_degrees).exp();
  const at::Tensor half = (degrees + 1) / 2;
  const at::Tensor normaliser = at::lgamma(half) - at::lgamma(degrees / 2) -
                                (degrees * std::numbers::pi).log() / 2 - log_scale;
  const at::Tensor q = z * (-log_scale).exp();
  return normaliser - half * at::log1p(q.square() / degrees);
}

std::shared_ptr<BaseDistribution> MakeBase(const FlowSpec& spec, at::ScalarType dtype) {
  if (spec.base == BaseKind::kStudentT) return std::make_shared<StudentTBase>(spec, dtype);
  if (spec.base == BaseKind::kLogistic) return std::make_shared<LogisticBase>();
  return std::make_shared<NormalBase>();
}

}  // namespace bflow
