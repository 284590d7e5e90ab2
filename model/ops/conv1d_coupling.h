// bflow::conv1d_coupling, the coupling whose net sees neighbouring time steps: z1 = the first C/2
// channels pass unchanged; (q, m) = net(asinh(z1)) with net = conv ELU conv (dilated) ELU conv of
// one tap, zero padding; log_s = 3 tanh(q / 3); forward z2 exp(log_s) + m, inverse (z2 - m)
// exp(-log_s). Derivatives of first order exist for x and all weights, in both directions.
#ifndef BFLOW_MODEL_OPS_CONV1D_COUPLING_H_
#define BFLOW_MODEL_OPS_CONV1D_COUPLING_H_

#include <cstdint>
#include <tuple>

#include "ATen/core/Tensor.h"

namespace bflow {

// x: [B, T, C], C even. net: {w0 [H, C/2, K], b0 [H], w1 [H, H, K], b1 [H], w2 [C, H, 1], b2 [C]},
// K odd; the second convolution has `dilation`. Returns y and log_det [B] of x's dtype, the sum of
// +-log_s over a row, reduced in float64 in an order that depends on T and C alone. Called through
// the dispatcher.
std::tuple<at::Tensor, at::Tensor> conv1d_coupling(const at::Tensor& x, at::TensorList net,
                                                   int64_t dilation, bool inverse);

// The same from plain ATen operators: the oracle of the tests, the peer of the benchmarks, and what
// runs on devices without a kernel.
std::tuple<at::Tensor, at::Tensor> Conv1dCouplingReference(const at::Tensor& x, at::TensorList net,
                                                           int64_t dilation, bool inverse);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_CONV1D_COUPLING_H_
