#include "model/layers/initialise.h"

#include <tuple>

#include "ATen/TensorOperators.h"
#include "ATen/ops/diagonal.h"
#include "ATen/ops/linalg_qr.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/sign.h"

namespace bflow {

at::Tensor RandomOrthogonal(int64_t rows, int64_t columns, at::Generator& generator) {
  const bool wide = rows < columns;
  at::Tensor gauss =
      at::randn({wide ? columns : rows, wide ? rows : columns}, generator, at::kDouble);
  auto [q, r] = at::linalg_qr(gauss);
  // Without the signs of R's diagonal the distribution would depend on the QR algorithm.
  q = q * at::sign(at::diagonal(r));
  return wide ? q.t().contiguous() : q.contiguous();
}

}  // namespace bflow
