#include "tests/golden/compare.h"

#include <map>
#include <utility>

#include "ATen/CPUGeneratorImpl.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/flow/base_distribution.h"
#include "model/flow/materialize.h"
#include "tests/golden/plain_layers.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow::golden {
namespace {

at::Tensor StandardNormal(const at::Tensor& z) {
  return NormalBase().LogDensity(0, z).flatten(1).sum(1);
}

}  // namespace

absl::Status CompareMap(const SafetensorsFile& file, const Map& map, at::ScalarType dtype,
                        Comparisons& comparisons) {
  const std::string output = file.Find("out.z") != nullptr ? "z" : "y";
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x64, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor y64, Require(file, "out." + output));
  const bool wants_gradient = file.Find("out.grad_x") != nullptr;
  const c10::AutoGradMode grad_mode(wants_gradient);
  const at::Tensor x = x64.to(dtype, /*non_blocking=*/false, /*copy=*/true);
  x.requires_grad_(wants_gradient);
  const Transformed y = map.forward(x);
  const at::Tensor log_p = StandardNormal(y.value) + y.log_det;
  std::map<std::string, at::Tensor> values = {
      {"out." + output, y.value}, {"out.logdet", y.log_det}, {"out.logp", log_p}};
  if (wants_gradient) {
    values["out.grad_x"] = torch::autograd::grad({log_p.sum()}, {x})[0];
  }
  const c10::NoGradGuard no_grad;
  const Transformed back = map.inverse(y64.to(dtype));
  values["out.inverse_of_" + output] = back.value;
  for (const auto& [name, value] : values) {
    if (file.Find(name) == nullptr) continue;
    BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, name));
    if (name == "out.logdet") {
      comparisons.push_back({"log-determinant of the inverse", -back.log_det, expected});
    }
    comparisons.push_back({name, value, std::move(expected)});
  }
  if (file.Find("in.z") == nullptr) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor z64, Require(file, "in.z"));
  const Transformed decoded = map.inverse(z64.to(dtype));
  BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, "out.decoded"));
  comparisons.push_back({"out.decoded", decoded.value, std::move(expected)});
  if (file.Find("out.decoded_logp") == nullptr) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(expected, Require(file, "out.decoded_logp"));
  comparisons.push_back(
      {"out.decoded_logp", StandardNormal(z64.to(dtype)) - decoded.log_det, std::move(expected)});
  return absl::OkStatus();
}

absl::Status SetTensors(Bijector& layer, const TensorMap& tensors) {
  const c10::NoGradGuard no_grad;
  size_t set = 0;
  for (const auto& named : {layer.named_parameters(), layer.named_buffers()}) {
    for (const auto& item : named) {
      const auto found = tensors.find(item.key());
      if (found == tensors.end()) {
        return absl::InvalidArgumentError(absl::StrCat(item.key(), ": the tensor is missing"));
      }
      if (found->second.sizes() != item.value().sizes()) {
        return absl::InvalidArgumentError(absl::StrCat(item.key(), ": unexpected shape"));
      }
      at::Tensor target = item.value();
      target.copy_(found->second);
      ++set;
    }
  }
  if (set != tensors.size()) return absl::InvalidArgumentError("more weights than the layer has");
  return absl::OkStatus();
}

Map MapOf(std::shared_ptr<Bijector> layer) {
  return {[layer](const at::Tensor& x) { return layer->Forward(x); },
          [layer](const at::Tensor& z) { return layer->Inverse(z); }};
}

Map MapOf(std::shared_ptr<Flow> flow) {
  return {[flow](const at::Tensor& x) {
            const Encoded encoded = flow->Encode(x);
            return Transformed{encoded.latent, encoded.log_det};
          },
          [flow](const at::Tensor& z) { return flow->Decode(z); }};
}

at::Generator AnyGenerator() { return at::make_generator<at::CPUGeneratorImpl>(uint64_t{0}); }

absl::StatusOr<std::shared_ptr<Bijector>> MakeLayer(const LayerSpec& spec, const LevelShape& shape,
                                                    const TensorMap& tensors, const Mode& mode) {
  const LayerRegistry& registry = mode.plain ? PlainLayers() : BuiltInLayers();
  at::Generator generator = AnyGenerator();
  std::shared_ptr<Bijector> layer =
      registry.at(std::string(LayerKind(spec)))(spec, shape, generator, mode.dtype);
  BFLOW_RETURN_IF_ERROR(SetTensors(*layer, tensors));
  if (mode.frozen) layer->Freeze();
  return layer;
}

absl::StatusOr<std::shared_ptr<Flow>> LoadFlow(const FlowSpec& spec, const TensorMap& golden,
                                               const Mode& mode) {
  std::vector<at::Tensor> contiguous;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : golden) {
    tensors.push_back(ToWritable(name, contiguous.emplace_back(tensor.contiguous())));
  }
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, SerializeSafetensors(tensors, {}));
  BFLOW_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Parse(std::move(bytes)));
  BFLOW_ASSIGN_OR_RETURN(
      auto flow, Flow::Load(spec, file, mode.dtype, mode.plain ? PlainLayers() : BuiltInLayers()));
  if (mode.frozen) flow->Freeze();
  return flow;
}

absl::Status CompareInitialisation(const SafetensorsFile& file, const LayerSpec& spec,
                                   const LevelShape& shape, const TensorMap& before,
                                   const TensorMap& after, const Mode& mode,
                                   Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "init.x"));
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(spec, shape, before, mode));
  const c10::NoGradGuard no_grad;
  layer->InitialiseFrom(x.to(mode.dtype));
  const auto parameters = layer->named_parameters();
  for (const auto& [name, expected] : after) {
    comparisons.push_back(
        {absl::StrCat(name, " after initialisation"), parameters[name], expected});
  }
  const Transformed y = layer->Forward(x.to(mode.dtype));
  for (const auto& [name, value] :
       {std::pair("init.y", y.value), std::pair("init.logdet", y.log_det)}) {
    if (file.Find(name) == nullptr) continue;
    BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, name));
    comparisons.push_back({name, value, std::move(expected)});
  }
  return absl::OkStatus();
}

absl::Status CompareLatents(const SafetensorsFile& file, FlowSpec spec, const Mode& mode,
                            Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  for (LevelSpec& level : spec.levels) level.blocks = {{ActNormSpec{}}};
  BFLOW_ASSIGN_OR_RETURN(const auto flow, Flow::Create(spec, /*seed=*/0, mode.dtype));
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : flow->NamedTensors()) tensor.zero_();
  const Encoded encoded = flow->Encode(x.to(mode.dtype));
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const std::string name = absl::StrCat("out.latent_level", l);
    BFLOW_ASSIGN_OR_RETURN(at::Tensor latents, Require(file, name));
    comparisons.push_back({name, encoded.level_latents[l], std::move(latents)});
  }
  return CompareMap(file, MapOf(flow), mode.dtype, comparisons);
}

}  // namespace bflow::golden
