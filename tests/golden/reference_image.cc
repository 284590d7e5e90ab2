// The authors' names of the image flow, under ours.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "tests/golden/reference_names.h"

namespace bflow::golden {

absl::StatusOr<TensorMap> ConvolutionTensors(const SafetensorsFile& file,
                                             const std::string& prefix) {
  TensorMap tensors;
  for (int n = 0; n < 3; ++n) {
    const std::string theirs = absl::StrCat(prefix, "conv", n + 1, ".conv.");
    const std::string ours = absl::StrCat("net.", n, ".");
    BFLOW_ASSIGN_OR_RETURN(tensors[ours + "direction"], Require(file, theirs + "weight_v"));
    BFLOW_ASSIGN_OR_RETURN(const at::Tensor gain, Require(file, theirs + "weight_g"));
    BFLOW_ASSIGN_OR_RETURN(tensors[ours + "bias"], Require(file, theirs + "bias"));
    tensors[ours + "gain"] = gain.flatten();
  }
  return tensors;
}

namespace {

// The butterfly under prefix, appended to *layers; nothing where it has no factors.
absl::Status AddButterfly(const SafetensorsFile& file, const std::string& prefix,
                          const Json& config, std::vector<LayerSpec>* layers, TensorMap* tensors) {
  BFLOW_ASSIGN_OR_RETURN(const std::vector<at::Tensor> factors, Factors(file, prefix + "model."));
  if (factors.empty()) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(const bool widest_first, BoolField(config, "reverse_perm", true));
  BFLOW_ASSIGN_OR_RETURN(const bool hwc, BoolField(config, "permute_channel", false));
  ButterflySpec butterfly;
  butterfly.factors = static_cast<int>(factors.size());
  butterfly.shared = false;
  butterfly.order = widest_first ? ButterflyOrder::kWidestFirst : ButterflyOrder::kNarrowestFirst;
  butterfly.flatten = hwc ? ImageFlattening::kHwc : ImageFlattening::kChw;
  for (size_t f = 0; f < factors.size(); ++f) {
    (*tensors)[absl::StrCat(layers->size(), ".factors.", f)] = factors[f];
  }
  layers->push_back(butterfly);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImageStep> ReadImageStep(const SafetensorsFile& file, const std::string& prefix,
                                        const std::string& coupling, const Json& config) {
  ImageStep step;
  const auto next = [&step] { return absl::StrCat(step.layers.size(), "."); };
  BFLOW_ASSIGN_OR_RETURN(TensorMap tensors, ActNormTensors(file, prefix + "actnorm.", "log_scale"));
  Merge(std::move(tensors), next(), step.tensors);
  step.layers.push_back(ActNormSpec{});
  BFLOW_ASSIGN_OR_RETURN(const bool has_conv1x1, BoolField(config, "use_conv1by1", true));
  if (has_conv1x1) {
    BFLOW_ASSIGN_OR_RETURN(step.tensors[next() + "weight"],
                           Require(file, prefix + "conv1x1.weight"));
    step.layers.push_back(Conv1x1Spec{});
  }
  BFLOW_RETURN_IF_ERROR(
      AddButterfly(file, prefix + "butterfly.", config, &step.layers, &step.tensors));
  BFLOW_ASSIGN_OR_RETURN(tensors, ConvolutionTensors(file, prefix + coupling + ".net."));
  Conv2dCouplingSpec spec;
  spec.hidden = static_cast<int>(tensors.at("net.0.bias").numel());
  Merge(std::move(tensors), next(), step.tensors);
  step.layers.push_back(spec);
  return step;
}

absl::StatusOr<ImageFlow> ReadImageFlow(const SafetensorsFile& file, const Json& config) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const int64_t levels, IntField(config, "levels"));
  BFLOW_ASSIGN_OR_RETURN(const bool in_steps, BoolField(config, "use_intermediate_perm", true));
  if (x.dim() != 4 || levels < 1 || levels > 16) {
    return absl::InvalidArgumentError("in.x or config.levels: out of range");
  }
  ImageFlow flow;
  flow.spec = EmptySpec({x.size(1), x.size(2), x.size(3)}, levels);
  TensorMap before;
  if (!in_steps) {
    BFLOW_RETURN_IF_ERROR(
        AddButterfly(file, "sd.flow.flow.butterfly.", config, &flow.spec.pre, &before));
  }
  Merge(std::move(before), "pre.", flow.tensors);
  for (int64_t l = 0; l < levels; ++l) {
    LevelSpec& level = flow.spec.levels[l];
    const std::string theirs = absl::StrCat("sd.flow.flow.blocks.", l, ".");
    const std::string ours = absl::StrCat("levels.", l, ".");
    for (int64_t s = 0;; ++s) {
      const std::string prefix = absl::StrCat(theirs, "steps.", s, ".");
      if (file.Find(prefix + "actnorm.bias") == nullptr) break;
      BFLOW_ASSIGN_OR_RETURN(ImageStep step, ReadImageStep(file, prefix, "coupling", config));
      Merge(std::move(step.tensors), absl::StrCat(ours, "blocks.", s, "."), flow.tensors);
      level.blocks.push_back(std::move(step.layers));
    }
    if (!level.split) continue;
    BFLOW_ASSIGN_OR_RETURN(ImageStep prior, ReadImageStep(file, theirs + "prior.", "nice", config));
    Merge(std::move(prior.tensors), ours + "prior.", flow.tensors);
    level.prior = std::move(prior.layers);
  }
  return flow;
}

}  // namespace bflow::golden
