// A whole flow built from a flow_spec: squeeze, blocks of layers and split per level, latents
// re-assembled into the shape of the event, a standard normal base.
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
#include "model/flow/layer_registry.h"
#include "model/layers/bijector.h"

namespace bflow {

struct Encoded {
  at::Tensor latent;                          // [B, T, C], the API order
  at::Tensor log_det;                         // [B], nats
  std::vector<at::Tensor> level_latents;      // per level [B, values of that level's latents]
  std::vector<at::Tensor> coupling_log_dets;  // per coupling in order of the layers, [B]
};

// Sees what each layer of Encode returns: level, block, position in the block.
using LayerObserver = std::function<void(size_t, size_t, size_t, const Transformed&)>;

class Flow : public torch::nn::Module {
 public:
  // A flow with freshly drawn parameters, as the authors initialise it (butterfly "rot", LU of a
  // random orthogonal matrix, coupling weights orthogonal with zero bias). `seed` decides every
  // draw. dtype: at::kFloat or at::kDouble. Errors: InvalidArgument (ValidateFlowSpec).
  static absl::StatusOr<std::shared_ptr<Flow>> Create(
      const FlowSpec& spec, uint64_t seed, at::ScalarType dtype,
      const LayerRegistry& registry = BuiltInLayers());
  // A flow with the tensors of a model file, converted to `dtype`. Errors: DataLoss naming the
  // tensor (missing, unknown, of another shape or type, not finite, not invertible).
  static absl::StatusOr<std::shared_ptr<Flow>> Load(
      const FlowSpec& spec, const SafetensorsFile& tensors, at::ScalarType dtype,
      const LayerRegistry& registry = BuiltInLayers());

  // x: [B, T, C] in the scaled unit. Log-determinants are float64 whatever the dtype of x.
  Encoded Encode(const at::Tensor& x, const LayerObserver& observer = {});
  // z: [B, T, C]. log_det is that of z -> x.
  Transformed Decode(const at::Tensor& z);
  // log p(x) per row: [B], nats, scaled unit; float64 whatever the dtype of x.
  at::Tensor LogProb(const at::Tensor& x);
  // Base density of assembled latents: [B] nats, float64.
  static at::Tensor BaseLogProb(const at::Tensor& z);

  // Data-dependent initialisation, layer by layer: each is initialised, then feeds the next.
  void InitialiseFrom(const at::Tensor& x);
  void Freeze();

  const FlowSpec& spec() const { return spec_; }
  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }
  // Moves all tensors; before Freeze, which computes constants where the tensors are.
  void MoveTo(at::Device device);
  // Every tensor of the model file (parameters and buffers), named and ordered as
  // ExpectedTensors(spec).
  std::vector<std::pair<std::string, at::Tensor>> NamedTensors() const;

 private:
  Flow(const FlowSpec& spec, uint64_t seed, at::ScalarType dtype, const LayerRegistry& registry);
  void CopyFrom(const SafetensorsFile& tensors);

  struct Level {
    int squeeze;
    bool split;
    std::vector<std::vector<std::shared_ptr<Bijector>>> blocks;
  };
  FlowSpec spec_;
  at::ScalarType dtype_;
  at::Device device_ = at::kCPU;
  std::vector<Level> levels_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_FLOW_FLOW_H_
