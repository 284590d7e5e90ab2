// The numerics of the box layer (docs/math.md, "Box layer"): a density over codes that a causal net
// of the codes before gives, constant inside each code's cell, and the map of v + u to a standard
// logistic latent. Everything about codes and probabilities is float64.
#ifndef BFLOW_MODEL_OPS_BOX_H_
#define BFLOW_MODEL_OPS_BOX_H_

#include <cstdint>
#include <tuple>
#include <vector>

#include "ATen/core/Tensor.h"

namespace bflow {

// Logistic distributions of a mixture, and what the net says of them: logit, shift, log-scale each.
inline constexpr int64_t kBoxComponents = 5;
inline constexpr int64_t kBoxOutputs = 3 * kBoxComponents;
// Numbers of a value's frame without and with an expert.
inline constexpr int64_t kBoxFrame = 4;
inline constexpr int64_t kAdaptiveBoxFrame = 6;

// What the net and the cells see of a code; float64, on the CPU.
struct BoxContext {
  at::Tensor features;  // [B, T, 3 C + 1]: of the step before, 0 at the first
  at::Tensor heads;     // [B, T, C, 4]: two numbers known before the code, two after it
  // [B, T, C, kBoxFrame]: code v, prediction of v + .5, last code + .5, scale; if adaptive
  // [.., kAdaptiveBoxFrame], also the expert's prediction and scale.
  at::Tensor frame;
};

// What a box layer knows besides its net: what was fitted, float64 on the CPU, and whether there is
// an expert.
struct BoxFit {
  std::vector<at::Tensor> map;     // of a whitening (model/ops/whitening.h), of codes + .5
  at::Tensor mean, log_deviation;  // [C], of codes + .5
  bool adaptive = false;
};

// codes: [B, T, C] float64, whole numbers, on the CPU.
BoxContext MakeBoxContext(const at::Tensor& codes, const BoxFit& fit);

// features [B, T, F], heads [B, T, C, 4] of one type. net, weights [out, in, taps] and biases:
// trunk [W, F, kernel]; of each dilation [W, W, 3] and [W, W, 1]; of each channel c the head [W, W
// + 2 + 2 c, 1] and [kBoxOutputs, W, 1]. h = elu(trunk), h += conv1(elu(conv3 dilated (h))) for
// each dilation, then elu; the head of c sees h, heads[c][0..1] and heads[j][2..3] of the channels
// j < c. All convolutions see the past alone. Returns [B, T, C, kBoxOutputs]. Derivatives of first
// order exist for the net alone. Called through the dispatcher.
at::Tensor box_net(const at::Tensor& features, const at::Tensor& heads, at::TensorList net,
                   at::IntArrayRef dilations);

// raw [B, T, C, kBoxOutputs], frame [B, T, C, kBoxFrame or kAdaptiveBoxFrame], u [B, T, C] in
// [0, 1), float64. With F the CDF of the mixture and P = F(v + 1) - F(v): y = F(v) + u P, z = log y
// - log(1 - y). Returns z, per row log_det [B] = sum log P - log y - log(1 - y), and the expert's
// share in each value's mixture [B, T, C], 0 without one. Derivatives of first order exist for raw
// and u, of z and log_det. Called through the dispatcher.
std::tuple<at::Tensor, at::Tensor, at::Tensor> box_cells(const at::Tensor& raw,
                                                         const at::Tensor& frame,
                                                         const at::Tensor& u);

// The same two from plain ATen operators: the oracles of the tests, and what runs on devices
// without a kernel.
at::Tensor BoxNetReference(const at::Tensor& features, const at::Tensor& heads, at::TensorList net,
                           at::IntArrayRef dilations);
std::tuple<at::Tensor, at::Tensor, at::Tensor> BoxCellsReference(const at::Tensor& raw,
                                                                 const at::Tensor& frame,
                                                                 const at::Tensor& u);

// Back from latents z [B, T, C], in the order of time and channels: the whole code v with F(v) <= y
// < F(v + 1), u in [0, 1), and log_det [B] of the way back. Codes are sought within +-2^40; a z
// that is not a number gives u that is none. float64 on the CPU, no derivatives; the rows over the
// threads. Every activation that a later step needs is kept, so a step costs as much as one of
// box_net.
struct BoxCodes {
  at::Tensor codes, u, log_det;
};
BoxCodes BoxInverse(const at::Tensor& z, const BoxFit& fit, at::TensorList net,
                    at::IntArrayRef dilations);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_BOX_H_
