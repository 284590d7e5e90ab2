// One code's cell under a mixture of logistic distributions, in logarithms throughout: nothing is
// the difference of two probabilities, so that the least likely code has a finite log P.
#ifndef BFLOW_MODEL_OPS_CPU_BOX_CELL_H_
#define BFLOW_MODEL_OPS_CPU_BOX_CELL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "model/ops/box.h"
#include "model/ops/cpu/box_expert.h"

namespace bflow::cpu {

// The mixture's centres are the prediction (three) and the last code (two); its scales are these,
// the first three in units of the prediction's scale, the others in codes.
inline constexpr double kBoxScales[kBoxComponents] = {0.3, 0.8, 4, 0.15, 0.6};
inline constexpr int64_t kBoxPredicted = 3;
// A shift is so many scales per unit of the net's output; the log-scale stays within so much.
inline constexpr double kBoxShift = 3;
inline constexpr double kBoxLogScale = 4;

inline double LogSigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }
inline double Sigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}
inline double LogSumExp(const double* terms, int64_t count) {
  const double most = *std::max_element(terms, terms + count);
  double sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += std::exp(terms[k] - most);
  return most + std::log(sum);
}
// log(e^a + e^b); b may be -infinity.
inline double LogAdd(double a, double b) {
  const double most = std::max(a, b), least = std::min(a, b);
  return most + std::log1p(std::exp(least - most));
}

// raw: logits, then shifts, then log-scales. frame: code, prediction, last, scale, and with a share
// above 0 the expert's prediction and scale. The net's distributions, then the expert's.
struct BoxMixture {
  BoxMixture(const double* raw, const double* frame, double expert_share) : share(expert_share) {
    const double normaliser = LogSumExp(raw, kBoxComponents) - std::log1p(-share);
    for (int64_t k = 0; k < kBoxComponents; ++k) {
      const bool predicted = k < kBoxPredicted;
      log_weight[k] = raw[k] - normaliser;
      base[k] = kBoxScales[k] * (predicted ? frame[3] : 1);
      mean[k] = (predicted ? frame[1] : frame[2]) + kBoxShift * base[k] * raw[kBoxComponents + k];
      squashed[k] = std::tanh(raw[2 * kBoxComponents + k] / 2);
      rate[k] = std::exp(-kBoxLogScale * squashed[k]) / base[k];
    }
    if (share <= 0) return;
    for (int64_t k = 0; k < kExpertComponents; ++k, ++count) {
      log_weight[count] = std::log(share * kExpertWeights[k]);
      mean[count] = frame[4];
      rate[count] = 1 / (kExpertScales[k] * frame[5]);
    }
  }
  // log F(v)
  double LogBelow(double v) const {
    double terms[kMostComponents] = {};
    for (int64_t k = 0; k < count; ++k) {
      terms[k] = log_weight[k] + LogSigmoid((v - mean[k]) * rate[k]);
    }
    return LogSumExp(terms, count);
  }
  // log(1 - F(v))
  double LogAbove(double v) const {
    double terms[kMostComponents] = {};
    for (int64_t k = 0; k < count; ++k) {
      terms[k] = log_weight[k] + LogSigmoid((mean[k] - v) * rate[k]);
    }
    return LogSumExp(terms, count);
  }
  static constexpr int64_t kMostComponents = kBoxComponents + kExpertComponents;
  double share;
  int64_t count = kBoxComponents;
  double log_weight[kMostComponents], mean[kMostComponents];
  double rate[kMostComponents];  // 1 / scale
  // Of the net's.
  double base[kBoxComponents];
  double squashed[kBoxComponents];  // tanh of half the net's log-scale
};

// The cell v .. v + 1: log F(v), log(1 - F(v + 1)) and log P, and the terms of their sums.
struct BoxCell {
  BoxCell(const BoxMixture& m, double v) {
    for (int64_t k = 0; k < m.count; ++k) {
      low[k] = (v - m.mean[k]) * m.rate[k];
      high[k] = low[k] + m.rate[k];
      const double at_low = LogSigmoid(low[k]), at_high = LogSigmoid(high[k]);
      below_terms[k] = m.log_weight[k] + at_low;
      above_terms[k] = m.log_weight[k] + at_high - high[k];  // log sigmoid(-b) = that of b, less b
      // sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b))
      inside_terms[k] =
          m.log_weight[k] + at_high + at_low - low[k] + std::log(-std::expm1(-m.rate[k]));
    }
    below = LogSumExp(below_terms, m.count);
    above = LogSumExp(above_terms, m.count);
    inside = LogSumExp(inside_terms, m.count);
    if (m.share <= 0) return;
    for (int64_t k = kBoxComponents; k < m.count; ++k) {
      expert_posterior += std::exp(inside_terms[k] - inside);
    }
  }
  static constexpr int64_t kMostComponents = BoxMixture::kMostComponents;
  double low[kMostComponents], high[kMostComponents];
  double below_terms[kMostComponents], above_terms[kMostComponents], inside_terms[kMostComponents];
  double expert_posterior = 0;  // the expert's share in P
  double below, above, inside;
};

// The latent of v + u.
struct BoxLatent {
  BoxLatent(const BoxCell& cell, double u)
      : log_y(LogAdd(cell.below, cell.inside + std::log(u))),
        log_rest(LogAdd(cell.above, cell.inside + std::log1p(-u))) {}
  double z() const { return log_y - log_rest; }
  double log_y, log_rest;  // of y and 1 - y
};

// The code v with F(v) <= y < F(v + 1), y = sigmoid(z): from `start` outwards in growing strides,
// then by bisection. Within +-kMostBoxCode.
inline constexpr double kMostBoxCode = 1099511627776.0;  // 2^40
inline double FindBoxCode(const BoxMixture& mixture, double z, double start) {
  const double log_y = LogSigmoid(z), log_rest = LogSigmoid(-z);
  // F(v) <= y, in the logarithm that has digits to tell.
  const auto reached = [&](double v) {
    return z <= 0 ? mixture.LogBelow(v) <= log_y : mixture.LogAbove(v) >= log_rest;
  };
  double from = std::clamp(std::floor(start), -kMostBoxCode, kMostBoxCode);
  if (!(from == from)) from = 0;
  double below, above, stride = 1;
  if (reached(from)) {
    below = from;
    while (below + stride <= kMostBoxCode && reached(below + stride)) {
      below += stride;
      stride *= 2;
    }
    above = below + stride;
  } else {
    above = from;
    while (above - stride >= -kMostBoxCode && !reached(above - stride)) {
      above -= stride;
      stride *= 2;
    }
    below = above - stride;
  }
  while (above - below > 1) {
    const double middle = std::floor((below + above) / 2);
    (reached(middle) ? below : above) = middle;
  }
  return std::clamp(below, -kMostBoxCode, kMostBoxCode);
}

// Where in its cell sigmoid(z) lies, from the side that has digits to tell.
inline double BoxOffset(const BoxCell& cell, double z) {
  const double u =
      z <= 0 ? std::exp(cell.below - cell.inside) * std::expm1(LogSigmoid(z) - cell.below)
             : 1 - std::exp(cell.above - cell.inside) * std::expm1(LogSigmoid(-z) - cell.above);
  return u;
}

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_BOX_CELL_H_
