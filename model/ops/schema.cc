// The operators as the dispatcher knows them. A folder holds the kernels of one dispatch key.
#include "torch/library.h"

#include <tuple>
#include <vector>

#include "ATen/core/dispatch/Dispatcher.h"
#include "model/ops/act_norm.h"
#include "model/ops/affine_coupling.h"
#include "model/ops/box.h"
#include "model/ops/butterfly.h"
#include "model/ops/conv1d_coupling.h"
#include "model/ops/lu_matmul.h"
#include "model/ops/operators.h"
#include "model/ops/whitening.h"

TORCH_LIBRARY(bflow, m) {
  m.def("butterfly(Tensor x, Tensor[] factors) -> (Tensor y, Tensor log_det)");
  m.def(
      "butterfly_backward(Tensor x, Tensor[] factors, Tensor grad_y, Tensor grad_log_det) -> "
      "(Tensor grad_x, Tensor[] grad_factors)");
  m.def("act_norm(Tensor x, Tensor log_scale, Tensor bias) -> (Tensor y, Tensor log_det)");
  m.def(
      "act_norm_backward(Tensor x, Tensor log_scale, Tensor grad_y, Tensor grad_log_det) -> "
      "(Tensor grad_x, Tensor grad_log_scale, Tensor grad_bias)");
  m.def(
      "lu_matmul(Tensor x, Tensor lower, Tensor upper, Tensor log_diagonal, Tensor diagonal_sign, "
      "Tensor permutation) -> (Tensor y, Tensor log_det)");
  m.def(
      "lu_matmul_backward(Tensor x, Tensor lower, Tensor upper, Tensor log_diagonal, "
      "Tensor diagonal_sign, Tensor permutation, Tensor grad_y, Tensor grad_log_det) -> "
      "(Tensor grad_x, Tensor grad_lower, Tensor grad_upper, Tensor grad_log_diagonal)");
  m.def(
      "affine_coupling(Tensor x, Tensor[] scale_net, Tensor[] shift_net, bool inverse) -> "
      "(Tensor y, Tensor log_det)");
  m.def(
      "affine_coupling_backward(Tensor x, Tensor[] scale_net, Tensor[] shift_net, bool inverse, "
      "Tensor grad_y, Tensor grad_log_det) -> (Tensor grad_x, Tensor[] grad_nets)");
  m.def(
      "conv1d_coupling(Tensor x, Tensor[] net, int dilation, bool inverse) -> "
      "(Tensor y, Tensor log_det)");
  m.def(
      "conv1d_coupling_backward(Tensor x, Tensor[] net, int dilation, bool inverse, "
      "Tensor grad_y, Tensor grad_log_det) -> (Tensor grad_x, Tensor[] grad_net)");
  m.def("whitening(Tensor x, Tensor[] map, bool inverse) -> (Tensor y, Tensor log_det)");
  m.def("whitening_backward(Tensor[] map, bool inverse, Tensor grad_y) -> Tensor grad_x");
  m.def("box_net(Tensor features, Tensor heads, Tensor[] net, int[] dilations) -> Tensor raw");
  m.def(
      "box_net_backward(Tensor features, Tensor heads, Tensor[] net, int[] dilations, "
      "Tensor grad_raw) -> Tensor[] grad_net");
  m.def(
      "box_cells(Tensor raw, Tensor frame, Tensor u) -> (Tensor z, Tensor log_det, Tensor share)");
  m.def(
      "box_cells_backward(Tensor raw, Tensor frame, Tensor u, Tensor share, Tensor grad_z, "
      "Tensor grad_log_det) -> (Tensor grad_raw, Tensor grad_u)");
}

