// The tensors of a whitening as the kernels take them.
#ifndef BFLOW_MODEL_OPS_CPU_WHITENING_MAP_H_
#define BFLOW_MODEL_OPS_CPU_WHITENING_MAP_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "model/ops/cpu/kernels.h"

namespace bflow::cpu {

template <typename T>
std::vector<T> FlatValues(const at::Tensor& tensor) {
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
struct HeldWhiteningMap {
  explicit HeldWhiteningMap(at::TensorList tensors)
      : bias(FlatValues<T>(tensors[2])),
        log_scale(FlatValues<T>(tensors[3])),
        scale(Exponentials(log_scale)),
        head_weight(FlatValues<T>(tensors[4])),
        head_bias(FlatValues<T>(tensors[5])),
        head_log_scale(FlatValues<T>(tensors[6])),
        head_scale(Exponentials(head_log_scale)) {
    const int64_t channels = tensors[0].size(0), order = tensors[0].size(2);
    const std::vector<T> lags = FlatValues<T>(tensors[0]), same_step = FlatValues<T>(tensors[1]);
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

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_WHITENING_MAP_H_
