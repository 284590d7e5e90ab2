#include "model/flow/flow.h"

#include <cmath>
#include <numbers>
#include <variant>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/zeros.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/checkpoint/repository.h"
#include "model/flow/materialize.h"
#include "model/layers/squeeze.h"

namespace bflow {
namespace {

std::shared_ptr<torch::nn::Module> Child(torch::nn::Module& parent, const std::string& name) {
  return parent.register_module(name, std::make_shared<torch::nn::Module>(name));
}

at::Tensor FirstHalf(const at::Tensor& x) { return x.narrow(2, 0, x.size(2) / 2); }
at::Tensor SecondHalf(const at::Tensor& x) { return x.narrow(2, x.size(2) / 2, x.size(2) / 2); }

}  // namespace

Flow::Flow(const FlowSpec& spec, uint64_t seed, at::ScalarType dtype, const LayerRegistry& registry)
    : torch::nn::Module("flow"), spec_(spec), dtype_(dtype) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  auto levels = Child(*this, "levels");
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const LevelSpec& level_spec = spec.levels[l];
    const LevelShape shape = ShapeAtLevel(spec, l);
    auto blocks = Child(*Child(*levels, std::to_string(l)), "blocks");
    Level& level = levels_.emplace_back();
    level.squeeze = level_spec.squeeze;
    level.split = level_spec.split;
    for (size_t j = 0; j < level_spec.blocks.size(); ++j) {
      auto block = Child(*blocks, std::to_string(j));
      std::vector<std::shared_ptr<Bijector>>& layers = level.blocks.emplace_back();
      for (size_t k = 0; k < level_spec.blocks[j].size(); ++k) {
        const LayerSpec& layer_spec = level_spec.blocks[j][k];
        const LayerFactory& make = registry.at(std::string(LayerKind(layer_spec)));
        layers.push_back(
            block->register_module(std::to_string(k), make(layer_spec, shape, generator, dtype)));
      }
    }
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

Encoded Flow::Encode(const at::Tensor& x, const LayerObserver& observer) {
  Encoded encoded;
  encoded.log_det = at::zeros({x.size(0)}, x.options().dtype(at::kDouble));
  std::vector<at::Tensor> split_off;  // [B, T_l, C_l / 2] per level, undefined where nothing is
  at::Tensor h = x;
  for (size_t l = 0; l < levels_.size(); ++l) {
    const Level& level = levels_[l];
    h = Squeeze(h, level.squeeze);
    for (size_t j = 0; j < level.blocks.size(); ++j) {
      for (size_t k = 0; k < level.blocks[j].size(); ++k) {
        Transformed y = level.blocks[j][k]->Forward(h);
        if (observer) observer(l, j, k, y);
        h = y.value;
        const at::Tensor log_det = y.log_det.to(at::kDouble);
        encoded.log_det = encoded.log_det + log_det;
        if (std::holds_alternative<AffineCouplingSpec>(spec_.levels[l].blocks[j][k])) {
          encoded.coupling_log_dets.push_back(log_det);
        }
      }
    }
    split_off.push_back(level.split ? SecondHalf(h) : at::Tensor());
    const bool last = l + 1 == levels_.size();
    const at::Tensor latents = last ? h : split_off.back();
    encoded.level_latents.push_back(latents.defined() ? latents.flatten(1)
                                                      : at::zeros({x.size(0), 0}, h.options()));
    if (level.split) h = FirstHalf(h);
  }
  for (size_t l = levels_.size(); l-- > 0;) {
    if (split_off[l].defined()) h = at::cat({h, split_off[l]}, 2);
    h = Unsqueeze(h, levels_[l].squeeze);
  }
  encoded.latent = h;
  return encoded;
}

Transformed Flow::Decode(const at::Tensor& z) {
  std::vector<at::Tensor> split_off;
  at::Tensor h = z;
  for (const Level& level : levels_) {
    h = Squeeze(h, level.squeeze);
    split_off.push_back(level.split ? SecondHalf(h) : at::Tensor());
    if (level.split) h = FirstHalf(h);
  }
  at::Tensor log_det = at::zeros({z.size(0)}, z.options().dtype(at::kDouble));
  for (size_t l = levels_.size(); l-- > 0;) {
    if (split_off[l].defined()) h = at::cat({h, split_off[l]}, 2);
    const auto& blocks = levels_[l].blocks;
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
      for (auto layer = block->rbegin(); layer != block->rend(); ++layer) {
        Transformed x = (*layer)->Inverse(h);
        h = x.value;
        log_det = log_det + x.log_det.to(at::kDouble);
      }
    }
    h = Unsqueeze(h, levels_[l].squeeze);
  }
  return {h, log_det};
}

at::Tensor Flow::BaseLogProb(const at::Tensor& z) {
  const at::Tensor values = z.to(at::kDouble).flatten(1);
  const double normaliser =
      0.5 * std::log(2 * std::numbers::pi) * static_cast<double>(values.size(1));
  return -0.5 * values.square().sum(1) - normaliser;
}

at::Tensor Flow::LogProb(const at::Tensor& x) {
  const Encoded encoded = Encode(x);
  return BaseLogProb(encoded.latent) + encoded.log_det;
}

void Flow::InitialiseFrom(const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  at::Tensor h = x;
  for (Level& level : levels_) {
    h = Squeeze(h, level.squeeze);
    for (auto& block : level.blocks) {
      for (auto& layer : block) {
        layer->InitialiseFrom(h);
        h = layer->Forward(h).value;
      }
    }
    if (level.split) h = FirstHalf(h);
  }
}

void Flow::MoveTo(at::Device device) {
  to(device);
  device_ = device;
}

void Flow::Freeze() {
  for (Level& level : levels_) {
    for (auto& block : level.blocks) {
      for (auto& layer : block) layer->Freeze();
    }
  }
}

}  // namespace bflow
