// Autograd formulas: each keeps the operator's inputs and calls the hand-written backward operator,
// which recomputes what it needs. First order only.
#include <tuple>
#include <utility>
#include <vector>

#include "ATen/core/LegacyTypeDispatch.h"
#include "c10/core/GradMode.h"
#include "model/ops/act_norm.h"
#include "model/ops/affine_coupling.h"
#include "model/ops/box.h"
#include "model/ops/butterfly.h"
#include "model/ops/conv1d_coupling.h"
#include "model/ops/lu_matmul.h"
#include "model/ops/operators.h"
#include "model/ops/whitening.h"
#include "torch/csrc/autograd/custom_function.h"
#include "torch/library.h"

namespace bflow {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void CheckFirstOrder() {
  TORCH_CHECK(!c10::GradMode::is_enabled(),
              "bflow operators have derivatives of first order only (create_graph=true)");
}

variable_list Concatenate(const at::Tensor& x, std::initializer_list<at::TensorList> lists) {
  variable_list all = {x};
  for (const at::TensorList& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

class ButterflyFunction : public torch::autograd::Function<ButterflyFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList factors) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward(Concatenate(x, {factors}));
    auto [y, log_det] = butterfly(x, factors);
    return {y, log_det};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list saved = ctx->get_saved_variables();
    auto [grad_x, grad_factors] =
        butterfly_backward(saved[0], at::TensorList(saved).slice(1), grads[0], grads[1]);
    return Concatenate(grad_x, {grad_factors});
  }
};

class ActNormFunction : public torch::autograd::Function<ActNormFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const at::Tensor& log_scale, const at::Tensor& bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, log_scale});
    auto [y, log_det] = act_norm(x, log_scale, bias);
    return {y, log_det};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list saved = ctx->get_saved_variables();
    auto [grad_x, grad_log_scale, grad_bias] =
        act_norm_backward(saved[0], saved[1], grads[0], grads[1]);
    return {grad_x, grad_log_scale, grad_bias};
  }
};

class LuMatmulFunction : public torch::autograd::Function<LuMatmulFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& lower,
                               const at::Tensor& upper, const at::Tensor& log_diagonal,
                               const at::Tensor& diagonal_sign, const at::Tensor& permutation) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, lower, upper, log_diagonal, diagonal_sign, permutation});
    auto [y, log_det] = lu_matmul(x, lower, upper, log_diagonal, diagonal_sign, permutation);
    return {y, log_det};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list s = ctx->get_saved_variables();
    auto [grad_x, grad_lower, grad_upper, grad_log_diagonal] =
        lu_matmul_backward(s[0], s[1], s[2], s[3], s[4], s[5], grads[0], grads[1]);
    return {grad_x, grad_lower, grad_upper, grad_log_diagonal, at::Tensor(), at::Tensor()};
  }
};

class AffineCouplingFunction : public torch::autograd::Function<AffineCouplingFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList scale_net,
                               at::TensorList shift_net, bool inverse) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward(Concatenate(x, {scale_net, shift_net}));
    ctx->saved_data["inverse"] = inverse;
    auto [y, log_det] = affine_coupling(x, scale_net, shift_net, inverse);
    return {y, log_det};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list saved = ctx->get_saved_variables();
    const at::TensorList nets = at::TensorList(saved).slice(1);
    auto [grad_x, grad_nets] =
        affine_coupling_backward(saved[0], nets.slice(0, 6), nets.slice(6),
                                 ctx->saved_data["inverse"].toBool(), grads[0], grads[1]);
    variable_list all = Concatenate(grad_x, {grad_nets});
    all.emplace_back();  // inverse
    return all;
  }
};

class Conv1dCouplingFunction : public torch::autograd::Function<Conv1dCouplingFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList net,
                               int64_t dilation, bool inverse) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward(Concatenate(x, {net}));
    ctx->saved_data["dilation"] = dilation;
    ctx->saved_data["inverse"] = inverse;
    auto [y, log_det] = conv1d_coupling(x, net, dilation, inverse);
    return {y, log_det};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list saved = ctx->get_saved_variables();
    auto [grad_x, grad_net] = conv1d_coupling_backward(
        saved[0], at::TensorList(saved).slice(1), ctx->saved_data["dilation"].toInt(),
        ctx->saved_data["inverse"].toBool(), grads[0], grads[1]);
    variable_list all = Concatenate(grad_x, {grad_net});
    all.resize(all.size() + 2);  // dilation, inverse
    return all;
  }
};

