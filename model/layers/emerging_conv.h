// Emerging convolution of images (Hoogeboom, van den Berg and Welling 2019, section 3): a k x k
// convolution in which a pixel sees only those before it in raster order (and, of itself, the
// channels before), followed by one in which it sees only those after it; together their receptive
// field is that of a square convolution. log_det = H W (sum of both log_diagonals). The inverse
// solves pixel by pixel. A baseline: plain ATen, no kernel of its own.
#ifndef BFLOW_MODEL_LAYERS_EMERGING_CONV_H_
#define BFLOW_MODEL_LAYERS_EMERGING_CONV_H_

#include <array>
#include <cstdint>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: N.weight [C, C, k, k], starts as N(0, 0.01^2), entries outside the order ignored;
// N.log_diagonal [C], starts as 0; N = 0 (from before), 1 (from after).
class EmergingConvLayer : public Bijector {
 public:
  EmergingConvLayer(int64_t channels, int64_t kernel, at::Generator& generator,
                    at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;

 private:
  struct Half {
    at::Tensor weight, log_diagonal;
    at::Tensor mask;  // [C, C, k, k] of 0 and 1: what is strictly before or after
  };
  at::Tensor Kernel(const Half& half) const;
  at::Tensor Solve(const Half& half, const at::Tensor& z, bool backwards) const;
  at::Tensor LogDet(const at::Tensor& x) const;

  int64_t kernel_;
  std::array<Half, 2> halves_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_EMERGING_CONV_H_
