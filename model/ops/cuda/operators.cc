// The operators on the dispatch key CUDA: checks, memory, launches. What no kernel is made for (a
// net wider than kMaxHidden, more than kMaxFactors factors) is an error that says so.
#include <algorithm>
#include <bit>
#include <limits>
#include <tuple>
#include <vector>

#include "ATen/Dispatch.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/zeros.h"
#include "c10/cuda/CUDAException.h"
#include "c10/cuda/CUDAGuard.h"
#include "c10/cuda/CUDAStream.h"
#include "model/ops/checks.h"
#include "model/ops/cuda/kernels.h"
#include "torch/library.h"

namespace bflow::cuda {
namespace {

cudaStream_t Stream() { return c10::cuda::getCurrentCUDAStream(); }

// The layer as the kernels take it; keeps the factors alive.
template <typename T>
struct HeldLayer {
  HeldLayer(const at::Tensor& x, at::TensorList factors) {
    TORCH_CHECK(factors.size() >= 1 && factors.size() <= kMaxFactors, "butterfly: takes 1 to ",
                kMaxFactors, " factors on a GPU, got ", factors.size());
    TORCH_CHECK(x.size(1) <= std::numeric_limits<int>::max(), "butterfly: D is too large");
    plan.size = static_cast<int>(x.size(1));
    for (const at::Tensor& factor : factors) {
      const at::Tensor& w = held.emplace_back(factor.detach().contiguous());
      ButterflyFactor<T>& f = plan.factors[plan.factor_count++];
      f.weights = w.const_data_ptr<T>();
      f.level = std::countr_zero(static_cast<uint64_t>(w.size(0)));
      f.shared = w.size(2) == 1;
    }
  }
  std::vector<at::Tensor> held;
  ButterflyLayerPlan<T> plan;
};

template <typename T>
std::tuple<at::Tensor, at::Tensor> Forward(const at::Tensor& x, at::TensorList factors) {
  HeldLayer<T> layer(x, factors);
  PlanPasses(layer.plan, kRegisterFactors);
  at::Tensor y = at::empty_like(x), log_det = at::empty({}, x.options()), tiles;
  if (x.size(0) > 0) {
    const ButterflyLaunch how = ForwardLaunch(layer.plan, x.size(0), MultiprocessorCount());
    ButterflyForwardArgs<T> args;
    args.plan = layer.plan;
    args.x = x.const_data_ptr<T>();
    args.y = y.data_ptr<T>();
    if (how.tile_values > 0) {
      tiles = at::empty({how.tile_values}, x.options());
      args.tiles = tiles.data_ptr<T>();
    }
    args.rows = x.size(0);
    args.rows_per_block = how.rows_per_block;
    args.staged_weights = how.staged_weights;
    C10_CUDA_CHECK(LaunchButterflyForward(args, how, Stream()));
  }
  C10_CUDA_CHECK(LaunchButterflyLogDet(layer.plan, log_det.data_ptr<T>(), Stream()));
  return {y, log_det};
}

template <typename T>
std::tuple<at::Tensor, std::vector<at::Tensor>> Backward(const at::Tensor& x,
                                                         at::TensorList factors,
                                                         const at::Tensor& grad_y,
                                                         const at::Tensor& grad_log_det) {
  HeldLayer<T> layer(x, factors);
  PlanPasses(layer.plan, kBackwardRegisterFactors);
  at::Tensor grad_x = at::empty_like(x);
  at::Tensor grads = at::empty({layer.plan.weight_count}, x.options());
  const ButterflyLaunch how =
      BackwardLaunch(layer.plan, std::max<int64_t>(x.size(0), 1), MultiprocessorCount());
  const int64_t rows = int64_t{how.grid} * how.rows_per_block;
  at::Tensor saved = at::empty({rows * layer.plan.pass_count * x.size(1)}, x.options());
  at::Tensor partial =
      at::zeros({int64_t{how.grid} * how.slots * layer.plan.weight_count}, x.options());
  ButterflyBackwardArgs<T> args;
  args.plan = layer.plan;
  args.x = x.const_data_ptr<T>();
  args.grad_y = grad_y.const_data_ptr<T>();
  args.grad_x = grad_x.data_ptr<T>();
  args.saved = saved.data_ptr<T>();
  args.partial = partial.data_ptr<T>();
  args.rows = x.size(0);
  args.rows_per_block = how.rows_per_block;
  args.slots = how.slots;
  C10_CUDA_CHECK(LaunchButterflyBackward(args, how, grad_log_det.const_data_ptr<T>(),
                                         grads.data_ptr<T>(), Stream()));
  std::vector<at::Tensor> by_factor;
  int64_t next = 0;
  for (const at::Tensor& factor : factors) {
    by_factor.push_back(grads.narrow(0, next, factor.numel()).view(factor.sizes()));
    next += factor.numel();
  }
  return {grad_x, by_factor};
}

std::tuple<at::Tensor, at::Tensor> ButterflyCuda(const at::Tensor& x, at::TensorList factors) {
  CheckButterfly(x, factors);
  const c10::cuda::CUDAGuard guard(x.device());
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::butterfly",
                                    [&] { return Forward<scalar_t>(x.contiguous(), factors); });
}

std::tuple<at::Tensor, std::vector<at::Tensor>> ButterflyBackwardCuda(
    const at::Tensor& x, at::TensorList factors, const at::Tensor& grad_y,
    const at::Tensor& grad_log_det) {
  CheckButterfly(x, factors);
  const c10::cuda::CUDAGuard guard(x.device());
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::butterfly_backward", [&] {
    return Backward<scalar_t>(x.contiguous(), factors, grad_y.contiguous(),
                              grad_log_det.contiguous());
  });
}

