// bflow::conv1d_coupling on the CPU.
#include "model/ops/conv1d_coupling.h"

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

// The net's tensors as the kernels take them; keeps them alive.
template <typename T>
struct HeldConvolutions {
  HeldConvolutions(const at::Tensor& x, at::TensorList tensors, int64_t dilation) {
    net.half = x.size(2) / 2;
    net.hidden = tensors[0].size(0);
    net.kernel = tensors[0].size(2);
    net.dilation = dilation;
    for (int n = 0; n < 3; ++n) {
      net.weight[n] = Hold(tensors[2 * n]);
      net.bias[n] = Hold(tensors[2 * n + 1]);
      net.weight_transposed[n] = Hold(tensors[2 * n].transpose(0, 1).flip(2));
    }
    parameters = ConvolutionParameters(net.half, net.hidden, net.kernel);
    stride = ConvolutionStride(x.size(1), ConvolutionMargin(net.kernel, dilation));
  }
  const T* Hold(const at::Tensor& tensor) {
    return held.emplace_back(tensor.detach().contiguous()).template const_data_ptr<T>();
  }
  std::vector<at::Tensor> held;
  ConvolutionNet<T> net;
  int64_t parameters, stride;
};

template <typename T>
std::tuple<at::Tensor, at::Tensor> Forward(const at::Tensor& x, const HeldConvolutions<T>& held,
                                           bool inverse) {
  const ConvolutionNet<T>& net = held.net;
  const int64_t steps = x.size(1), row = steps * x.size(2);
  at::Tensor y = at::empty_like(x);
  at::Tensor log_det = at::empty({x.size(0)}, x.options());
  const T* from = x.const_data_ptr<T>();
  T* to = y.data_ptr<T>();
  T* log_dets = log_det.data_ptr<T>();
  const auto kernel = CurrentKernels<T>().convolution_coupling;
  ForRows(x.size(0), steps * held.parameters, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(ConvolutionScratch(net.half, net.hidden, held.stride));
    for (int64_t r = begin; r < end; ++r) {
      log_dets[r] =
          static_cast<T>(kernel(net, from + r * row, to + r * row, steps, inverse, scratch.data()));
    }
  });
  return {y, log_det};
}

template <typename T>
std::tuple<at::Tensor, std::vector<at::Tensor>> Backward(const at::Tensor& x,
                                                         const HeldConvolutions<T>& held,
                                                         at::TensorList tensors, bool inverse,
                                                         const at::Tensor& grad_y,
                                                         const at::Tensor& grad_log_det) {
  const ConvolutionNet<T>& net = held.net;
  const int64_t steps = x.size(1), row = steps * x.size(2);
  at::Tensor grad_x = at::empty_like(x);
  const T* from = x.const_data_ptr<T>();
  const T* grad_from = grad_y.const_data_ptr<T>();
  const T* grad_log_dets = grad_log_det.const_data_ptr<T>();
  T* to = grad_x.data_ptr<T>();
  const Chunks chunks(x.size(0));
  std::vector<double> sums(chunks.count() * held.parameters);
  const auto kernel = CurrentKernels<T>().convolution_coupling_backward;
  chunks.Run([&](int64_t chunk, int64_t first, int64_t count) {
    std::vector<T> scratch(
        ConvolutionBackwardScratch(net.half, net.hidden, net.kernel, held.stride));
    kernel(net, from + first * row, grad_from + first * row, grad_log_dets + first,
           to + first * row, count, steps, inverse, scratch.data(),
           sums.data() + chunk * held.parameters);
  });
  const std::vector<double> total = SumChunks(sums, chunks.count(), held.parameters);
  std::vector<at::Tensor> grads;
  const double* next = total.data();
  for (const at::Tensor& tensor : tensors) {
    grads.push_back(Rounded<T>(next, tensor));
    next += tensor.numel();
  }
  return {grad_x, grads};
}

std::tuple<at::Tensor, at::Tensor> Conv1dCouplingCpu(const at::Tensor& x, at::TensorList net,
                                                     int64_t dilation, bool inverse) {
  CheckConvolutions(x, net, dilation);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::conv1d_coupling", [&] {
    return Forward<scalar_t>(x.contiguous(), HeldConvolutions<scalar_t>(x, net, dilation), inverse);
  });
}

std::tuple<at::Tensor, std::vector<at::Tensor>> Conv1dCouplingBackwardCpu(
    const at::Tensor& x, at::TensorList net, int64_t dilation, bool inverse,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  CheckConvolutions(x, net, dilation);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::conv1d_coupling_backward", [&] {
    return Backward<scalar_t>(x.contiguous(), HeldConvolutions<scalar_t>(x, net, dilation), net,
                              inverse, grad_y.contiguous(), grad_log_det.contiguous());
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(bflow, CPU, m) {
  m.impl("conv1d_coupling", Conv1dCouplingCpu);
  m.impl("conv1d_coupling_backward", Conv1dCouplingBackwardCpu);
}

}  // namespace bflow::cpu
