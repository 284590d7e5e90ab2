// bflow::butterfly, the whole butterfly layer as one operator. A factor at level i pairs x[b,0,j]
// with x[b,1,j] of x viewed as [2^i, 2, D/2^(i+1)] and mixes each pair by its own 2x2 matrix:
// y[b,o,j] = sum_h w[b,h,j,o] x[b,h,j]. The inverse layer is the same operator with inverted 2x2s
// in the opposite order. Derivatives of first order exist for x and every factor.
#ifndef BFLOW_MODEL_OPS_BUTTERFLY_H_
#define BFLOW_MODEL_OPS_BUTTERFLY_H_

#include <tuple>
#include <vector>

#include "ATen/core/Tensor.h"

namespace bflow {

// x: [B, D], float32 or float64. factors: in the order applied, each [2^level, 2, D/2^(level+1) or
// 1, 2] of x's dtype; 1 means that all pairs of a block share their 2x2. Returns y [B, D] and the
// log-determinant of one row, a scalar of x's dtype: sum log|w00 w11 - w10 w01| over all pairs,
// summed in float64. Called through the dispatcher.
std::tuple<at::Tensor, at::Tensor> butterfly(const at::Tensor& x, at::TensorList factors);

// The same from plain ATen operators: the oracle of the tests and the peer of the benchmarks.
std::tuple<at::Tensor, at::Tensor> ButterflyReference(const at::Tensor& x, at::TensorList factors);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_BUTTERFLY_H_