namespace bflow {
namespace {

template <typename Function>
auto Find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> butterfly(const at::Tensor& x, at::TensorList factors) {
  static const auto op = Find<decltype(butterfly)>("bflow::butterfly");
  return op.call(x, factors);
}

std::tuple<at::Tensor, at::Tensor> act_norm(const at::Tensor& x, const at::Tensor& log_scale,
                                            const at::Tensor& bias) {
  static const auto op = Find<decltype(act_norm)>("bflow::act_norm");
  return op.call(x, log_scale, bias);
}

std::tuple<at::Tensor, at::Tensor> lu_matmul(const at::Tensor& x, const at::Tensor& lower,
                                             const at::Tensor& upper,
                                             const at::Tensor& log_diagonal,
                                             const at::Tensor& diagonal_sign,
                                             const at::Tensor& permutation) {
  static const auto op = Find<decltype(lu_matmul)>("bflow::lu_matmul");
  return op.call(x, lower, upper, log_diagonal, diagonal_sign, permutation);
}

std::tuple<at::Tensor, at::Tensor> affine_coupling(const at::Tensor& x, at::TensorList scale_net,
                                                   at::TensorList shift_net, bool inverse) {
  static const auto op = Find<decltype(affine_coupling)>("bflow::affine_coupling");
  return op.call(x, scale_net, shift_net, inverse);
}

std::tuple<at::Tensor, at::Tensor> conv1d_coupling(const at::Tensor& x, at::TensorList net,
                                                   int64_t dilation, bool inverse) {
  static const auto op = Find<decltype(conv1d_coupling)>("bflow::conv1d_coupling");
  return op.call(x, net, dilation, inverse);
}

std::tuple<at::Tensor, at::Tensor> whitening(const at::Tensor& x, at::TensorList map,
                                             bool inverse) {
  static const auto op = Find<decltype(whitening)>("bflow::whitening");
  return op.call(x, map, inverse);
}

at::Tensor box_net(const at::Tensor& features, const at::Tensor& heads, at::TensorList net,
                   at::IntArrayRef dilations) {
  static const auto op = Find<decltype(box_net)>("bflow::box_net");
  return op.call(features, heads, net, dilations);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> box_cells(const at::Tensor& raw,
                                                         const at::Tensor& frame,
                                                         const at::Tensor& u) {
  static const auto op = Find<decltype(box_cells)>("bflow::box_cells");
  return op.call(raw, frame, u);
}

std::tuple<at::Tensor, std::vector<at::Tensor>> butterfly_backward(const at::Tensor& x,
                                                                   at::TensorList factors,
                                                                   const at::Tensor& grad_y,
                                                                   const at::Tensor& grad_log_det) {
  static const auto op = Find<decltype(butterfly_backward)>("bflow::butterfly_backward");
  return op.call(x, factors, grad_y, grad_log_det);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> act_norm_backward(const at::Tensor& x,
                                                                 const at::Tensor& log_scale,
                                                                 const at::Tensor& grad_y,
                                                                 const at::Tensor& grad_log_det) {
  static const auto op = Find<decltype(act_norm_backward)>("bflow::act_norm_backward");
  return op.call(x, log_scale, grad_y, grad_log_det);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> lu_matmul_backward(
    const at::Tensor& x, const at::Tensor& lower, const at::Tensor& upper,
    const at::Tensor& log_diagonal, const at::Tensor& diagonal_sign, const at::Tensor& permutation,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  static const auto op = Find<decltype(lu_matmul_backward)>("bflow::lu_matmul_backward");
  return op.call(x, lower, upper, log_diagonal, diagonal_sign, permutation, grad_y, grad_log_det);
}

std::tuple<at::Tensor, std::vector<at::Tensor>> affine_coupling_backward(
    const at::Tensor& x, at::TensorList scale_net, at::TensorList shift_net, bool inverse,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  static const auto op =
      Find<decltype(affine_coupling_backward)>("bflow::affine_coupling_backward");
  return op.call(x, scale_net, shift_net, inverse, grad_y, grad_log_det);
}

std::tuple<at::Tensor, std::vector<at::Tensor>> conv1d_coupling_backward(
    const at::Tensor& x, at::TensorList net, int64_t dilation, bool inverse,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  static const auto op =
      Find<decltype(conv1d_coupling_backward)>("bflow::conv1d_coupling_backward");
  return op.call(x, net, dilation, inverse, grad_y, grad_log_det);
}

at::Tensor whitening_backward(at::TensorList map, bool inverse, const at::Tensor& grad_y) {
  static const auto op = Find<decltype(whitening_backward)>("bflow::whitening_backward");
  return op.call(map, inverse, grad_y);
}

std::vector<at::Tensor> box_net_backward(const at::Tensor& features, const at::Tensor& heads,
                                         at::TensorList net, at::IntArrayRef dilations,
                                         const at::Tensor& grad_raw) {
  static const auto op = Find<decltype(box_net_backward)>("bflow::box_net_backward");
  return op.call(features, heads, net, dilations, grad_raw);
}

std::tuple<at::Tensor, at::Tensor> box_cells_backward(const at::Tensor& raw,
                                                      const at::Tensor& frame, const at::Tensor& u,
                                                      const at::Tensor& share,
                                                      const at::Tensor& grad_z,
                                                      const at::Tensor& grad_log_det) {
  static const auto op = Find<decltype(box_cells_backward)>("bflow::box_cells_backward");
  return op.call(raw, frame, u, share, grad_z, grad_log_det);
}

}  // namespace bflow
