// How the factors of a butterfly layer are grouped into passes over a row. Plain host code, shared
// by the launcher and by the tests.
#ifndef BFLOW_MODEL_OPS_CUDA_BUTTERFLY_PLAN_H_
#define BFLOW_MODEL_OPS_CUDA_BUTTERFLY_PLAN_H_

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

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_BUTTERFLY_PLAN_H_
