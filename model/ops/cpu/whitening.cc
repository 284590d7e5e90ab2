// bflow::whitening on the CPU.
#include "model/ops/whitening.h"

#include <cstdint>
#include <tuple>

#include "ATen/Dispatch.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty_like.h"
#include "model/ops/checks.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/simd_dispatch.h"
#include "model/ops/cpu/whitening_map.h"
#include "torch/library.h"

namespace bflow::cpu {
namespace {

// Multiply-adds of a row.
int64_t RowCost(int64_t steps, int64_t channels, at::TensorList map) {
  return steps * channels * channels * (map[0].size(2) + 1);
}

std::tuple<at::Tensor, at::Tensor> WhiteningCpu(const at::Tensor& x, at::TensorList map,
                                                bool inverse) {
  CheckWhitening(x, map);
  const at::Tensor in = x.contiguous();
  at::Tensor y = at::empty_like(in);
  const int64_t steps = x.size(1), row = steps * x.size(2);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::whitening", [&] {
    const HeldWhiteningMap<scalar_t> held(map);
    const scalar_t* from = in.const_data_ptr<scalar_t>();
    scalar_t* to = y.data_ptr<scalar_t>();
    const auto kernel = CurrentKernels<scalar_t>().whiten;
    ForRows(x.size(0), RowCost(steps, x.size(2), map), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        kernel(held.map, from + r * row, to + r * row, steps, inverse);
      }
    });
    const double log_det = inverse ? -held.LogDet(steps) : held.LogDet(steps);
    return std::make_tuple(y, Scalar<scalar_t>(log_det, x));
  });
}

at::Tensor WhiteningBackwardCpu(at::TensorList map, bool inverse, const at::Tensor& grad_y) {
  CheckWhitening(grad_y, map);
  const at::Tensor in = grad_y.contiguous();
  at::Tensor grad_x = at::empty_like(in);
  const int64_t steps = in.size(1), row = steps * in.size(2);
  AT_DISPATCH_FLOATING_TYPES(in.scalar_type(), "bflow::whitening_backward", [&] {
    const HeldWhiteningMap<scalar_t> held(map);
    const scalar_t* from = in.const_data_ptr<scalar_t>();
    scalar_t* to = grad_x.data_ptr<scalar_t>();
    const auto kernel = CurrentKernels<scalar_t>().whiten_backward;
    ForRows(in.size(0), RowCost(steps, in.size(2), map), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        kernel(held.map, from + r * row, to + r * row, steps, inverse);
      }
    });
  });
  return grad_x;
}

}  // namespace

TORCH_LIBRARY_IMPL(bflow, CPU, m) {
  m.impl("whitening", WhiteningCpu);
  m.impl("whitening_backward", WhiteningBackwardCpu);
}

}  // namespace bflow::cpu
