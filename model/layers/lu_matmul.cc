#include "model/layers/lu_matmul.h"

#include <tuple>

#include "ATen/ops/arange.h"
#include "ATen/ops/argmax.h"
#include "ATen/ops/diag.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/linalg_lu.h"
#include "ATen/ops/linalg_solve_triangular.h"
#include "ATen/ops/matmul.h"
#include "c10/core/GradMode.h"
#include "model/layers/initialise.h"
#include "model/ops/lu_matmul.h"

namespace bflow {

LuMatmulLayer::LuMatmulLayer(int64_t channels, at::Generator& generator, at::ScalarType dtype) {
  const at::Tensor w = RandomOrthogonal(channels, channels, generator);
  const auto [p, lower, upper] = at::linalg_lu(w);
  const at::Tensor diagonal = upper.diagonal();
  lower_ = register_parameter("lower", lower.tril(-1).to(dtype));
  upper_ = register_parameter("upper", upper.triu(1).to(dtype));
  log_diagonal_ = register_parameter("log_diagonal", diagonal.abs().log().to(dtype));
  diagonal_sign_ = register_buffer("diagonal_sign", diagonal.sign().to(dtype));
  permutation_ = register_buffer("permutation", p.argmax(1));
}

Transformed LuMatmulLayer::Forward(const at::Tensor& x) {
  auto [y, log_det] = lu_matmul(x, lower_, upper_, log_diagonal_, diagonal_sign_, permutation_);
  if (frozen_log_det_.defined()) log_det = frozen_log_det_ * x.size(1);
  return {y, log_det.expand({x.size(0)})};
}

Transformed LuMatmulLayer::Inverse(const at::Tensor& z) {
  const at::Tensor inverse =
      frozen_inverse_.defined() ? frozen_inverse_ : InverseMatrix().to(z.scalar_type());
  const at::Tensor log_det =
      (frozen_log_det_.defined() ? frozen_log_det_ : log_diagonal_.sum()) * -z.size(1);
  return {at::matmul(z, inverse), log_det.expand({z.size(0)})};
}

// W^-1 = U^-1 L^-1 P^T, and right-multiplying M by P^T takes column permutation[i] of M to column
// i.
at::Tensor LuMatmulLayer::InverseMatrix() const {
  const at::Tensor diagonal = diagonal_sign_.to(at::kDouble) * log_diagonal_.to(at::kDouble).exp();
  const at::Tensor upper = upper_.to(at::kDouble).triu(1) + at::diag(diagonal);
  const at::Tensor lower = lower_.to(at::kDouble).tril(-1);
  const at::Tensor identity = at::eye(lower.size(0), lower.options());
  const at::Tensor upper_inverse =
      at::linalg_solve_triangular(upper, identity, /*upper=*/true, /*left=*/false);
  const at::Tensor product = at::linalg_solve_triangular(
      lower + identity, upper_inverse, /*upper=*/false, /*left=*/false, /*unitriangular=*/true);
  return product.index_select(1, permutation_);
}

void LuMatmulLayer::StartNearIdentity(int64_t block) {
  const c10::NoGradGuard no_grad;
  for (const at::Tensor& zero : {lower_, upper_, log_diagonal_}) zero.zero_();
  diagonal_sign_.fill_(1);
  const int64_t channels = permutation_.size(0), shift = block % 2 == 1 ? channels / 2 : 0;
  // Row i of P has its 1 in the column that x[i] goes to.
  permutation_.copy_(
      (at::arange(channels, permutation_.options()) + channels - shift).remainder(channels));
}

void LuMatmulLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  frozen_inverse_ = InverseMatrix().to(lower_.scalar_type());
  frozen_log_det_ = log_diagonal_.to(at::kDouble).sum();
}

}  // namespace bflow
