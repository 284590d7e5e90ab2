#include "model/layers/logit.h"

#include <cmath>

#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/sigmoid.h"

namespace bflow {
namespace {

constexpr double kMargin = 1e-6;
constexpr double kSlope = (1 - 2 * kMargin) / 2;

// [B] float64 from one term per value.
at::Tensor SumRows(const at::Tensor& terms) { return terms.flatten(1).sum(1, false, at::kDouble); }

}  // namespace

Transformed LogitLayer::Forward(const at::Tensor& x) {
  const at::Tensor log_q = (x * kSlope + (kMargin + kSlope)).log();
  const at::Tensor log_rest = (-x * kSlope + (kMargin + kSlope)).log();  // of 1 - q
  return {log_q - log_rest, SumRows(std::log(kSlope) - log_q - log_rest)};
}

Transformed LogitLayer::Inverse(const at::Tensor& z) {
  const at::Tensor log_det = SumRows(at::log_sigmoid(z) + at::log_sigmoid(-z) - std::log(kSlope));
  return {(at::sigmoid(z) - (kMargin + kSlope)) / kSlope, log_det};
}

}  // namespace bflow
