// Trading time for channels: [B, T, C] -> [B, T / factor, C factor], the new channel index being
// phase * C + c. Rows are time-major, so both directions are plain reshapes; log-determinant 0.
#ifndef BFLOW_MODEL_LAYERS_SQUEEZE_H_
#define BFLOW_MODEL_LAYERS_SQUEEZE_H_

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace bflow {

inline at::Tensor Squeeze(const at::Tensor& x, int64_t factor) {
  return x.reshape({x.size(0), x.size(1) / factor, x.size(2) * factor});
}

inline at::Tensor Unsqueeze(const at::Tensor& x, int64_t factor) {
  return x.reshape({x.size(0), x.size(1) * factor, x.size(2) / factor});
}

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_SQUEEZE_H_