int Channels(const at::Tensor& x) {
  TORCH_CHECK(x.size(2) <= 4096, "a GPU takes at most 4096 channels, got ", x.size(2));
  return static_cast<int>(x.size(2));
}

int64_t Steps(const at::Tensor& x) { return x.size(0) * x.size(1); }

at::Tensor Partial(const at::Tensor& x, int64_t blocks, int64_t entries) {
  return at::zeros({blocks * entries}, x.options().dtype(at::kDouble));
}

std::tuple<at::Tensor, at::Tensor> ActNormCuda(const at::Tensor& x, const at::Tensor& log_scale,
                                               const at::Tensor& bias) {
  CheckActNorm(x, log_scale);
  CheckChannelVector("act_norm", "bias", x, bias);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = x.contiguous(), scale = log_scale.contiguous(), shift = bias.contiguous();
  at::Tensor y = at::empty_like(in), log_det = at::empty({}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::act_norm", [&] {
    C10_CUDA_CHECK(LaunchActNorm(in.const_data_ptr<scalar_t>(), scale.const_data_ptr<scalar_t>(),
                                 shift.const_data_ptr<scalar_t>(), y.data_ptr<scalar_t>(), Steps(x),
                                 Channels(x), x.size(1), log_det.data_ptr<scalar_t>(), Stream()));
  });
  return {y, log_det};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ActNormBackwardCuda(const at::Tensor& x,
                                                                   const at::Tensor& log_scale,
                                                                   const at::Tensor& grad_y,
                                                                   const at::Tensor& grad_log_det) {
  CheckActNorm(x, log_scale);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = x.contiguous(), scale = log_scale.contiguous(), g = grad_y.contiguous(),
                   g_log_det = grad_log_det.contiguous();
  at::Tensor grad_x = at::empty_like(in), grad_scale = at::empty_like(scale),
             grad_bias = at::empty_like(scale);
  at::Tensor partial = Partial(x, SumBlocks(Steps(x)), 2 * x.size(2));
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::act_norm_backward", [&] {
    using T = scalar_t;
    C10_CUDA_CHECK(LaunchActNorm<T>(g.const_data_ptr<T>(), scale.const_data_ptr<T>(), nullptr,
                                    grad_x.data_ptr<T>(), Steps(x), Channels(x), x.size(1), nullptr,
                                    Stream()));
    C10_CUDA_CHECK(LaunchActNormGrads<T>(
        in.const_data_ptr<T>(), g.const_data_ptr<T>(), scale.const_data_ptr<T>(),
        g_log_det.const_data_ptr<T>(), Steps(x), Channels(x), x.size(1), partial.data_ptr<double>(),
        grad_scale.data_ptr<T>(), grad_bias.data_ptr<T>(), Stream()));
  });
  return {grad_x, grad_scale, grad_bias};
}

