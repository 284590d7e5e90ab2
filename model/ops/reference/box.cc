// The box layer's operators from plain ATen operators.
#include "model/ops/box.h"

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/constant_pad_nd.h"
#include "ATen/ops/conv1d.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/expm1.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/log_softmax.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/logsumexp.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros_like.h"

namespace bflow {
namespace {

// x [B, channels, T]
at::Tensor Causal(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  int64_t dilation) {
  const at::Tensor padded = at::constant_pad_nd(x, {(weight.size(2) - 1) * dilation, 0});
  return at::conv1d(padded, weight, bias, at::IntArrayRef{1}, at::IntArrayRef{0}, dilation);
}

// Of a mixture of logistic distributions: log F(v), log(1 - F(v + 1)), log P.
struct Logarithms {
  at::Tensor below, above, inside;
};

// v [.., 1]; log_weight, mean, rate [.., components].
Logarithms MixtureOf(const at::Tensor& v, const at::Tensor& log_weight, const at::Tensor& mean,
                     const at::Tensor& rate) {
  const at::Tensor low = (v - mean) * rate, high = low + rate;
  const auto sum = [&log_weight](const at::Tensor& terms) {
    return at::logsumexp(log_weight + terms, 3);
  };
  return {sum(at::log_sigmoid(low)), sum(at::log_sigmoid(-high)),
          sum(at::log_sigmoid(high) + at::log_sigmoid(-low) + (-at::expm1(-rate)).log())};
}

// The expert's shares [B, T, C] from log P by the net and by the expert.
at::Tensor Shares(const at::Tensor& by_net, const at::Tensor& by_expert) {
  std::vector<at::Tensor> shares = {at::zeros_like(by_net.select(1, 0)) + 0.05};
  for (int64_t t = 0; t + 1 < by_net.size(1); ++t) {
    const at::Tensor odds =
        shares.back() / (1 - shares.back()) * (by_expert - by_net).select(1, t).exp();
    shares.push_back(0.98 * odds / (1 + odds) + 0.02 * 0.05);
  }
  return at::stack(shares, 1);
}

}  // namespace

at::Tensor BoxNetReference(const at::Tensor& features, const at::Tensor& heads, at::TensorList net,
                           at::IntArrayRef dilations) {
  const at::Tensor* next = net.data();
  const auto convolve = [&next](const at::Tensor& x, int64_t dilation) {
    next += 2;
    return Causal(x, next[-2], next[-1], dilation);
  };
  at::Tensor h = at::elu(convolve(features.transpose(1, 2), 1));
  for (const int64_t dilation : dilations) {
    const at::Tensor gate = at::elu(convolve(h, dilation));
    h = h + convolve(gate, 1);
  }
  h = at::elu(h);
  std::vector<at::Tensor> known, raw;
  for (int64_t c = 0; c < heads.size(2); ++c) {
    const at::Tensor own = heads.select(2, c).transpose(1, 2);
    std::vector<at::Tensor> inputs = {h, own.narrow(1, 0, 2)};
    inputs.insert(inputs.end(), known.begin(), known.end());
    const at::Tensor hidden = at::elu(convolve(at::cat(inputs, 1), 1));
    raw.push_back(convolve(hidden, 1).transpose(1, 2));
    known.push_back(own.narrow(1, 2, 2));
  }
  return at::stack(raw, 2);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> BoxCellsReference(const at::Tensor& raw,
                                                                 const at::Tensor& frame,
                                                                 const at::Tensor& u) {
  const int64_t k = kBoxComponents;
  const at::Tensor scales = at::tensor({0.3, 0.8, 4.0, 0.15, 0.6}, raw.options());
  const at::Tensor predicted = at::tensor({1.0, 1.0, 1.0, 0.0, 0.0}, raw.options());
  const auto of_frame = [&frame](int64_t i) { return frame.narrow(3, i, 1); };
  const at::Tensor base = scales * (predicted * of_frame(3) + (1 - predicted));
  const at::Tensor centre = predicted * of_frame(1) + (1 - predicted) * of_frame(2);
  const at::Tensor mean = centre + 3 * base * raw.narrow(3, k, k);
  const at::Tensor rate = (-4 * at::tanh(raw.narrow(3, 2 * k, k) / 2)).exp() / base;
  Logarithms all = MixtureOf(of_frame(0), at::log_softmax(raw.narrow(3, 0, k), 3), mean, rate);
  at::Tensor share = at::zeros_like(u);
  if (frame.size(3) == kAdaptiveBoxFrame) {
    const at::Tensor log_weight = at::tensor({0.9, 0.09, 0.01}, raw.options()).log();
    const at::Tensor wide = at::tensor({1.0, 4.0, 32.0}, raw.options());
    const Logarithms expert =
        MixtureOf(of_frame(0), log_weight, of_frame(4), 1 / (wide * of_frame(5)));
    share = Shares(all.inside, expert.inside);
    const at::Tensor net = at::log1p(-share), own = share.log();
    all = {at::logaddexp(net + all.below, own + expert.below),
           at::logaddexp(net + all.above, own + expert.above),
           at::logaddexp(net + all.inside, own + expert.inside)};
  }
  const at::Tensor log_y = at::logaddexp(all.below, all.inside + u.log());
  const at::Tensor log_rest = at::logaddexp(all.above, all.inside + (1 - u).log());
  return {log_y - log_rest, (all.inside - log_y - log_rest).sum(at::IntArrayRef{1, 2}), share};
}

}  // namespace bflow
