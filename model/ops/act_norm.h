// bflow::act_norm, the per-channel affine map y = x exp(log_scale) + bias. Derivatives of first
// order exist for every argument.
#ifndef BFLOW_MODEL_OPS_ACT_NORM_H_
#define BFLOW_MODEL_OPS_ACT_NORM_H_

#include <tuple>

#include "ATen/core/Tensor.h"

namespace bflow {

// x: [B, T, C]; log_scale, bias: [C], of x's dtype. Returns y and the log-determinant of one row, a
// scalar of x's dtype: T sum(log_scale), summed in float64. Called through the dispatcher.
std::tuple<at::Tensor, at::Tensor> act_norm(const at::Tensor& x, const at::Tensor& log_scale,
                                            const at::Tensor& bias);

// The same from plain ATen operators: the oracle of the tests and the peer of the benchmarks.
std::tuple<at::Tensor, at::Tensor> ActNormReference(const at::Tensor& x,
                                                    const at::Tensor& log_scale,
                                                    const at::Tensor& bias);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_ACT_NORM_H_
