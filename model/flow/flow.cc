#include "model/flow/flow.h"

#include <algorithm>
#include <optional>
#include <string>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/zeros.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/checkpoint/repository.h"
#include "model/flow/materialize.h"
#include "model/layers/conv2d_coupling.h"
#include "model/layers/squeeze.h"

namespace bflow {
namespace {

std::shared_ptr<torch::nn::Module> Child(torch::nn::Module& parent, const std::string& name) {
  return parent.register_module(name, std::make_shared<torch::nn::Module>(name));
}

}  // namespace

Flow::Layers Flow::MakeLayers(torch::nn::Module& parent, const std::vector<LayerSpec>& specs,
                              const LevelShape& shape, const LayerRegistry& registry,
                              at::Generator& generator) const {
  Layers layers;
  for (size_t k = 0; k < specs.size(); ++k) {
    const LayerFactory& make = registry.at(std::string(LayerKind(specs[k])));
    layers.push_back(
        parent.register_module(std::to_string(k), make(specs[k], shape, generator, dtype_)));
  }
  return layers;
}

Flow::Flow(const FlowSpec& spec, uint64_t seed, at::ScalarType dtype, const LayerRegistry& registry)
    : torch::nn::Module("flow"),
      spec_(spec),
      dtype_(dtype),
      channel_dimension_(spec.is_image() ? 1 : 2) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  pre_ = MakeLayers(*Child(*this, "pre"), spec.pre, EventLevelShape(spec), registry, generator);
  auto levels = Child(*this, "levels");
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const LevelSpec& level_spec = spec.levels[l];
    const LevelShape shape = ShapeAtLevel(spec, l);
    auto module = Child(*levels, std::to_string(l));
    auto blocks = Child(*module, "blocks");
    Level& level = levels_.emplace_back();
    level.squeeze = level_spec.squeeze;
    level.split = level_spec.split;
    const std::vector<NamedBlock> named = BlocksOf(level_spec);
    for (size_t j = 0; j < named.size(); ++j) {
      const bool is_prior = j >= level_spec.blocks.size();
      auto block = is_prior ? Child(*module, "prior") : Child(*blocks, std::to_string(j));
      level.blocks.push_back(MakeLayers(*block, *named[j].layers, shape, registry, generator));
      std::vector<bool>& coupling = level.coupling.emplace_back();
      for (const LayerSpec& layer : *named[j].layers) coupling.push_back(IsCoupling(layer));
    }
  }
  base_ = register_module("base", MakeBase(spec, dtype));
  for (const auto& module : modules(/*include_self=*/false)) {
    if (auto* layer = dynamic_cast<Conv1x1Layer*>(module.get())) convolutions_1x1_.push_back(layer);
  }
}

absl::StatusOr<std::shared_ptr<Flow>> Flow::Create(const FlowSpec& spec, uint64_t seed,
                                                   at::ScalarType dtype,
                                                   const LayerRegistry& registry) {
  BFLOW_RETURN_IF_ERROR(ValidateFlowSpec(spec));
  return std::shared_ptr<Flow>(new Flow(spec, seed, dtype, registry));
}

absl::StatusOr<std::shared_ptr<Flow>> Flow::Load(const FlowSpec& spec,
                                                 const SafetensorsFile& tensors,
                                                 at::ScalarType dtype,
                                                 const LayerRegistry& registry) {
  BFLOW_RETURN_IF_ERROR(ValidateFlowSpec(spec));
  BFLOW_RETURN_IF_ERROR(CheckTensors(spec, tensors));
  std::shared_ptr<Flow> flow(new Flow(spec, /*seed=*/0, dtype, registry));
  flow->CopyFrom(tensors);
  return flow;
}

void Flow::CopyFrom(const SafetensorsFile& tensors) {
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : NamedTensors()) {
    const TensorView* view = tensors.Find(name);
    TORCH_CHECK(view != nullptr, "CheckTensors let a missing tensor pass");
    tensor.copy_(ToTensor(*view));
  }
}

std::vector<std::pair<std::string, at::Tensor>> Flow::NamedTensors() const {
  const auto parameters = named_parameters();
  const auto buffers = named_buffers();
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const TensorSpec& expected : ExpectedTensors(spec_)) {
    const at::Tensor* tensor = parameters.find(expected.name);
    if (tensor == nullptr) tensor = buffers.find(expected.name);
    TORCH_CHECK(tensor != nullptr, "no layer registered ", expected.name);
    tensors.emplace_back(expected.name, *tensor);
  }
  return tensors;
}

at::Tensor Flow::SqueezeBy(const at::Tensor& x, int64_t factor) const {
  return spec_.is_image() ? Squeeze2d(x, factor) : Squeeze(x, factor);
}

at::Tensor Flow::UnsqueezeBy(const at::Tensor& x, int64_t factor) const {
  return spec_.is_image() ? Unsqueeze2d(x, factor) : Unsqueeze(x, factor);
}

at::Tensor Flow::FirstHalf(const at::Tensor& x) const {
  return x.narrow(channel_dimension_, 0, x.size(channel_dimension_) / 2);
}

at::Tensor Flow::SecondHalf(const at::Tensor& x) const {
  const int64_t half = x.size(channel_dimension_) / 2;
  return x.narrow(channel_dimension_, half, half);
}

at::ScalarType Flow::PreDtype(size_t k) const {
  return ComputesInDouble(spec_.pre[k]) ? at::kDouble : dtype_;
}

