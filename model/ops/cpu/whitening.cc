// bflow::whitening on the CPU.
#include "model/ops/whitening.h"

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "ATen/Dispatch.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty_like.h"
#include "model/ops/checks.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/simd_dispatch.h"
#include "torch/library.h"

namespace bflow::cpu {
namespace {

template <typename T>
std::vector<T> ValuesOf(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().contiguous();
  const T* values = plain.const_data_ptr<T>();
  return {values, values + plain.numel()};
}

template <typename T>
std::vector<T> Exponentials(std::vector<T> values) {
  for (T& value : values) value = std::exp(value);
  return values;
}

// The map as the kernels take it; keeps it alive.
template <typename T>
struct HeldMap {
  explicit HeldMap(at::TensorList tensors)
      : bias(ValuesOf<T>(tensors[2])),
        log_scale(ValuesOf<T>(tensors[3])),
        scale(Exponentials(log_scale)),
        head_weight(ValuesOf<T>(tensors[4])),
        head_bias(ValuesOf<T>(tensors[5])),
        head_log_scale(ValuesOf<T>(tensors[6])),
        head_scale(Exponentials(head_log_scale)) {
    const int64_t channels = tensors[0].size(0), order = tensors[0].size(2);
    const std::vector<T> lags = ValuesOf<T>(tensors[0]), same_step = ValuesOf<T>(tensors[1]);
    weight.assign(static_cast<size_t>(channels * (order + 1) * channels), 0);
    for (int64_t c = 0; c < channels; ++c) {
      T* row = weight.data() + c * (order + 1) * channels;
      for (int64_t j = 0; j < channels; ++j) {
        for (int64_t k = 1; k <= order; ++k) {
          row[(order - k) * channels + j] = lags[(c * channels + j) * order + k - 1];
        }
        if (j < c) row[order * channels + j] = same_step[c * channels + j];
      }
    }
    map = {channels,         order,
           weight.data(),    bias.data(),
           scale.data(),     head_weight.data(),
           head_bias.data(), head_scale.data()};
  }
  // Of a row of `steps`, forward.
  double LogDet(int64_t steps) const {
    double per_step = 0, head = 0;
    for (const T value : log_scale) per_step += value;
    for (const T value : head_log_scale) head += value;
    return -static_cast<double>(steps - map.order) * per_step - head;
  }
  std::vector<T> weight, bias, log_scale, scale, head_weight, head_bias, head_log_scale, head_scale;
  WhiteningMap<T> map;
};

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
    const HeldMap<scalar_t> held(map);
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
    const HeldMap<scalar_t> held(map);
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
