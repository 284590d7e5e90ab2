// A whole flow built from a flow_spec: squeeze, blocks of layers and split per level, latents
// re-assembled into the shape of the event, a base density.
#ifndef BFLOW_MODEL_FLOW_FLOW_H_
#define BFLOW_MODEL_FLOW_FLOW_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/safetensors.h"
#include "model/flow/base_distribution.h"
#include "model/flow/layer_registry.h"
#include "model/layers/bijector.h"
#include "model/layers/conv1x1.h"

namespace bflow {

struct Encoded {
  at::Tensor latent;   // [B, event...], the API order
  at::Tensor log_det;  // [B], nats
  // Whitening's residuals or a box's latents [B, T, C]; undefined where ResidualIndex is none.
  at::Tensor residuals;
  // Per level what it leaves behind: [B, T_l, C] or [B, C, H_l, W_l]; no channels where nothing is.
  std::vector<at::Tensor> level_latents;
  std::vector<at::Tensor> coupling_log_dets;  // per coupling in order of the layers, [B]
};

// Sees what each layer of the levels returns in Encode: level, block (the prior step counts as one
// more), position in the block.
using LayerObserver = std::function<void(size_t, size_t, size_t, const Transformed&)>;

class Flow : public torch::nn::Module {
 public:
  // A flow with freshly drawn parameters, as each layer's header tells. `seed` decides every draw.
  // dtype: at::kFloat or at::kDouble. Errors: InvalidArgument (ValidateFlowSpec).
  static absl::StatusOr<std::shared_ptr<Flow>> Create(
      const FlowSpec& spec, uint64_t seed, at::ScalarType dtype,
      const LayerRegistry& registry = BuiltInLayers());
  // A flow with the tensors of a model file, converted to `dtype`. Errors: DataLoss naming the
  // tensor (missing, unknown, of another shape or type, not finite, not invertible).
  static absl::StatusOr<std::shared_ptr<Flow>> Load(
      const FlowSpec& spec, const SafetensorsFile& tensors, at::ScalarType dtype,
      const LayerRegistry& registry = BuiltInLayers());

  // x: [B, event...] in the scaled unit. Log-determinants are float64 whatever the dtype of x.
  Encoded Encode(const at::Tensor& x, const LayerObserver& observer = {});
  // z: [B, event...]. log_det is that of z -> x.
  Transformed Decode(const at::Tensor& z);
  // log p(x) per row: [B], nats, scaled unit; float64 whatever the dtype of x.
  at::Tensor LogProb(const at::Tensor& x);
  at::Tensor LogProb(const Encoded& encoded) const;
  const BaseDistribution& base() const { return *base_; }
  // Latents in the API order <-> per level.
  std::vector<at::Tensor> SplitLatent(const at::Tensor& z) const;
  at::Tensor Assemble(const std::vector<at::Tensor>& level_latents) const;

  // Replaces the parameters that Create drew by those of Bijector::StartNearIdentity.
  void StartNearIdentity();
  // Data-dependent initialisation, layer by layer: each is initialised, then feeds the next.
  void InitialiseFrom(const at::Tensor& x);
  void Freeze();
  // Whether the convolutions of image couplings that are not frozen compute in bfloat16.
  void UseBfloat16Convolutions(bool use);

  const FlowSpec& spec() const { return spec_; }
  at::ScalarType dtype() const { return dtype_; }
  // What x should be: float64 where NeedsDoubleInput(spec()), else dtype().
  at::ScalarType input_dtype() const { return NeedsDoubleInput(spec_) ? at::kDouble : dtype_; }
  at::Device device() const { return device_; }
  // Moves all tensors; before Freeze, which computes constants where the tensors are.
  void MoveTo(at::Device device);
  // Every tensor of the model file (parameters and buffers), named and ordered as
  // ExpectedTensors(spec).
  std::vector<std::pair<std::string, at::Tensor>> NamedTensors() const;

 private:
  Flow(const FlowSpec& spec, uint64_t seed, at::ScalarType dtype, const LayerRegistry& registry);
  void CopyFrom(const SafetensorsFile& tensors);

  using Layers = std::vector<std::shared_ptr<Bijector>>;
  struct Level {
    int squeeze;
    bool split;
    std::vector<Layers> blocks;               // the prior step last
    std::vector<std::vector<bool>> coupling;  // of each layer: its log_det is a feature
  };
  Layers MakeLayers(torch::nn::Module& parent, const std::vector<LayerSpec>& specs,
                    const LevelShape& shape, const LayerRegistry& registry,
                    at::Generator& generator) const;
  // Some level has layers; without them latents stay as `pre` leaves them, in float64.
  bool HasLayers() const;
  // Layer k of `pre` computes in float64 or in dtype_.
  at::ScalarType PreDtype(size_t k) const;
  at::Tensor SqueezeBy(const at::Tensor& x, int64_t factor) const;
  at::Tensor UnsqueezeBy(const at::Tensor& x, int64_t factor) const;
  at::Tensor FirstHalf(const at::Tensor& x) const;
  at::Tensor SecondHalf(const at::Tensor& x) const;

  FlowSpec spec_;
  at::ScalarType dtype_;
  at::Device device_ = at::kCPU;
  int64_t channel_dimension_;  // of a batch
  Layers pre_;
  std::vector<Level> levels_;
  std::vector<Conv1x1Layer*> convolutions_1x1_;  // of the levels; none once they are frozen
  std::shared_ptr<BaseDistribution> base_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_FLOW_FLOW_H_
