// What every kernel of an operator demands of its arguments, whatever the device: shapes, types and
// one device for all. Each throws c10::Error naming operator and argument.
#ifndef BFLOW_MODEL_OPS_CHECKS_H_
#define BFLOW_MODEL_OPS_CHECKS_H_

#include <bit>
#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "model/ops/box.h"

namespace bflow {

// `t` is of x's type (unless it holds indices) and on x's device.
inline void CheckKind(const char* op, const char* name, const at::Tensor& x, const at::Tensor& t,
                      bool indices = false) {
  TORCH_CHECK(t.scalar_type() == (indices ? at::kLong : x.scalar_type()), op, ": ", name, " is ",
              t.scalar_type(), ", x is ", x.scalar_type());
  TORCH_CHECK(t.device() == x.device(), op, ": ", name, " is on ", t.device(), ", x on ",
              x.device());
}

inline void CheckButterfly(const at::Tensor& x, at::TensorList factors) {
  TORCH_CHECK(x.dim() == 2, "butterfly: x must be [B, D], got ", x.sizes());
  const int64_t size = x.size(1);
  for (const at::Tensor& w : factors) {
    TORCH_CHECK(w.dim() == 4 && w.size(1) == 2 && w.size(3) == 2 && w.size(0) > 0 &&
                    std::has_single_bit(static_cast<uint64_t>(w.size(0))) &&
                    size % (2 * w.size(0)) == 0 &&
                    (w.size(2) == 1 || w.size(2) == size / (2 * w.size(0))),
                "butterfly: a factor of shape ", w.sizes(), " does not fit D = ", size);
    CheckKind("butterfly", "a factor", x, w);
  }
}

// One number per channel of x [B, T, C].
inline void CheckChannelVector(const char* op, const char* name, const at::Tensor& x,
                               const at::Tensor& v) {
  TORCH_CHECK(v.dim() == 1 && v.size(0) == x.size(2), op, ": ", name, " must be [C], got ",
              v.sizes(), " for x of ", x.sizes());
  CheckKind(op, name, x, v);
}

inline void CheckActNorm(const at::Tensor& x, const at::Tensor& log_scale) {
  TORCH_CHECK(x.dim() == 3, "act_norm: x must be [B, T, C], got ", x.sizes());
  CheckChannelVector("act_norm", "log_scale", x, log_scale);
}

inline void CheckLu(const at::Tensor& x, const at::Tensor& lower, const at::Tensor& upper,
                    const at::Tensor& log_diagonal, const at::Tensor& diagonal_sign,
                    const at::Tensor& permutation) {
  TORCH_CHECK(x.dim() == 3, "lu_matmul: x must be [B, T, C], got ", x.sizes());
  const int64_t c = x.size(2);
  for (const at::Tensor* matrix : {&lower, &upper}) {
    TORCH_CHECK(matrix->dim() == 2 && matrix->size(0) == c && matrix->size(1) == c,
                "lu_matmul: lower and upper must be [C, C], got ", matrix->sizes());
    CheckKind("lu_matmul", "lower or upper", x, *matrix);
  }
  CheckChannelVector("lu_matmul", "log_diagonal", x, log_diagonal);
  CheckChannelVector("lu_matmul", "diagonal_sign", x, diagonal_sign);
  TORCH_CHECK(permutation.dim() == 1 && permutation.size(0) == c,
              "lu_matmul: permutation must be [C], got ", permutation.sizes());
  CheckKind("lu_matmul", "permutation", x, permutation, /*indices=*/true);
}

inline void CheckNet(const char* name, const at::Tensor& x, at::TensorList net) {
  TORCH_CHECK(net.size() == 6, "affine_coupling: ", name, " must hold 6 tensors, got ", net.size());
  TORCH_CHECK(net[0].dim() == 2, "affine_coupling: ", name, "[0] must be [H, C/2]");
  const int64_t half = x.size(2) / 2, hidden = net[0].size(0);
  const std::vector<std::vector<int64_t>> shapes = {
      {hidden, half}, {hidden}, {hidden, hidden}, {hidden}, {half, hidden}, {half}};
  for (size_t i = 0; i < 6; ++i) {
    TORCH_CHECK(net[i].sizes() == at::IntArrayRef(shapes[i]), "affine_coupling: ", name, "[", i,
                "] must be ", at::IntArrayRef(shapes[i]), ", got ", net[i].sizes());
    CheckKind("affine_coupling", name, x, net[i]);
  }
}

inline void CheckCoupling(const at::Tensor& x, at::TensorList scale_net, at::TensorList shift_net) {
  TORCH_CHECK(x.dim() == 3 && x.size(2) >= 2 && x.size(2) % 2 == 0,
              "affine_coupling: x must be [B, T, C] with C even, got ", x.sizes());
  CheckNet("scale_net", x, scale_net);
  CheckNet("shift_net", x, shift_net);
  TORCH_CHECK(scale_net[0].size(0) == shift_net[0].size(0),
              "affine_coupling: the two nets differ in width");
}

// net: weight, bias of the three convolutions.
inline void CheckConvolutions(const at::Tensor& x, at::TensorList net, int64_t dilation) {
  TORCH_CHECK(x.dim() == 3 && x.size(2) >= 2 && x.size(2) % 2 == 0,
              "conv1d_coupling: x must be [B, T, C] with C even, got ", x.sizes());
  TORCH_CHECK(net.size() == 6 && net[0].dim() == 3 && net[0].size(2) % 2 == 1 && dilation >= 1,
              "conv1d_coupling: net must hold 6 tensors, the first [H, C/2, K] with K odd");
  const int64_t half = x.size(2) / 2, hidden = net[0].size(0), kernel = net[0].size(2);
  const std::vector<std::vector<int64_t>> shapes = {{hidden, half, kernel},   {hidden},
                                                    {hidden, hidden, kernel}, {hidden},
                                                    {2 * half, hidden, 1},    {2 * half}};
  for (size_t i = 0; i < 6; ++i) {
    TORCH_CHECK(net[i].sizes() == at::IntArrayRef(shapes[i]), "conv1d_coupling: net[", i,
                "] must be ", at::IntArrayRef(shapes[i]), ", got ", net[i].sizes());
    CheckKind("conv1d_coupling", "net", x, net[i]);
  }
}

// map: lags, instantaneous, bias, log_scale, head_weight, head_bias, head_log_scale.
inline void CheckWhitening(const at::Tensor& x, at::TensorList map) {
  TORCH_CHECK(x.dim() == 3 && map.size() == 7 && map[0].dim() == 3,
              "whitening: x must be [B, T, C] and map hold 7 tensors, the first [C, C, K]");
  const int64_t channels = x.size(2), order = map[0].size(2), head = channels * order;
  TORCH_CHECK(order >= 1 && x.size(1) >= order, "whitening: ", x.size(1), " steps for order ",
              order);
  const std::vector<std::vector<int64_t>> shapes = {{channels, channels, order},
                                                    {channels, channels},
                                                    {channels},
                                                    {channels},
                                                    {head, head},
                                                    {head},
                                                    {head}};
  for (size_t i = 0; i < 7; ++i) {
    TORCH_CHECK(map[i].sizes() == at::IntArrayRef(shapes[i]), "whitening: map[", i, "] must be ",
                at::IntArrayRef(shapes[i]), ", got ", map[i].sizes());
    CheckKind("whitening", "map", x, map[i]);
  }
}

// net: weight, bias of the trunk, of both convolutions per dilation, of both layers per head.
inline void CheckBoxNet(const at::Tensor& features, const at::Tensor& heads, at::TensorList net,
                        at::IntArrayRef dilations) {
  TORCH_CHECK(features.dim() == 3 && heads.dim() == 4 && heads.size(0) == features.size(0) &&
                  heads.size(1) == features.size(1) && heads.size(3) == 4,
              "box_net: features must be [B, T, F] and heads [B, T, C, 4], got ", features.sizes(),
              " and ", heads.sizes());
  CheckKind("box_net", "heads", features, heads);
  const size_t channels = static_cast<size_t>(heads.size(2)), blocks = dilations.size();
  TORCH_CHECK(net.size() == 2 + 4 * blocks + 4 * channels && net[0].dim() == 3,
              "box_net: net must hold ", 2 + 4 * blocks + 4 * channels,
              " tensors, the first [W, F, kernel]");
  const int64_t width = net[0].size(0);
  std::vector<std::vector<int64_t>> shapes = {{width, features.size(2), net[0].size(2)}, {width}};
  for (const int64_t dilation : dilations) {
    TORCH_CHECK(dilation >= 1, "box_net: a dilation is ", dilation);
    shapes.insert(shapes.end(), {{width, width, 3}, {width}, {width, width, 1}, {width}});
  }
  for (int64_t c = 0; c < heads.size(2); ++c) {
    shapes.insert(shapes.end(),
                  {{width, width + 2 + 2 * c, 1}, {width}, {kBoxOutputs, width, 1}, {kBoxOutputs}});
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    TORCH_CHECK(net[i].sizes() == at::IntArrayRef(shapes[i]), "box_net: net[", i, "] must be ",
                at::IntArrayRef(shapes[i]), ", got ", net[i].sizes());
    CheckKind("box_net", "net", features, net[i]);
  }
}

inline void CheckBoxCells(const at::Tensor& raw, const at::Tensor& frame, const at::Tensor& u) {
  TORCH_CHECK(u.dim() == 3 && u.scalar_type() == at::kDouble,
              "box_cells: u must be [B, T, C] of float64, got ", u.sizes());
  const auto check = [&u](const char* name, const at::Tensor& t, int64_t last) {
    TORCH_CHECK(t.dim() == 4 && t.sizes().slice(0, 3) == u.sizes() && t.size(3) == last,
                "box_cells: ", name, " must be [B, T, C, ", last, "], got ", t.sizes());
    CheckKind("box_cells", name, u, t);
  };
  check("raw", raw, kBoxOutputs);
  const bool adaptive = frame.dim() == 4 && frame.size(3) == kAdaptiveBoxFrame;
  check("frame", frame, adaptive ? kAdaptiveBoxFrame : kBoxFrame);
}

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_CHECKS_H_
