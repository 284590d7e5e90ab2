// Linear prediction in front of a flow (docs/math.md): e[t,c] = (x[t,c] - what the K steps before t
// and the channels before c predict) / scale; the first K steps are predicted from all values
// before them. The Jacobian is triangular and constant: log_det = -(T - K) sum log_scale - sum
// head_log_scale. The inverse is the same recursion in the order of time.
#ifndef BFLOW_MODEL_LAYERS_WHITENING_H_
#define BFLOW_MODEL_LAYERS_WHITENING_H_

#include <cstdint>
#include <vector>

#include "c10/core/ScalarType.h"
#include "model/layers/bijector.h"

namespace bflow {

// Registers the buffers below in `module`, all 0, and returns them in this order.
std::vector<at::Tensor> RegisterWhiteningBuffers(torch::nn::Module& module, int64_t channels,
                                                 int64_t order, at::ScalarType dtype);

// Buffers, in the unit of x: lags [C,C,K], instantaneous [C,C], bias, log_scale [C], head_weight
// [KC,KC], head_bias, head_log_scale [KC]; all 0 (the identity) until they are fitted
// (model/training/fit_whitening.h) or loaded. Computes in float64 whatever the dtype: residuals are
// small differences of large numbers. The inverse, one time step after the other, is computed on
// the CPU. Forward takes x of any dtype and returns the layer's; Inverse returns float64.
class WhiteningLayer : public Bijector {
 public:
  WhiteningLayer(int64_t channels, int64_t order, at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  void Freeze() override;

 private:
  // The buffers in float64, where they are.
  std::vector<at::Tensor> Map() const;

  at::ScalarType dtype_;
  std::vector<at::Tensor> buffers_;
  std::vector<at::Tensor> frozen_map_;  // empty before Freeze
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_WHITENING_H_
