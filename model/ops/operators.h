// The backward operators, called through the dispatcher by the autograd formulas alone; the forward
// ones have headers of their own. Each returns the derivatives of grad_y . y + grad_log_det .
// log_det.
#ifndef BFLOW_MODEL_OPS_OPERATORS_H_
#define BFLOW_MODEL_OPS_OPERATORS_H_

#include <tuple>
#include <vector>

#include "ATen/core/Tensor.h"

namespace bflow {

std::tuple<at::Tensor, std::vector<at::Tensor>> butterfly_backward(const at::Tensor& x,
                                                                   at::TensorList factors,
                                                                   const at::Tensor& grad_y,
                                                                   const at::Tensor& grad_log_det);
// Of x, log_scale, bias.
std::tuple<at::Tensor, at::Tensor, at::Tensor> act_norm_backward(const at::Tensor& x,
                                                                 const at::Tensor& log_scale,
                                                                 const at::Tensor& grad_y,
                                                                 const at::Tensor& grad_log_det);
// Of x, lower, upper, log_diagonal.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> lu_matmul_backward(
    const at::Tensor& x, const at::Tensor& lower, const at::Tensor& upper,
    const at::Tensor& log_diagonal, const at::Tensor& diagonal_sign, const at::Tensor& permutation,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det);
// Of x and of the twelve weights, scale_net first.
std::tuple<at::Tensor, std::vector<at::Tensor>> affine_coupling_backward(
    const at::Tensor& x, at::TensorList scale_net, at::TensorList shift_net, bool inverse,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det);

// Of x and of the six weights.
std::tuple<at::Tensor, std::vector<at::Tensor>> conv1d_coupling_backward(
    const at::Tensor& x, at::TensorList net, int64_t dilation, bool inverse,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det);
// Of x; the log-determinant is constant, and the map is fitted, not trained.
at::Tensor whitening_backward(at::TensorList map, bool inverse, const at::Tensor& grad_y);
// Of the net's tensors: contexts are codes.
std::vector<at::Tensor> box_net_backward(const at::Tensor& features, const at::Tensor& heads,
                                         at::TensorList net, at::IntArrayRef dilations,
                                         const at::Tensor& grad_raw);
// Of raw and u; share: what box_cells returned.
std::tuple<at::Tensor, at::Tensor> box_cells_backward(const at::Tensor& raw,
                                                      const at::Tensor& frame, const at::Tensor& u,
                                                      const at::Tensor& share,
                                                      const at::Tensor& grad_z,
                                                      const at::Tensor& grad_log_det);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_OPERATORS_H_
