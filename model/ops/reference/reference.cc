// Every operator written with plain ATen operators, differentiable by autograd, in any dtype: what
// the kernels are tested against and timed against.
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/asinh.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/conv1d.h"
#include "ATen/ops/diag.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/linalg_solve_triangular.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/relu.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "model/ops/act_norm.h"
#include "model/ops/affine_coupling.h"
#include "model/ops/butterfly.h"
#include "model/ops/conv1d_coupling.h"
#include "model/ops/lu_matmul.h"
#include "model/ops/whitening.h"

namespace bflow {
namespace {

// What predicts x, and the part of it that is in x: bias + L x.
at::Tensor PredictReference(const at::Tensor& x, at::TensorList map) {
  const int64_t steps = x.size(1), channels = x.size(2), order = map[0].size(2);
  const at::Tensor first = x.narrow(1, 0, order).flatten(1);
  const at::Tensor head = at::linear(first, map[4].tril(-1), map[5]);
  // [B, T - K, C, K], the steps before each from the farthest on
  const at::Tensor before = x.unfold(1, order, 1).narrow(1, 0, steps - order);
  const at::Tensor rest = at::linear(before.flatten(2), map[0].flip(2).flatten(1), map[2]) +
                          at::linear(x.narrow(1, order, steps - order), map[1].tril(-1));
  return at::cat({head.view({-1, order, channels}), rest}, 1);
}

// The scale of every value, [T, C].
at::Tensor ScaleReference(const at::Tensor& x, at::TensorList map) {
  const int64_t steps = x.size(1), channels = x.size(2), order = map[0].size(2);
  return at::cat({map[6].view({order, channels}), map[3].expand({steps - order, channels})}, 0);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> ButterflyReference(const at::Tensor& x, at::TensorList factors) {
  const int64_t size = x.size(1);
  at::Tensor h = x;
  at::Tensor log_det = at::zeros({}, x.options());
  for (const at::Tensor& w : factors) {
    const int64_t blocks = w.size(0);
    const int64_t half = size / (2 * blocks);
    // [B, blocks, 2 (h), half, 1] * [blocks, 2 (h), half or 1, 2 (o)], summed over h
    h = (h.reshape({-1, blocks, 2, half, 1}) * w).sum(2).transpose(2, 3).reshape({-1, size});
    const at::Tensor w0 = w.select(1, 0), w1 = w.select(1, 1);
    const at::Tensor d = w0.select(2, 0) * w1.select(2, 1) - w1.select(2, 0) * w0.select(2, 1);
    log_det = log_det + d.abs().log().sum() * (half / w.size(2));
  }
  return {h.reshape(x.sizes()), log_det};
}

std::tuple<at::Tensor, at::Tensor> ActNormReference(const at::Tensor& x,
                                                    const at::Tensor& log_scale,
                                                    const at::Tensor& bias) {
  return {x * log_scale.exp() + bias, log_scale.sum() * x.size(1)};
}

std::tuple<at::Tensor, at::Tensor> LuMatmulReference(const at::Tensor& x, const at::Tensor& lower,
                                                     const at::Tensor& upper,
                                                     const at::Tensor& log_diagonal,
                                                     const at::Tensor& diagonal_sign,
                                                     const at::Tensor& permutation) {
  const at::Tensor l = lower.tril(-1) + at::eye(lower.size(0), lower.options());
  const at::Tensor u = upper.triu(1) + at::diag(diagonal_sign * log_diagonal.exp());
  const at::Tensor w = at::matmul(l, u).index_select(0, permutation);  // row i of P A is A[perm[i]]
  return {at::matmul(x, w), log_diagonal.sum() * x.size(1)};
}

std::tuple<at::Tensor, at::Tensor> AffineCouplingReference(const at::Tensor& x,
                                                           at::TensorList scale_net,
                                                           at::TensorList shift_net, bool inverse) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor z1 = x.narrow(2, 0, half), z2 = x.narrow(2, half, half);
  at::Tensor log_s = at::tanh(at::linear(z1, scale_net[0], scale_net[1]));
  log_s = at::tanh(at::linear(log_s, scale_net[2], scale_net[3]));
  log_s = at::linear(log_s, scale_net[4], scale_net[5]);
  at::Tensor t = at::relu(at::linear(z1, shift_net[0], shift_net[1]));
  t = at::relu(at::linear(t, shift_net[2], shift_net[3]));
  t = at::linear(t, shift_net[4], shift_net[5]);
  const at::Tensor y2 = inverse ? (z2 - t) * (-log_s).exp() : z2 * log_s.exp() + t;
  const at::Tensor log_det = log_s.sum(at::IntArrayRef{1, 2});
  return {at::cat({z1, y2}, 2), inverse ? -log_det : log_det};
}

std::tuple<at::Tensor, at::Tensor> Conv1dCouplingReference(const at::Tensor& x, at::TensorList net,
                                                           int64_t dilation, bool inverse) {
  const int64_t half = x.size(2) / 2, reach = net[0].size(2) / 2;
  const at::Tensor z1 = x.narrow(2, 0, half), z2 = x.narrow(2, half, half);
  at::Tensor h = at::asinh(z1).transpose(1, 2);
  h = at::elu(at::conv1d(h, net[0], net[1], /*stride=*/1, /*padding=*/reach));
  h = at::elu(at::conv1d(h, net[2], net[3], /*stride=*/1, /*padding=*/reach * dilation, dilation));
  h = at::conv1d(h, net[4], net[5]).transpose(1, 2);
  const at::Tensor log_s = 3 * at::tanh(h.narrow(2, 0, half) / 3), shift = h.narrow(2, half, half);
  const at::Tensor y2 = inverse ? (z2 - shift) * (-log_s).exp() : z2 * log_s.exp() + shift;
  const at::Tensor log_det = log_s.sum(at::IntArrayRef{1, 2});
  return {at::cat({z1, y2}, 2), inverse ? -log_det : log_det};
}

std::tuple<at::Tensor, at::Tensor> WhiteningReference(const at::Tensor& x, at::TensorList map,
                                                      bool inverse) {
  const at::Tensor log_scale = ScaleReference(x, map);
  const at::Tensor log_det = inverse ? log_scale.sum() : -log_scale.sum();
  if (!inverse) return {(x - PredictReference(x, map)) * (-log_scale).exp(), log_det};
  // As one dense system (I - L) x = e s + bias: for the sizes of tests.
  const int64_t size = x.size(1) * x.size(2);
  const at::Tensor units = at::eye(size, x.options()).view({size, x.size(1), x.size(2)});
  const at::Tensor bias = PredictReference(at::zeros_like(x.narrow(0, 0, 1)), map);
  const at::Tensor rows = (units - PredictReference(units, map) + bias).flatten(1);  // (I - L)'
  const at::Tensor right = (x * log_scale.exp() + bias).flatten(1);
  const at::Tensor y = at::linalg_solve_triangular(rows, right, /*upper=*/true, /*left=*/false);
  return {y.view(x.sizes()), log_det};
}

}  // namespace bflow
