// How the factors of a butterfly layer are grouped into passes over a row. Plain host code, shared
// by the launcher and by the tests.
#ifndef BFLOW_MODEL_OPS_CUDA_BUTTERFLY_PLAN_H_
#define BFLOW_MODEL_OPS_CUDA_BUTTERFLY_PLAN_H_

#include <cstddef>
#include <cstdint>

namespace bflow::cuda {

inline constexpr int kMaxFactors = 64;
inline constexpr int kMaxShuffleFactors = 5;
inline constexpr int kRegisterFactors = 3;  // of a forward pass: 8 values per thread
inline constexpr int kBackwardRegisterFactors =
    2;  // of a backward pass: 4 values and their weights

// One factor, weights [2^level, 2, matrices, 2] with matrices = 1 (shared) or D / 2^(level+1).
template <typename T>
struct ButterflyFactor {
  const T* weights = nullptr;
  int64_t offset = 0;  // of its first weight in the list of all weights of the layer
  int level = 0;
  bool shared = false;
};

// Consecutive factors that one thread applies between two barriers. In registers: the levels low ..
// low + count - 1, each once, ascending or descending; a thread holds the 2^count values that these
// levels mix. By shuffles: factors whose blocks lie within a warp's 32 values, in any order.
struct ButterflyPass {
  int first = 0;  // index of the first factor
  int count = 0;
  int low = 0;
  bool ascending = true;
  bool shuffle = false;
};

template <typename T>
struct ButterflyLayerPlan {
  ButterflyFactor<T> factors[kMaxFactors];
  ButterflyPass passes[kMaxFactors];
  int factor_count = 0;
  int pass_count = 0;
  int size = 0;              // D
  int64_t weight_count = 0;  // of all factors
};

// Groups plan.factors (levels and sharing filled in) into passes of at most `register_factors`
// levels in registers, and numbers the weights.
template <typename T>
void PlanPasses(ButterflyLayerPlan<T>& plan, int register_factors) {
  const int size = plan.size;
  const auto in_warp = [&](int factor) {
    const int block = size >> plan.factors[factor].level;
    return (size & (size - 1)) == 0 && size >= 32 && block <= 32;
  };
  plan.weight_count = 0;
  for (int f = 0; f < plan.factor_count; ++f) {
    ButterflyFactor<T>& factor = plan.factors[f];
    factor.offset = plan.weight_count;
    plan.weight_count += factor.shared ? int64_t{4} << factor.level : int64_t{2} * size;
  }
  plan.pass_count = 0;
  for (int f = 0; f < plan.factor_count;) {
    ButterflyPass pass;
    pass.first = f;
    pass.shuffle = in_warp(f);
    if (pass.shuffle) {
      while (f < plan.factor_count && in_warp(f) && pass.count < kMaxShuffleFactors) {
        ++f;
        ++pass.count;
      }
    } else {
      const int start = plan.factors[f].level;
      int step = 0;
      do {
        ++f;
        ++pass.count;
        if (f == plan.factor_count || in_warp(f)) break;
        const int next = plan.factors[f].level - plan.factors[f - 1].level;
        if (pass.count == 1 && (next == 1 || next == -1)) step = next;
        if (step == 0 || next != step) break;
      } while (pass.count < register_factors);
      pass.ascending = step >= 0;
      pass.low = pass.ascending ? start : start - pass.count + 1;
    }
    plan.passes[plan.pass_count++] = pass;
  }
}

// How a kernel is launched. Results do not depend on it but for the order of the weights' partial
// sums.
struct ButterflyLaunch {
  int grid = 1;
  int threads = 32;
  int rows_per_block = 1;
  size_t shared_bytes = 0;
  int staged_weights = 0;   // forward: weights copied to shared memory
  int64_t tile_values = 0;  // forward: values of all tiles in global memory, 0: tiles are shared
  int slots = 1;            // backward: partial sums per block
};

inline constexpr size_t kSharedBytes = size_t{48} << 10;  // what any launch may use
inline constexpr int kRowsPerBlock = 4;

template <typename T>
bool AllShared(const ButterflyLayerPlan<T>& plan) {
  for (int f = 0; f < plan.factor_count; ++f) {
    if (!plan.factors[f].shared) return false;
  }
  return true;
}

// A power of two of threads from 32 to `most`, at most one per item.
inline int ThreadsFor(int items, int most) {
  int threads = 32;
  while (threads < most && threads < items) threads *= 2;
  return threads;
}

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A device of `sms` multiprocessors. rows: at least 1.
template <typename T>
ButterflyLaunch ForwardLaunch(const ButterflyLayerPlan<T>& plan, int64_t rows, int sms) {
  ButterflyLaunch launch;
  launch.threads = ThreadsFor(plan.size >> kRegisterFactors, 256);
  const size_t tile = static_cast<size_t>(plan.size) * sizeof(T);
  const size_t weights = static_cast<size_t>(plan.weight_count) * sizeof(T);
  // A shared 2x2 is read by every thread of its block of the vector; others are read once a row.
  if (AllShared(plan) && weights <= kSharedBytes * 2 / 3) {
    launch.staged_weights = static_cast<int>(plan.weight_count);
    launch.shared_bytes = weights;
  }
  const size_t room = (kSharedBytes - launch.shared_bytes) / tile;
  const int64_t share = CeilDivide(rows, sms);
  const int64_t most = room > 0 ? static_cast<int64_t>(room) : kRowsPerBlock;
  launch.rows_per_block = static_cast<int>(share < most && share < kRowsPerBlock ? share
                                           : most < kRowsPerBlock                ? most
                                                                                 : kRowsPerBlock);
  const int64_t blocks = CeilDivide(rows, launch.rows_per_block);
  launch.grid = static_cast<int>(blocks < int64_t{4} * sms ? blocks : int64_t{4} * sms);
  if (room > 0) {
    launch.shared_bytes += static_cast<size_t>(launch.rows_per_block) * tile;
  } else {
    launch.tile_values = int64_t{launch.grid} * launch.rows_per_block * plan.size;
  }
  return launch;
}

template <typename T>
ButterflyLaunch BackwardLaunch(const ButterflyLayerPlan<T>& plan, int64_t rows, int sms) {
  ButterflyLaunch launch;
  launch.threads = ThreadsFor(plan.size >> kBackwardRegisterFactors, 128);
  const int64_t share = CeilDivide(rows, int64_t{2} * sms);
  launch.rows_per_block = static_cast<int>(share < kRowsPerBlock ? share : kRowsPerBlock);
  const int64_t blocks = CeilDivide(rows, launch.rows_per_block);
  launch.grid = static_cast<int>(blocks < int64_t{2} * sms ? blocks : int64_t{2} * sms);
  bool any_shared = false;
  for (int f = 0; f < plan.factor_count; ++f) any_shared |= plan.factors[f].shared;
  launch.slots = any_shared ? launch.threads / 32 : 1;
  return launch;
}

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_BUTTERFLY_PLAN_H_
