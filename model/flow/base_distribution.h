// The density of the latents. Each level has its own values; the density of an event is the product
// over all of them.
#ifndef BFLOW_MODEL_FLOW_BASE_DISTRIBUTION_H_
#define BFLOW_MODEL_FLOW_BASE_DISTRIBUTION_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "torch/nn/module.h"

namespace bflow {

class BaseDistribution : public torch::nn::Module {
 public:
  // log density of every latent of a level, float64, the shape of `latents`: [B, T_l, C_l] of a
  // waveform, [B, C_l, H_l, W_l] of an image.
  virtual at::Tensor LogDensity(size_t level, const at::Tensor& latents) const = 0;

  // Student's t of each latent channel of a level: [C_l, 1, 1] of an image, else [C_l]; float64.
  // Undefined tensors: a base without parameters.
  struct Marginals {
    at::Tensor degrees, scale;
  };
  virtual Marginals LevelMarginals(size_t /*level*/) const { return {}; }

  // Sum over levels and values: [B] nats, float64.
  at::Tensor LogProb(const std::vector<at::Tensor>& level_latents) const;
};

// The standard normal.
class NormalBase : public BaseDistribution {
 public:
  at::Tensor LogDensity(size_t level, const at::Tensor& latents) const override;
};

// The standard logistic distribution: log p = -|z| - 2 log(1 + e^-|z|).
class LogisticBase : public BaseDistribution {
 public:
  at::Tensor LogDensity(size_t level, const at::Tensor& latents) const override;
};

// Student's t per latent channel of each level: nu = 1 + exp(log_degrees), scale exp(log_scale);
// with q = z exp(-log_scale), log p = lgamma((nu+1)/2) - lgamma(nu/2) - log(nu pi)/2 - log_scale -
// (nu+1)/2 log1p(q^2/nu). Parameters: L.{log_degrees,log_scale} [C_l], start as log 5 and 0.
class StudentTBase : public BaseDistribution {
 public:
  StudentTBase(const FlowSpec& spec, at::ScalarType dtype);

  at::Tensor LogDensity(size_t level, const at::Tensor& latents) const override;
  Marginals LevelMarginals(size_t level) const override;

 private:
  struct Level {
    at::Tensor log_degrees, log_scale;  // undefined where a level has no latents
  };
  bool is_image_;
  std::vector<Level> levels_;
};

std::shared_ptr<BaseDistribution> MakeBase(const FlowSpec& spec, at::ScalarType dtype);

}  // namespace bflow

#endif  // BFLOW_MODEL_FLOW_BASE_DISTRIBUTION_H_
