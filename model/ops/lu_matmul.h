// bflow::lu_matmul, the LU-parametrised C x C product per time step: y = x W on row vectors with
// W = P (strict_tril(lower) + I) (strict_triu(upper) + diag(diagonal_sign exp(log_diagonal))) and
// P[i, permutation[i]] = 1. Other entries of lower and upper are ignored. Derivatives of first
// order exist for x, lower, upper and log_diagonal.
#ifndef BFLOW_MODEL_OPS_LU_MATMUL_H_
#define BFLOW_MODEL_OPS_LU_MATMUL_H_

#include <tuple>

#include "ATen/core/Tensor.h"

namespace bflow {

// x: [B, T, C]; lower, upper: [C, C]; log_diagonal, diagonal_sign: [C], all of x's dtype;
// permutation: [C] int64. Returns y and the log-determinant of one row, a scalar of x's dtype: T
// sum(log_diagonal), summed in float64. Called through the dispatcher.
std::tuple<at::Tensor, at::Tensor> lu_matmul(const at::Tensor& x, const at::Tensor& lower,
                                             const at::Tensor& upper,
                                             const at::Tensor& log_diagonal,
                                             const at::Tensor& diagonal_sign,
                                             const at::Tensor& permutation);

// The same from plain ATen operators: the oracle of the tests and the peer of the benchmarks.
std::tuple<at::Tensor, at::Tensor> LuMatmulReference(const at::Tensor& x, const at::Tensor& lower,
                                                     const at::Tensor& upper,
                                                     const at::Tensor& log_diagonal,
                                                     const at::Tensor& diagonal_sign,
                                                     const at::Tensor& permutation);

// W in float64, [C, C], detached.
at::Tensor LuWeight(const at::Tensor& lower, const at::Tensor& upper,
                    const at::Tensor& log_diagonal, const at::Tensor& diagonal_sign,
                    const at::Tensor& permutation);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_LU_MATMUL_H_