// lu_matmul's parameters as the kernels take them; keeps them alive.
template <typename T>
struct HeldLu {
  HeldLu(const at::Tensor& x, std::initializer_list<at::Tensor> parameters) {
    for (const at::Tensor& p : parameters) held.push_back(p.detach().contiguous());
    args = {held[0].const_data_ptr<T>(),       held[1].const_data_ptr<T>(),
            held[2].const_data_ptr<T>(),       held[3].const_data_ptr<T>(),
            held[4].const_data_ptr<int64_t>(), static_cast<int>(x.size(2))};
  }
  std::vector<at::Tensor> held;
  LuArgs<T> args;
};

void CheckLuSize(const at::Tensor& x) {
  TORCH_CHECK(x.size(2) <= kMaxChannels, "lu_matmul: takes at most ", kMaxChannels,
              " channels on a GPU, got ", x.size(2));
}

std::tuple<at::Tensor, at::Tensor> LuMatmulCuda(const at::Tensor& x, const at::Tensor& lower,
                                                const at::Tensor& upper,
                                                const at::Tensor& log_diagonal,
                                                const at::Tensor& diagonal_sign,
                                                const at::Tensor& permutation) {
  CheckLu(x, lower, upper, log_diagonal, diagonal_sign, permutation);
  CheckLuSize(x);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = x.contiguous();
  at::Tensor y = at::empty_like(in), log_det = at::empty({}, x.options());
  at::Tensor weight = at::empty({x.size(2) * x.size(2)}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::lu_matmul", [&] {
    using T = scalar_t;
    const HeldLu<T> lu(x, {lower, upper, log_diagonal, diagonal_sign, permutation});
    C10_CUDA_CHECK(LaunchLuMatmul<T>(lu.args, false, in.const_data_ptr<T>(), weight.data_ptr<T>(),
                                     y.data_ptr<T>(), Steps(x), x.size(1), log_det.data_ptr<T>(),
                                     Stream()));
  });
  return {y, log_det};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> LuMatmulBackwardCuda(
    const at::Tensor& x, const at::Tensor& lower, const at::Tensor& upper,
    const at::Tensor& log_diagonal, const at::Tensor& diagonal_sign, const at::Tensor& permutation,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  CheckLu(x, lower, upper, log_diagonal, diagonal_sign, permutation);
  CheckLuSize(x);
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t c = x.size(2);
  const at::Tensor in = x.contiguous(), g = grad_y.contiguous(),
                   g_log_det = grad_log_det.contiguous();
  at::Tensor grad_x = at::empty_like(in), weight = at::empty({c * c}, x.options());
  at::Tensor grad_lower = at::empty({c, c}, x.options()),
             grad_upper = at::empty({c, c}, x.options()), grad_log = at::empty({c}, x.options());
  at::Tensor partial = Partial(x, SumBlocks(Steps(x)), c * c);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::lu_matmul_backward", [&] {
    using T = scalar_t;
    const HeldLu<T> lu(x, {lower, upper, log_diagonal, diagonal_sign, permutation});
    C10_CUDA_CHECK(LaunchLuMatmul<T>(lu.args, true, g.const_data_ptr<T>(), weight.data_ptr<T>(),
                                     grad_x.data_ptr<T>(), Steps(x), x.size(1), nullptr, Stream()));
    C10_CUDA_CHECK(LaunchLuGrads<T>(lu.args, in.const_data_ptr<T>(), g.const_data_ptr<T>(),
                                    g_log_det.const_data_ptr<T>(), Steps(x), x.size(1),
                                    partial.data_ptr<double>(), grad_lower.data_ptr<T>(),
                                    grad_upper.data_ptr<T>(), grad_log.data_ptr<T>(), Stream()));
  });
  return {grad_x, grad_lower, grad_upper, grad_log};
}

