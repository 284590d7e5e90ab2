// One __global__ wrapper and one launch for each body. No torch here.
#include "model/ops/cuda/kernels.h"

namespace bflow::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kCouplingThreads = 128;

template <typename T>
__global__ void __launch_bounds__(256)
    ButterflyForwardKernel(const __grid_constant__ ButterflyForwardArgs<T> args) {
  ButterflyForwardBody(DeviceLane(), args);
}

template <typename T>
__global__ void __launch_bounds__(128)
    ButterflyBackwardKernel(const __grid_constant__ ButterflyBackwardArgs<T> args) {
  ButterflyBackwardBody(DeviceLane(), args);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ButterflyWeightGradKernel(const __grid_constant__ ButterflyLayerPlan<T> plan, const T* partial,
                              int64_t parts, const T* grad_log_det, T* grad) {
  ButterflyWeightGradBody(DeviceLane(), plan, partial, parts, grad_log_det, grad);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ButterflyLogDetKernel(const __grid_constant__ ButterflyLayerPlan<T> plan, T* log_det) {
  ButterflyLogDetBody(DeviceLane(), plan, log_det);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ActNormKernel(const T* x, const T* log_scale, const T* bias, T* y, int64_t steps, int channels,
                  int64_t steps_per_row, T* log_det) {
  ActNormBody(DeviceLane(), x, log_scale, bias, y, steps, channels, steps_per_row, log_det);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ActNormSumsKernel(const T* x, const T* grad_y, int64_t steps, int channels, double* partial) {
  ActNormSumsBody(DeviceLane(), x, grad_y, steps, channels, partial);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ActNormGradKernel(const double* partial, int64_t parts, const T* log_scale,
                      const T* grad_log_det, int channels, int64_t steps_per_row, T* grad_log_scale,
                      T* grad_bias) {
  ActNormGradBody(DeviceLane(), partial, parts, log_scale, grad_log_det, channels, steps_per_row,
                  grad_log_scale, grad_bias);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    LuWeightKernel(LuArgs<T> lu, bool transposed, T* weight, int64_t steps_per_row, T* log_det) {
  LuWeightBody(DeviceLane(), lu, transposed, weight, steps_per_row, log_det);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    MatmulKernel(const T* x, const T* weight, T* y, int64_t steps, int channels) {
  MatmulBody(DeviceLane(), x, weight, y, steps, channels);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    MatmulSumsKernel(const T* x, const T* grad_y, int64_t steps, int channels, double* partial) {
  MatmulSumsBody(DeviceLane(), x, grad_y, steps, channels, partial);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    LuGradKernel(LuArgs<T> lu, const double* partial, int64_t parts, const T* grad_log_det,
                 int64_t steps_per_row, T* grad_lower, T* grad_upper, T* grad_log_diagonal) {
  LuGradBody(DeviceLane(), lu, partial, parts, grad_log_det, steps_per_row, grad_lower, grad_upper,
             grad_log_diagonal);
}

template <typename T, typename Shape>
__global__ void __launch_bounds__(kCouplingThreads)
    CouplingKernel(Shape shape, CouplingArgs<T> args) {
  CouplingBody(DeviceLane(), shape, args);
}

template <typename T, typename Shape>
__global__ void __launch_bounds__(kCouplingThreads)
    CouplingBackwardKernel(Shape shape, CouplingBackwardArgs<T> args) {
  CouplingBackwardBody(DeviceLane(), shape, args);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    SumPartsKernel(const double* partial, int64_t parts, int64_t entries, T* out) {
  SumPartsBody(DeviceLane(), partial, parts, entries, out);
}

// Blocks for `count` items, one per thread, a few rounds at most.
int BlocksFor(int64_t count, int threads) {
  const int64_t blocks = CeilDivide(count, threads), most = int64_t{8} * MultiprocessorCount();
  return static_cast<int>(blocks < 1 ? 1 : blocks < most ? blocks : most);
}

// The published shape is known to the compiler, others are not.
template <typename Launch>
cudaError_t WithShape(int half, int hidden, const Launch& launch) {
  if (half == 2 && hidden == 16) return launch(CouplingShape<2, 16>());
  return launch(CouplingShape<0, 0>{half, hidden});
}

// Enough shared memory for wide nets, over the 48 KiB that need no asking.
template <typename Kernel>
cudaError_t AllowShared(const Kernel& kernel, size_t bytes) {
  if (bytes <= kSharedBytes) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

}  // namespace

int MultiprocessorCount() {
  int device = 0, count = 1;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return 1;
  }
  return count;
}

template <typename T>
cudaError_t LaunchButterflyForward(const ButterflyForwardArgs<T>& args, const ButterflyLaunch& how,
                                   cudaStream_t stream) {
  ButterflyForwardKernel<<<how.grid, how.threads, how.shared_bytes, stream>>>(args);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchButterflyLogDet(const ButterflyLayerPlan<T>& plan, T* log_det,
                                  cudaStream_t stream) {
  ButterflyLogDetKernel<<<1, kThreads, kThreads / kWarp * sizeof(double), stream>>>(plan, log_det);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchButterflyBackward(const ButterflyBackwardArgs<T>& args,
                                    const ButterflyLaunch& how, const T* grad_log_det, T* grads,
                                    cudaStream_t stream) {
  if (args.rows > 0) ButterflyBackwardKernel<<<how.grid, how.threads, 0, stream>>>(args);
  ButterflyWeightGradKernel<<<BlocksFor(args.plan.weight_count, kThreads), kThreads, 0, stream>>>(
      args.plan, args.partial, args.rows > 0 ? int64_t{how.grid} * how.slots : 0, grad_log_det,
      grads);
  return cudaGetLastError();
}

int SumBlocks(int64_t steps) { return BlocksFor(steps / 8, kThreads); }

template <typename T>
cudaError_t LaunchActNorm(const T* x, const T* log_scale, const T* bias, T* y, int64_t steps,
                          int channels, int64_t steps_per_row, T* log_det, cudaStream_t stream) {
  ActNormKernel<<<BlocksFor(steps * channels, kThreads), kThreads,
                  static_cast<size_t>(channels) * sizeof(T), stream>>>(
      x, log_scale, bias, y, steps, channels, steps_per_row, log_det);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchActNormGrads(const T* x, const T* grad_y, const T* log_scale,
                               const T* grad_log_det, int64_t steps, int channels,
                               int64_t steps_per_row, double* partial, T* grad_log_scale,
                               T* grad_bias, cudaStream_t stream) {
  const int blocks = SumBlocks(steps);
  ActNormSumsKernel<<<blocks, kThreads, kThreads * sizeof(double), stream>>>(x, grad_y, steps,
                                                                             channels, partial);
  ActNormGradKernel<<<1, kThreads, 0, stream>>>(partial, blocks, log_scale, grad_log_det, channels,
                                                steps_per_row, grad_log_scale, grad_bias);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchLuMatmul(const LuArgs<T>& lu, bool transposed, const T* x, T* weight, T* y,
                           int64_t steps, int64_t steps_per_row, T* log_det, cudaStream_t stream) {
  LuWeightKernel<<<1, kThreads, 0, stream>>>(lu, transposed, weight, steps_per_row, log_det);
  const size_t matrix = static_cast<size_t>(lu.channels) * static_cast<size_t>(lu.channels);
  MatmulKernel<<<BlocksFor(steps * lu.channels, kThreads), kThreads, matrix * sizeof(T), stream>>>(
      x, weight, y, steps, lu.channels);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchLuGrads(const LuArgs<T>& lu, const T* x, const T* grad_y, const T* grad_log_det,
                          int64_t steps, int64_t steps_per_row, double* partial, T* grad_lower,
                          T* grad_upper, T* grad_log_diagonal, cudaStream_t stream) {
  const int blocks = SumBlocks(steps);
  MatmulSumsKernel<<<blocks, kThreads, kThreads * sizeof(double), stream>>>(x, grad_y, steps,
                                                                            lu.channels, partial);
  const size_t matrix = static_cast<size_t>(lu.channels) * static_cast<size_t>(lu.channels);
  LuGradKernel<<<1, kThreads, matrix * sizeof(double), stream>>>(
      lu, partial, blocks, grad_log_det, steps_per_row, grad_lower, grad_upper, grad_log_diagonal);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchCoupling(const CouplingArgs<T>& args, int half, int hidden, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return WithShape(half, hidden, [&](auto shape) {
    using Shape = decltype(shape);
    const size_t weights = 2 * static_cast<size_t>(shape.parameters()) * sizeof(T);
    const size_t bytes =
        (CeilDivide(static_cast<int64_t>(weights), 8) + kCouplingThreads / kWarp) * 8;
    if (cudaError_t error = AllowShared(CouplingKernel<T, Shape>, bytes); error != cudaSuccess) {
      return error;
    }
    const int64_t most = int64_t{16} * MultiprocessorCount();
    CouplingKernel<<<static_cast<int>(args.rows < most ? args.rows : most), kCouplingThreads, bytes,
                     stream>>>(shape, args);
    return cudaGetLastError();
  });
}

int CouplingBackwardBlocks(int64_t rows, int64_t steps) {
  return BlocksFor(CeilDivide(rows * steps, 4), kCouplingThreads);
}

template <typename T>
cudaError_t LaunchCouplingBackward(const CouplingBackwardArgs<T>& args, int half, int hidden,
                                   T* grads, cudaStream_t stream) {
  return WithShape(half, hidden, [&](auto shape) {
    using Shape = decltype(shape);
    // Fewer threads where the features of a whole block would not fit.
    const size_t weights = 2 * static_cast<size_t>(shape.parameters());
    const auto bytes = [&](int threads) {
      return (weights + static_cast<size_t>(shape.features()) * static_cast<size_t>(threads + 1)) *
             sizeof(T);
    };
    int threads = kCouplingThreads;
    while (threads > kWarp && bytes(threads) > 2 * kSharedBytes) threads /= 2;
    if (cudaError_t error = AllowShared(CouplingBackwardKernel<T, Shape>, bytes(threads));
        error != cudaSuccess) {
      return error;
    }
    const int blocks = CouplingBackwardBlocks(args.rows, args.steps);
    CouplingBackwardKernel<<<blocks, threads, bytes(threads), stream>>>(shape, args);
    const int64_t entries = static_cast<int64_t>(weights);
    SumPartsKernel<<<BlocksFor(entries, kThreads), kThreads, 0, stream>>>(args.partial, blocks,
                                                                          entries, grads);
    return cudaGetLastError();
  });
}

#define BFLOW_INSTANTIATE(T)                                                                      \
  template cudaError_t LaunchButterflyForward(const ButterflyForwardArgs<T>&,                     \
                                              const ButterflyLaunch&, cudaStream_t);              \
  template cudaError_t LaunchButterflyLogDet(const ButterflyLayerPlan<T>&, T*, cudaStream_t);     \
  template cudaError_t LaunchButterflyBackward(                                                   \
      const ButterflyBackwardArgs<T>&, const ButterflyLaunch&, const T*, T*, cudaStream_t);       \
  template cudaError_t LaunchActNorm(const T*, const T*, const T*, T*, int64_t, int, int64_t, T*, \
                                     cudaStream_t);                                               \
  template cudaError_t LaunchActNormGrads(const T*, const T*, const T*, const T*, int64_t, int,   \
                                          int64_t, double*, T*, T*, cudaStream_t);                \
  template cudaError_t LaunchLuMatmul(const LuArgs<T>&, bool, const T*, T*, T*, int64_t, int64_t, \
                                      T*, cudaStream_t);                                          \
  template cudaError_t LaunchLuGrads(const LuArgs<T>&, const T*, const T*, const T*, int64_t,     \
                                     int64_t, double*, T*, T*, T*, cudaStream_t);                 \
  template cudaError_t LaunchCoupling(const CouplingArgs<T>&, int, int, cudaStream_t);            \
  template cudaError_t LaunchCouplingBackward(const CouplingBackwardArgs<T>&, int, int, T*,       \
                                              cudaStream_t)

BFLOW_INSTANTIATE(float);
BFLOW_INSTANTIATE(double);

}  // namespace bflow::cuda
