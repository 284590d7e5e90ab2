// Affine coupling of images (Meng et al. 2022, appendix; Kingma and Dhariwal 2018, section 3.3): z1
// = first C - C/2 channels, unchanged; (mu, s) = halves of net(z1); z2' = z2 sigmoid(s + 2) + mu,
// log_det = sum log sigmoid(s + 2). net = conv3x3 ELU conv1x1 ELU conv3x3, zero padding, every
// convolution weight-normalised per output channel (Salimans and Kingma 2016):
// weight[o] = gain[o] direction[o] / ||direction[o]||.
#ifndef BFLOW_MODEL_LAYERS_CONV2D_COUPLING_H_
#define BFLOW_MODEL_LAYERS_CONV2D_COUPLING_H_

#include <array>
#include <cstdint>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: net.N.{direction,gain,bias}, N = 0, 1, 2. Directions start as N(0, 0.05^2), gains as
// their norms, biases as 0.
class Conv2dCouplingLayer : public Bijector {
 public:
  Conv2dCouplingLayer(int64_t channels, int64_t hidden, at::Generator& generator,
                      at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  // As ActNorm, for the outputs y of the first two convolutions: gain /= s + 1e-6, bias = (bias -
  // m) / (s + 1e-6). The last one gets gain 0 and bias 0: every coupling starts as z2 sigmoid(2).
  void InitialiseFrom(const at::Tensor& x) override;
  void Freeze() override;
  // Inputs, weights and results of the convolutions are rounded to bfloat16 from now on; parameters
  // and all else stay as they are. For training.
  void UseBfloat16(bool use) { bfloat16_ = use; }

 protected:
  struct Convolution {
    at::Tensor direction, gain, bias;
    at::Tensor frozen_weight;  // undefined before Freeze
    int64_t padding;
  };
  // Of the dtype of the parameters.
  static at::Tensor Weight(const Convolution& convolution);
  // The net on z1: mu and s, [B, C/2, H, W] each.
  std::array<at::Tensor, 2> Net(const at::Tensor& z1) const;

  int64_t channels_;
  std::array<Convolution, 3> net_;
  bool bfloat16_ = false;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_CONV2D_COUPLING_H_
