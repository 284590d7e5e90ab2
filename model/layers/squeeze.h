// Trading positions for channels; log-determinant 0. Waveform: [B, T, C] -> [B, T / factor, C
// factor], the new channel index being phase * C + c; rows are time-major, so both directions are
// plain reshapes. Image: [B, C, H, W] -> [B, C factor^2, H / factor, W / factor], the new channel
// index being (fh * factor + fw) * C + c for row fh and column fw of a factor x factor square.
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

inline at::Tensor Squeeze2d(const at::Tensor& x, int64_t factor) {
  const int64_t channels = x.size(1), height = x.size(2) / factor, width = x.size(3) / factor;
  return x.reshape({x.size(0), channels, height, factor, width, factor})
      .permute({0, 3, 5, 1, 2, 4})
      .reshape({x.size(0), channels * factor * factor, height, width});
}

inline at::Tensor Unsqueeze2d(const at::Tensor& x, int64_t factor) {
  const int64_t channels = x.size(1) / (factor * factor), height = x.size(2), width = x.size(3);
  return x.reshape({x.size(0), factor, factor, channels, height, width})
      .permute({0, 3, 4, 1, 5, 2})
      .reshape({x.size(0), channels, height * factor, width * factor});
}

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_SQUEEZE_H_
