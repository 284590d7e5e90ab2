// Variational dequantisation (Ho et al. 2019, section 3.1) as the first layer of a flow. A value in
// the scaled unit is a code k and its noise u, uniform in [0, 1). The layer moves the noise inside
// the code's cell, each value by a map of its own that depends on the codes alone:
//   u' = sigmoid(4 m(k) + exp(3 tanh(l(k) / 3)) logit u),   log_det = sum log du'/du.
// So log p(k + u) of the flow is log p(k + u') - log q(u' | k) for the density q of u': the bound
// of variational dequantisation, and its noise stays uniform. The codes stay, so the inverse finds
// m and l again.
#ifndef BFLOW_MODEL_LAYERS_VARIATIONAL_DEQUANTIZATION_H_
#define BFLOW_MODEL_LAYERS_VARIATIONAL_DEQUANTIZATION_H_

#include <array>
#include <cstdint>
#include <vector>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"
#include "model/layers/code_grid.h"

namespace bflow {

// Parameters: net.N.{weight,bias}, N = 0 .. dilations, weights [out, in, taps] or [out, in, taps,
// taps], drawn uniform within +-1/sqrt(values that an output sees); those of the last convolution
// start as 0, so that the layer starts as the identity. mean, log_scale [C], which normalise the
// codes, start as those of the first batch (0 before InitialiseFrom). The net computes in the dtype
// of the parameters, the rest in float64. Forward and Inverse take x of any dtype and return
// float64. On the CPU the rows of waveforms go one by one: what the library computes for a row,
// even a logarithm, depends on how many go together. Images come alone where that matters
// (model/scoring/window_features.h).
class VariationalDequantizationLayer : public Bijector {
 public:
  // `shape` has channels_of_event.
  VariationalDequantizationLayer(const VariationalDequantizationSpec& spec, const LevelShape& shape,
                                 at::Generator& generator, at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  // The mean of the codes and the larger of their standard deviation and one code step, per
  // channel.
  void InitialiseFrom(const at::Tensor& x) override;

 private:
  Transformed Apply(const at::Tensor& x, bool inverse) const;
  // All rows in one pass.
  Transformed Together(const at::Tensor& x, bool inverse) const;
  // a + b logit u is the logit of u': {a, log b}, float64, of the shape of the event.
  std::array<at::Tensor, 2> Net(const at::Tensor& index) const;
  // What the net sees, [B, channels, positions...].
  at::Tensor Features(const at::Tensor& index) const;
  at::Tensor Convolve(const at::Tensor& h, size_t n) const;
  // A value per channel, shaped so that it multiplies a batch.
  at::Tensor PerChannel(const at::Tensor& values) const;

  CodeGrid grid_;
  bool is_image_;
  at::ScalarType dtype_;
  at::Tensor mean_, log_scale_;
  struct Convolution {
    at::Tensor weight, bias;
    int64_t dilation;
  };
  std::vector<Convolution> net_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_VARIATIONAL_DEQUANTIZATION_H_
