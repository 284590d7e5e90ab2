// The layer of every flow: an invertible map with a tractable Jacobian, one definition for training
// and serving. Forward is data -> latent everywhere; log_det is of the direction computed, so log
// p(x) = base.LogProb(z) + log_det.
#ifndef BFLOW_MODEL_LAYERS_BIJECTOR_H_
#define BFLOW_MODEL_LAYERS_BIJECTOR_H_

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "torch/nn/module.h"

namespace bflow {

struct Transformed {
  at::Tensor value;    // the shape of the input
  at::Tensor log_det;  // [B], nats
};

// Parameters are registered under the names of the model file (docs/checkpoint_format.md), so
// training, EMA, checkpoint and serving enumerate the same tensors; permutations and signs are
// buffers. Layers take [B, T, C] of a waveform or [B, C, H, W] of an image; log_det is float32 or
// float64, whatever x is. Shapes were validated with the flow_spec; TORCH_CHECK guards programmer
// errors only.
class Bijector : public torch::nn::Module {
 public:
  virtual Transformed Forward(const at::Tensor& x) = 0;
  virtual Transformed Inverse(const at::Tensor& z) = 0;

  // Moves the parameters to the start of a training from (nearly) the identity, as an alternative
  // to the authors' random ones: layers that mix start as the identity, or in odd blocks of a level
  // as a swap of halves, and what InitialiseFrom estimates is robust. Before InitialiseFrom.
  virtual void StartNearIdentity(int64_t /*block*/) {}

  // Data-dependent initialisation on a first batch (no-op for most layers), before any Forward.
  virtual void InitialiseFrom(const at::Tensor& /*x*/) {}

  // Turns what does not depend on data (log-determinants, inverse 2x2s, inverse matrices) into
  // buffers that are computed in float64. Results stay the same; parameters must not change
  // afterwards.
  virtual void Freeze() {}
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_BIJECTOR_H_
