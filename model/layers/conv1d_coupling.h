// Affine coupling of waveforms whose net sees neighbouring time steps: z1 = first half of the
// channels, unchanged; (q, m) = halves of net(asinh(z1)), net = conv(hidden, kernel) ELU
// conv(hidden, kernel, dilation) ELU conv(C, 1) with zero padding; log_s = 3 tanh(q / 3), z2' = z2
// exp(log_s) + m, log_det = sum log_s. The asinh tames the heavy tails of residuals.
#ifndef BFLOW_MODEL_LAYERS_CONV1D_COUPLING_H_
#define BFLOW_MODEL_LAYERS_CONV1D_COUPLING_H_

#include <cstdint>
#include <vector>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: net.N.{weight,bias}, N = 0, 1, 2. Weights [out, in, taps] and biases start uniform
// within +-1/sqrt(in taps); those of the last convolution as 0, so that the layer starts as the
// identity. Nothing here can be frozen: all of it depends on the data.
class Conv1dCouplingLayer : public Bijector {
 public:
  Conv1dCouplingLayer(const Conv1dCouplingSpec& spec, int64_t channels, at::Generator& generator,
                      at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;

 private:
  Transformed Apply(const at::Tensor& x, bool inverse) const;

  int64_t dilation_;
  std::vector<at::Tensor> net_;  // weight, bias of convolutions 0, 1, 2
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_CONV1D_COUPLING_H_
