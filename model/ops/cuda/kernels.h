// The CUDA kernels as host functions on raw device pointers. Each enqueues on `stream` and returns
// the first error of the launches; none synchronises. Shapes and types were checked by the caller.
#ifndef BFLOW_MODEL_OPS_CUDA_KERNELS_H_
#define BFLOW_MODEL_OPS_CUDA_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "model/ops/cuda/butterfly.cuh"
#include "model/ops/cuda/butterfly_backward.cuh"
#include "model/ops/cuda/coupling.cuh"
#include "model/ops/cuda/per_step.cuh"

namespace bflow::cuda {

// Multiprocessors of the current device.
int MultiprocessorCount();

template <typename T>
cudaError_t LaunchButterflyForward(const ButterflyForwardArgs<T>& args, const ButterflyLaunch& how,
                                   cudaStream_t stream);
template <typename T>
cudaError_t LaunchButterflyLogDet(const ButterflyLayerPlan<T>& plan, T* log_det,
                                  cudaStream_t stream);
// grads: of all weights, as plan numbers them. args.partial must be zero.
template <typename T>
cudaError_t LaunchButterflyBackward(const ButterflyBackwardArgs<T>& args,
                                    const ButterflyLaunch& how, const T* grad_log_det, T* grads,
                                    cudaStream_t stream);

// Blocks of a sum over steps: its partial results are [this, entries] doubles.
int SumBlocks(int64_t steps);

// bias and log_det may be null.
template <typename T>
cudaError_t LaunchActNorm(const T* x, const T* log_scale, const T* bias, T* y, int64_t steps,
                          int channels, int64_t steps_per_row, T* log_det, cudaStream_t stream);
template <typename T>
cudaError_t LaunchActNormGrads(const T* x, const T* grad_y, const T* log_scale,
                               const T* grad_log_det, int64_t steps, int channels,
                               int64_t steps_per_row, double* partial, T* grad_log_scale,
                               T* grad_bias, cudaStream_t stream);

// y = x W, or x W^T; weight: C^2 values of scratch. log_det may be null.
template <typename T>
cudaError_t LaunchLuMatmul(const LuArgs<T>& lu, bool transposed, const T* x, T* weight, T* y,
                           int64_t steps, int64_t steps_per_row, T* log_det, cudaStream_t stream);
template <typename T>
cudaError_t LaunchLuGrads(const LuArgs<T>& lu, const T* x, const T* grad_y, const T* grad_log_det,
                          int64_t steps, int64_t steps_per_row, double* partial, T* grad_lower,
                          T* grad_upper, T* grad_log_diagonal, cudaStream_t stream);

// half = C/2 at most kMaxHalf, hidden at most kMaxHidden.
template <typename T>
cudaError_t LaunchCoupling(const CouplingArgs<T>& args, int half, int hidden, cudaStream_t stream);
// Blocks of the backward kernel; args.partial is [this, 2 parameters] zeros, grads [2 parameters].
int CouplingBackwardBlocks(int64_t rows, int64_t steps);
template <typename T>
cudaError_t LaunchCouplingBackward(const CouplingBackwardArgs<T>& args, int half, int hidden,
                                   T* grads, cudaStream_t stream);

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_KERNELS_H_