bool Flow::HasLayers() const {
  return std::any_of(levels_.begin(), levels_.end(),
                     [](const Level& level) { return !level.blocks.empty(); });
}

Encoded Flow::Encode(const at::Tensor& x, const LayerObserver& observer) {
  const Conv1x1Layer::SharedLogDets log_dets(convolutions_1x1_);
  Encoded encoded;
  encoded.log_det = at::zeros({x.size(0)}, x.options().dtype(at::kDouble));
  at::Tensor h = x;
  const std::optional<size_t> residual = ResidualIndex(spec_);
  for (size_t k = 0; k < pre_.size(); ++k) {
    const Transformed y = pre_[k]->Forward(h.to(PreDtype(k)));
    h = y.value;
    encoded.log_det = encoded.log_det + y.log_det.to(at::kDouble);
    if (residual == k) encoded.residuals = h;
  }
  if (HasLayers()) h = h.to(dtype_);
  for (size_t l = 0; l < levels_.size(); ++l) {
    const Level& level = levels_[l];
    h = SqueezeBy(h, level.squeeze);
    for (size_t j = 0; j < level.blocks.size(); ++j) {
      for (size_t k = 0; k < level.blocks[j].size(); ++k) {
        Transformed y = level.blocks[j][k]->Forward(h);
        if (observer) observer(l, j, k, y);
        h = y.value;
        const at::Tensor log_det = y.log_det.to(at::kDouble);
        encoded.log_det = encoded.log_det + log_det;
        if (level.coupling[j][k]) encoded.coupling_log_dets.push_back(log_det);
      }
    }
    const bool last = l + 1 == levels_.size();
    encoded.level_latents.push_back(last          ? h
                                    : level.split ? SecondHalf(h)
                                                  : h.narrow(channel_dimension_, 0, 0));
    if (level.split) h = FirstHalf(h);
  }
  encoded.latent = Assemble(encoded.level_latents);
  return encoded;
}

at::Tensor Flow::Assemble(const std::vector<at::Tensor>& level_latents) const {
  at::Tensor h;
  for (size_t l = levels_.size(); l-- > 0;) {
    if (!h.defined()) {
      h = level_latents[l];
    } else if (levels_[l].split) {
      h = at::cat({h, level_latents[l]}, channel_dimension_);
    }
    h = UnsqueezeBy(h, levels_[l].squeeze);
  }
  return h;
}

std::vector<at::Tensor> Flow::SplitLatent(const at::Tensor& z) const {
  std::vector<at::Tensor> level_latents;
  at::Tensor h = z;
  for (size_t l = 0; l < levels_.size(); ++l) {
    h = SqueezeBy(h, levels_[l].squeeze);
    const bool last = l + 1 == levels_.size();
    level_latents.push_back(last               ? h
                            : levels_[l].split ? SecondHalf(h)
                                               : h.narrow(channel_dimension_, 0, 0));
    if (levels_[l].split) h = FirstHalf(h);
  }
  return level_latents;
}

Transformed Flow::Decode(const at::Tensor& z) {
  const std::vector<at::Tensor> level_latents = SplitLatent(z);
  at::Tensor log_det = at::zeros({z.size(0)}, z.options().dtype(at::kDouble));
  at::Tensor h = level_latents.back();
  const auto invert = [&](const Layers& layers) {
    for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
      Transformed x = (*layer)->Inverse(h);
      h = x.value;
      log_det = log_det + x.log_det.to(at::kDouble);
    }
  };
  for (size_t l = levels_.size(); l-- > 0;) {
    if (levels_[l].split) h = at::cat({h, level_latents[l]}, channel_dimension_);
    const auto& blocks = levels_[l].blocks;
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) invert(*block);
    h = UnsqueezeBy(h, levels_[l].squeeze);
  }
  invert(pre_);
  return {h, log_det};
}

at::Tensor Flow::LogProb(const at::Tensor& x) { return LogProb(Encode(x)); }

at::Tensor Flow::LogProb(const Encoded& encoded) const {
  return base_->LogProb(encoded.level_latents) + encoded.log_det;
}

void Flow::StartNearIdentity() {
  for (const Level& level : levels_) {
    for (size_t j = 0; j < level.blocks.size(); ++j) {
      for (const auto& layer : level.blocks[j]) layer->StartNearIdentity(static_cast<int64_t>(j));
    }
  }
}

void Flow::InitialiseFrom(const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  at::Tensor h = x;
  const auto initialise = [&h](Bijector& layer) {
    layer.InitialiseFrom(h);
    h = layer.Forward(h).value;
  };
  for (size_t k = 0; k < pre_.size(); ++k) {
    h = h.to(PreDtype(k));
    initialise(*pre_[k]);
  }
  h = h.to(dtype_);
  for (const Level& level : levels_) {
    h = SqueezeBy(h, level.squeeze);
    for (const Layers& block : level.blocks) {
      for (const auto& layer : block) initialise(*layer);
    }
    if (level.split) h = FirstHalf(h);
  }
}

void Flow::MoveTo(at::Device device) {
  to(device);
  device_ = device;
}

void Flow::UseBfloat16Convolutions(bool use) {
  for (const auto& module : modules()) {
    if (auto* coupling = module->as<Conv2dCouplingLayer>()) coupling->UseBfloat16(use);
  }
}

void Flow::Freeze() {
  convolutions_1x1_.clear();
  for (const auto& layer : pre_) layer->Freeze();
  for (const Level& level : levels_) {
    for (const Layers& block : level.blocks) {
      for (const auto& layer : block) layer->Freeze();
    }
  }
}

}  // namespace bflow
