// What a kernel body sees of the machine that runs it: its place in the grid, barriers, shuffles
// and the block's shared memory. Bodies are templates over a Lane; here is the device's. The
// host's, with which tests run the same bodies without a GPU, is tests/support/simt_host.h. Raw
// pointers, no torch.
#ifndef BFLOW_MODEL_OPS_CUDA_LANE_CUH_
#define BFLOW_MODEL_OPS_CUDA_LANE_CUH_

#include <cstdint>

#ifdef __CUDACC__
#define BFLOW_BODY __host__ __device__ __forceinline__
#define BFLOW_UNROLL _Pragma("unroll")
#else
#define BFLOW_BODY inline
#define BFLOW_UNROLL
#endif

namespace bflow::cuda {

inline constexpr int kWarp = 32;

#ifdef __CUDACC__

extern __shared__ double shared_memory[];  // double: the strictest alignment that a body needs

class DeviceLane {
 public:
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int block() const { return static_cast<int>(blockIdx.x); }
  __device__ int block_threads() const { return static_cast<int>(blockDim.x); }
  __device__ int grid_blocks() const { return static_cast<int>(gridDim.x); }
  // Every thread of the block arrives, or none.
  __device__ void Sync() const { __syncthreads(); }
  // Memory read before this is read again after it: keeps a compiler from holding a whole table of
  // weights in registers (and then spilling them).
  __device__ void Reload() const { asm volatile("" ::: "memory"); }
  // values[i] becomes that of the lane `thread() ^ mask`; every thread of the warp takes part.
  template <typename T, int N>
  __device__ void ShuffleXor(T (&values)[N], int mask) const {
    BFLOW_UNROLL
    for (int i = 0; i < N; ++i) values[i] = __shfl_xor_sync(0xffffffffu, values[i], mask);
  }
  template <typename T>
  __device__ T* shared() const {
    return reinterpret_cast<T*>(shared_memory);
  }
};

#endif  // __CUDACC__

// Sum over the block, the same bits in every thread whatever the schedule. scratch: one double per
// warp, in shared memory, free again when this returns.
template <typename Lane>
BFLOW_BODY double BlockSum(const Lane& lane, double value, double* scratch) {
  double part[1] = {value};
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    double other[1] = {part[0]};
    lane.ShuffleXor(other, mask);
    // The lower lane's value first, so that both add in the same order.
    part[0] = (lane.thread() & mask) == 0 ? part[0] + other[0] : other[0] + part[0];
  }
  if (lane.thread() % kWarp == 0) scratch[lane.thread() / kWarp] = part[0];
  lane.Sync();
  double sum = 0;
  for (int warp = 0; warp < lane.block_threads() / kWarp; ++warp) sum += scratch[warp];
  lane.Sync();
  return sum;
}

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_LANE_CUH_
