// bflow::affine_coupling on the CPU.
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

// The nets' tensors as the kernels take them; keeps them alive.
template <typename T>
struct HeldNets {
  HeldNets(const at::Tensor& x, at::TensorList scale_net, at::TensorList shift_net) {
    nets.half = x.size(2) / 2;
    nets.hidden = scale_net[0].size(0);
    for (int net = 0; net < 2; ++net) {
      const at::TensorList tensors = net == 0 ? scale_net : shift_net;
      for (int i = 0; i < 3; ++i) {
        nets.weight[net][i] = Hold(tensors[2 * i]);
        nets.bias[net][i] = Hold(tensors[2 * i + 1]);
        nets.weight_transposed[net][i] = Hold(tensors[2 * i].t());
      }
    }
  }
  const T* Hold(const at::Tensor& tensor) {
    return held.emplace_back(tensor.detach().contiguous()).template const_data_ptr<T>();
  }
  std::vector<at::Tensor> held;
  CouplingNets<T> nets;
};

template <typename T>
std::tuple<at::Tensor, at::Tensor> Forward(const at::Tensor& x, const HeldNets<T>& held,
                                           bool inverse) {
  const CouplingNets<T>& nets = held.nets;
  const int64_t steps = x.size(1), row = steps * x.size(2);
  at::Tensor y = at::empty_like(x);
  at::Tensor log_det = at::empty({x.size(0)}, x.options());
  const T* from = x.const_data_ptr<T>();
  T* to = y.data_ptr<T>();
  T* log_dets = log_det.data_ptr<T>();
  const auto kernel = CurrentKernels<T>().coupling;
  const int64_t cost = 2 * steps * CouplingParameters(nets.half, nets.hidden);
  ForRows(x.size(0), cost, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(CouplingScratch(nets.half, nets.hidden));
    for (int64_t r = begin; r < end; ++r) {
      log_dets[r] = static_cast<T>(
          kernel(nets, from + r * row, to + r * row, steps, inverse, scratch.data()));
    }
  });
  return {y, log_det};
}

template <typename T>
std::tuple<at::Tensor, std::vector<at::Tensor>> Backward(const at::Tensor& x,
                                                         const HeldNets<T>& held,
                                                         at::TensorList scale_net,
                                                         at::TensorList shift_net, bool inverse,
                                                         const at::Tensor& grad_y,
                                                         const at::Tensor& grad_log_det) {
  const CouplingNets<T>& nets = held.nets;
  const int64_t steps = x.size(1), row = steps * x.size(2);
  const int64_t parameters = 2 * CouplingParameters(nets.half, nets.hidden);
  at::Tensor grad_x = at::empty_like(x);
  const T* from = x.const_data_ptr<T>();
  const T* grad_from = grad_y.const_data_ptr<T>();
  const T* grad_log_dets = grad_log_det.const_data_ptr<T>();
  T* to = grad_x.data_ptr<T>();
  const Chunks chunks(x.size(0));
  std::vector<double> sums(chunks.count() * parameters);
  const auto kernel = CurrentKernels<T>().coupling_backward;
  chunks.Run([&](int64_t chunk, int64_t first, int64_t count) {
    std::vector<T> scratch(CouplingScratch(nets.half, nets.hidden));
    for (int64_t r = first; r < first + count; ++r) {
      kernel(nets, from + r * row, grad_from + r * row, grad_log_dets[r], to + r * row, steps,
             inverse, scratch.data(), sums.data() + chunk * parameters);
    }
  });
  const std::vector<double> total = SumChunks(sums, chunks.count(), parameters);
  std::vector<at::Tensor> grads;
  const double* next = total.data();
  for (const at::TensorList& net : {scale_net, shift_net}) {
    for (const at::Tensor& tensor : net) {
      grads.push_back(Rounded<T>(next, tensor));
      next += tensor.numel();
    }
  }
  return {grad_x, grads};
}

std::tuple<at::Tensor, at::Tensor> AffineCouplingCpu(const at::Tensor& x, at::TensorList scale_net,
                                                     at::TensorList shift_net, bool inverse) {
  CheckCoupling(x, scale_net, shift_net);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::affine_coupling", [&] {
    return Forward<scalar_t>(x.contiguous(), HeldNets<scalar_t>(x, scale_net, shift_net), inverse);
  });
}

std::tuple<at::Tensor, std::vector<at::Tensor>> AffineCouplingBackwardCpu(
    const at::Tensor& x, at::TensorList scale_net, at::TensorList shift_net, bool inverse,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  CheckCoupling(x, scale_net, shift_net);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::affine_coupling_backward", [&] {
    return Backward<scalar_t>(x.contiguous(), HeldNets<scalar_t>(x, scale_net, shift_net),
                              scale_net, shift_net, inverse, grad_y.contiguous(),
                              grad_log_det.contiguous());
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(bflow, CPU, m) {
  m.impl("affine_coupling", AffineCouplingCpu);
  m.impl("affine_coupling_backward", AffineCouplingBackwardCpu);
}

}  // namespace bflow::cpu