class WhiteningFunction : public torch::autograd::Function<WhiteningFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList map,
                               bool inverse) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward(variable_list(map.begin(), map.end()));
    ctx->saved_data["inverse"] = inverse;
    auto [y, log_det] = whitening(x, map, inverse);
    return {y, log_det};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list map = ctx->get_saved_variables();
    variable_list all = {whitening_backward(map, ctx->saved_data["inverse"].toBool(), grads[0])};
    all.resize(all.size() + map.size() + 1);  // the map, inverse
    return all;
  }
};

class BoxNetFunction : public torch::autograd::Function<BoxNetFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& features,
                               const at::Tensor& heads, at::TensorList net,
                               at::IntArrayRef dilations) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward(Concatenate(features, {heads, net}));
    ctx->saved_data["dilations"] = dilations.vec();
    return {box_net(features, heads, net, dilations)};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list saved = ctx->get_saved_variables();
    const std::vector<int64_t> dilations = ctx->saved_data["dilations"].toIntVector();
    variable_list all(2);  // features and heads
    for (at::Tensor& grad : box_net_backward(saved[0], saved[1], at::TensorList(saved).slice(2),
                                             dilations, grads[0])) {
      all.push_back(std::move(grad));
    }
    all.resize(all.size() + 1);  // dilations
    return all;
  }
};

class BoxCellsFunction : public torch::autograd::Function<BoxCellsFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& raw, const at::Tensor& frame,
                               const at::Tensor& u) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [z, log_det, share] = box_cells(raw, frame, u);
    ctx->save_for_backward({raw, frame, u, share});
    ctx->mark_non_differentiable({share});
    return {z, log_det, share};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    CheckFirstOrder();
    const variable_list saved = ctx->get_saved_variables();
    auto [grad_raw, grad_u] =
        box_cells_backward(saved[0], saved[1], saved[2], saved[3], grads[0], grads[1]);
    return {grad_raw, at::Tensor(), grad_u};
  }
};

template <typename Function, typename... Args>
std::tuple<at::Tensor, at::Tensor> Apply(Args&&... args) {
  const variable_list out = Function::apply(std::forward<Args>(args)...);
  return {out[0], out[1]};
}

std::tuple<at::Tensor, at::Tensor> Butterfly(const at::Tensor& x, at::TensorList factors) {
  return Apply<ButterflyFunction>(x, factors);
}

std::tuple<at::Tensor, at::Tensor> ActNorm(const at::Tensor& x, const at::Tensor& log_scale,
                                           const at::Tensor& bias) {
  return Apply<ActNormFunction>(x, log_scale, bias);
}

std::tuple<at::Tensor, at::Tensor> LuMatmul(const at::Tensor& x, const at::Tensor& lower,
                                            const at::Tensor& upper, const at::Tensor& log_diagonal,
                                            const at::Tensor& diagonal_sign,
                                            const at::Tensor& permutation) {
  return Apply<LuMatmulFunction>(x, lower, upper, log_diagonal, diagonal_sign, permutation);
}

std::tuple<at::Tensor, at::Tensor> AffineCoupling(const at::Tensor& x, at::TensorList scale_net,
                                                  at::TensorList shift_net, bool inverse) {
  return Apply<AffineCouplingFunction>(x, scale_net, shift_net, inverse);
}

std::tuple<at::Tensor, at::Tensor> Conv1dCoupling(const at::Tensor& x, at::TensorList net,
                                                  int64_t dilation, bool inverse) {
  return Apply<Conv1dCouplingFunction>(x, net, dilation, inverse);
}

std::tuple<at::Tensor, at::Tensor> Whitening(const at::Tensor& x, at::TensorList map,
                                             bool inverse) {
  return Apply<WhiteningFunction>(x, map, inverse);
}

at::Tensor BoxNet(const at::Tensor& features, const at::Tensor& heads, at::TensorList net,
                  at::IntArrayRef dilations) {
  return BoxNetFunction::apply(features, heads, net, dilations)[0];
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> BoxCells(const at::Tensor& raw,
                                                        const at::Tensor& frame,
                                                        const at::Tensor& u) {
  const variable_list out = BoxCellsFunction::apply(raw, frame, u);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(bflow, Autograd, m) {
  m.impl("butterfly", Butterfly);
  m.impl("act_norm", ActNorm);
  m.impl("lu_matmul", LuMatmul);
  m.impl("affine_coupling", AffineCoupling);
  m.impl("conv1d_coupling", Conv1dCoupling);
  m.impl("whitening", Whitening);
  m.impl("box_net", BoxNet);
  m.impl("box_cells", BoxCells);
}

}  // namespace bflow