// The weights of both nets in one piece.
at::Tensor PackNets(at::TensorList scale_net, at::TensorList shift_net) {
  std::vector<at::Tensor> flat;
  for (const at::TensorList& net : {scale_net, shift_net}) {
    for (const at::Tensor& tensor : net) flat.push_back(tensor.detach().reshape({-1}));
  }
  return at::cat(flat);
}

void CheckNetSize(const at::Tensor& x, at::TensorList net) {
  TORCH_CHECK(x.size(2) / 2 <= kMaxHalf && net[0].size(0) <= kMaxHidden,
              "affine_coupling: takes at most ", 2 * kMaxHalf, " channels and nets of width ",
              kMaxHidden, " on a GPU, got ", x.size(2), " and ", net[0].size(0));
}

std::tuple<at::Tensor, at::Tensor> AffineCouplingCuda(const at::Tensor& x, at::TensorList scale_net,
                                                      at::TensorList shift_net, bool inverse) {
  CheckCoupling(x, scale_net, shift_net);
  CheckNetSize(x, scale_net);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = x.contiguous(), weights = PackNets(scale_net, shift_net);
  at::Tensor y = at::empty_like(in), log_det = at::empty({x.size(0)}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::affine_coupling", [&] {
    using T = scalar_t;
    const CouplingArgs<T> args = {weights.const_data_ptr<T>(),
                                  in.const_data_ptr<T>(),
                                  y.data_ptr<T>(),
                                  log_det.data_ptr<T>(),
                                  x.size(0),
                                  x.size(1),
                                  inverse};
    C10_CUDA_CHECK(LaunchCoupling(args, static_cast<int>(x.size(2) / 2),
                                  static_cast<int>(scale_net[0].size(0)), Stream()));
  });
  return {y, log_det};
}

std::tuple<at::Tensor, std::vector<at::Tensor>> AffineCouplingBackwardCuda(
    const at::Tensor& x, at::TensorList scale_net, at::TensorList shift_net, bool inverse,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  CheckCoupling(x, scale_net, shift_net);
  CheckNetSize(x, scale_net);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor in = x.contiguous(), g = grad_y.contiguous(),
                   g_log_det = grad_log_det.contiguous(), weights = PackNets(scale_net, shift_net);
  at::Tensor grad_x = at::empty_like(in), grads = at::empty_like(weights);
  at::Tensor partial = Partial(x, CouplingBackwardBlocks(x.size(0), x.size(1)), weights.numel());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::affine_coupling_backward", [&] {
    using T = scalar_t;
    const CouplingBackwardArgs<T> args = {weights.const_data_ptr<T>(),
                                          in.const_data_ptr<T>(),
                                          g.const_data_ptr<T>(),
                                          g_log_det.const_data_ptr<T>(),
                                          grad_x.data_ptr<T>(),
                                          partial.data_ptr<double>(),
                                          x.size(0),
                                          x.size(1),
                                          inverse};
    C10_CUDA_CHECK(LaunchCouplingBackward(args, static_cast<int>(x.size(2) / 2),
                                          static_cast<int>(scale_net[0].size(0)),
                                          grads.data_ptr<T>(), Stream()));
  });
  std::vector<at::Tensor> by_tensor;
  int64_t next = 0;
  for (const at::TensorList& net : {scale_net, shift_net}) {
    for (const at::Tensor& tensor : net) {
      by_tensor.push_back(grads.narrow(0, next, tensor.numel()).view(tensor.sizes()));
      next += tensor.numel();
    }
  }
  return {grad_x, by_tensor};
}

}  // namespace

TORCH_LIBRARY_IMPL(bflow, CUDA, m) {
  m.impl("butterfly", ButterflyCuda);
  m.impl("butterfly_backward", ButterflyBackwardCuda);
  m.impl("act_norm", ActNormCuda);
  m.impl("act_norm_backward", ActNormBackwardCuda);
  m.impl("lu_matmul", LuMatmulCuda);
  m.impl("lu_matmul_backward", LuMatmulBackwardCuda);
  m.impl("affine_coupling", AffineCouplingCuda);
  m.impl("affine_coupling_backward", AffineCouplingBackwardCuda);
}

}  // namespace bflow::cuda
