// LU-parametrised matrix of every time step (Kingma and Dhariwal 2018, section 3.2), on row
// vectors: y = x W, W = P (strict_tril(lower) + I) (strict_triu(upper) + diag(sign
// exp(log_diagonal))), P the permutation matrix with P[i, permutation[i]] = 1; log_det = T
// sum(log_diagonal).
#ifndef BFLOW_MODEL_LAYERS_LU_MATMUL_H_
#define BFLOW_MODEL_LAYERS_LU_MATMUL_H_

#include <cstdint>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: lower, upper [C, C] (entries outside their triangle are ignored), log_diagonal [C];
// buffers: diagonal_sign [C], permutation I64 [C]. They start as the LU decomposition of a random
// orthogonal matrix.
class LuMatmulLayer : public Bijector {
 public:
  LuMatmulLayer(int64_t channels, at::Generator& generator, at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  // W = I; in odd blocks y[d] = x[(d + C/2) mod C].
  void StartNearIdentity(int64_t block) override;
  void Freeze() override;

 protected:
  // W^-1 by triangular solves in float64, [C, C] float64.
  at::Tensor InverseMatrix() const;

  at::Tensor lower_, upper_, log_diagonal_, diagonal_sign_, permutation_;
  // Undefined before Freeze. log_det per time step: float64 scalar.
  at::Tensor frozen_inverse_, frozen_log_det_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_LU_MATMUL_H_
