// bflow::affine_coupling, the coupling per time step: z1 = the first C/2 channels pass unchanged,
// log_s = scale_net(z1) (tanh), t = shift_net(z1) (ReLU); forward z2 exp(log_s) + t, inverse
// (z2 - t) exp(-log_s). Derivatives of first order exist for x and all weights, in both directions.
#ifndef BFLOW_MODEL_OPS_AFFINE_COUPLING_H_
#define BFLOW_MODEL_OPS_AFFINE_COUPLING_H_

#include <tuple>

#include "ATen/core/Tensor.h"

namespace bflow {

// x: [B, T, C], C even. A net is {w0 [H, C/2], b0 [H], w1 [H, H], b1 [H], w2 [C/2, H], b2 [C/2]}
// with y = x w^T + b; the last layer has no activation. Returns y and log_det [B] of x's dtype, the
// sum of
// +-log_s over a row, reduced in float64 in an order that depends on T and C alone. Called through
// the dispatcher.
std::tuple<at::Tensor, at::Tensor> affine_coupling(const at::Tensor& x, at::TensorList scale_net,
                                                   at::TensorList shift_net, bool inverse);

// The same from plain ATen operators: the oracle of the tests and the peer of the benchmarks.
std::tuple<at::Tensor, at::Tensor> AffineCouplingReference(const at::Tensor& x,
                                                           at::TensorList scale_net,
                                                           at::TensorList shift_net, bool inverse);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_AFFINE_COUPLING_H_
