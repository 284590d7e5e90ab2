// Backward bodies of the butterfly kernels. A block goes through the passes of its rows once
// forward, which leaves the input of each in global memory, and once back.
#ifndef BFLOW_MODEL_OPS_CUDA_BUTTERFLY_BACKWARD_CUH_
#define BFLOW_MODEL_OPS_CUDA_BUTTERFLY_BACKWARD_CUH_

#include <cstdint>

#include "model/ops/cuda/butterfly.cuh"

namespace bflow::cuda {

template <typename T>
struct ButterflyBackwardArgs {
  ButterflyLayerPlan<T> plan;
  const T* x = nullptr;
  const T* grad_y = nullptr;
  T* grad_x = nullptr;
  T* saved = nullptr;    // [grid, pass_count, rows_per_block, D]: inputs of the passes, gradient
  T* partial = nullptr;  // [grid, slots, weight_count], zero at the start
  int64_t rows = 0;
  int rows_per_block = 1;
  int slots = 1;  // the block's warps, or 1 where no factor is shared
};

// Backward of a pass in registers: recomputes the values between its levels, writes the gradient of
// its input and adds those of its weights to the block's partial sums. A group of threads (a power
// of two of them) takes one block of the lowest level, so that the sums over pairs that share a 2x2
// are shuffles inside warps; each warp of a group has sums of its own.
template <int kCount, bool kAscending, typename Lane, typename T>
BFLOW_BODY void BackwardInRegisters(const Lane& lane, const ButterflyLayerPlan<T>& plan,
                                    const ButterflyPass& pass, const T* from, const T* grad_from,
                                    T* grad_to, T* partial, int rows) {
  constexpr int kPairs = 1 << (kCount - 1);
  const int step = plan.size >> (pass.low + kCount);
  int group = 1;
  while (group * 2 <= step && group * 2 <= lane.block_threads()) group *= 2;
  const int groups = lane.block_threads() / group;
  const int in_group = lane.thread() % group;
  const int blocks = 1 << pass.low;
  // Every thread goes round as often: the shuffles below need whole warps.
  for (int first = 0; first < blocks; first += groups) {
    const int block = first + lane.thread() / group;
    T sums[kCount][kPairs][4] = {};
    for (int j = block < blocks ? in_group : step; j < step; j += group) {
      const RegisterItem item = MakeItem(plan.size, pass.low, kCount, block, j);
      Matrix2<T> w[kCount][kPairs];
      LoadItemWeights<kCount, T>(plan, pass, nullptr, item, w);
      T own[kCount][kPairs][4] = {};
      for (int r = 0; r < rows; ++r) {
        const int64_t base = int64_t{r} * plan.size + item.base;
        T v[kCount + 1][1 << kCount];  // v[i]: before the i-th level applied
        T g[1 << kCount];
        BFLOW_UNROLL
        for (int k = 0; k < 1 << kCount; ++k) {
          v[0][k] = from[base + k * item.step];
          g[k] = grad_from[base + k * item.step];
        }
        BFLOW_UNROLL
        for (int i = 0; i < kCount; ++i) {
          BFLOW_UNROLL
          for (int k = 0; k < 1 << kCount; ++k) v[i + 1][k] = v[i][k];
          MixLevel<kCount>(kAscending ? i : kCount - 1 - i, w, v[i + 1]);
        }
        BFLOW_UNROLL
        for (int i = kCount - 1; i >= 0; --i) {
          const int q = kAscending ? i : kCount - 1 - i;
          BFLOW_UNROLL
          for (int t = 0; t < kPairs; ++t) {
            const int k0 = FirstOfPair(kCount, q, t), k1 = k0 + (1 << (kCount - 1 - q));
            own[q][t][0] += v[i][k0] * g[k0];
            own[q][t][1] += v[i][k0] * g[k1];
            own[q][t][2] += v[i][k1] * g[k0];
            own[q][t][3] += v[i][k1] * g[k1];
            const T g0 = g[k0], g1 = g[k1];
            g[k0] = w[q][t].w00 * g0 + w[q][t].w01 * g1;
            g[k1] = w[q][t].w10 * g0 + w[q][t].w11 * g1;
          }
        }
        BFLOW_UNROLL
        for (int k = 0; k < 1 << kCount; ++k) grad_to[base + k * item.step] = g[k];
      }
      BFLOW_UNROLL
      for (int q = 0; q < kCount; ++q) {
        const ButterflyFactor<T>& factor =
            plan.factors[pass.first + (kAscending ? q : kCount - 1 - q)];
        const int low_bits = kCount - 1 - q;
        BFLOW_UNROLL
        for (int t = 0; t < kPairs; ++t) {
          if (factor.shared) {
            BFLOW_UNROLL
            for (int i = 0; i < 4; ++i) sums[q][t >> low_bits][i] += own[q][t][i];
          } else {
            int stride;
            T* to = partial + factor.offset +
                    PairOffset(factor, plan.size, (block << q) | (t >> low_bits),
                               (t & ((1 << low_bits) - 1)) * item.step + item.j, &stride);
            to[0] += own[q][t][0];
            to[1] += own[q][t][1];
            to[stride] += own[q][t][2];
            to[stride + 1] += own[q][t][3];
          }
        }
      }
    }
    BFLOW_UNROLL
    for (int q = 0; q < kCount; ++q) {
      const ButterflyFactor<T>& factor =
          plan.factors[pass.first + (kAscending ? q : kCount - 1 - q)];
      if (!factor.shared) continue;
      BFLOW_UNROLL
      for (int u = 0; u < 1 << q; ++u) {
        for (int mask = 1; mask < group && mask < kWarp; mask *= 2) {
          T other[4];
          BFLOW_UNROLL
          for (int i = 0; i < 4; ++i) other[i] = sums[q][u][i];
          lane.ShuffleXor(other, mask);
          BFLOW_UNROLL
          for (int i = 0; i < 4; ++i) sums[q][u][i] += other[i];
        }
        if (block < blocks && in_group % kWarp == 0) {
          T* to = partial + (in_group / kWarp) * plan.weight_count + factor.offset +
                  4 * ((int64_t{block} << q) | u);
          BFLOW_UNROLL
          for (int i = 0; i < 4; ++i) to[i] += sums[q][u][i];
        }
      }
    }
  }
}

template <typename Lane, typename T>
BFLOW_BODY void BackwardByShuffles(const Lane& lane, const ButterflyLayerPlan<T>& plan,
                                   const ButterflyPass& pass, const T* from, const T* grad_from,
                                   T* grad_to, T* partial, int rows) {
  for (int e = lane.thread(); e < plan.size; e += lane.block_threads()) {
    const ShuffleWeights<T> w = LoadShuffleWeights<T>(plan, pass, nullptr, e);
    T sum0[kMaxShuffleFactors] = {},
      sum1[kMaxShuffleFactors] = {};  // of w[b, 0, j, o], w[b, 1, j, o]
    for (int r = 0; r < rows; ++r) {
      T first[kMaxShuffleFactors], second[kMaxShuffleFactors];
      T value = from[int64_t{r} * plan.size + e];
      T g = grad_from[int64_t{r} * plan.size + e];
      BFLOW_UNROLL
      for (int q = 0; q < kMaxShuffleFactors; ++q) {
        if (q >= pass.count) break;
        ShufflePair(lane, e, PairDistance(plan, pass.first + q), value, &first[q], &second[q]);
        value = w.in0[q] * first[q] + w.in1[q] * second[q];
      }
      BFLOW_UNROLL
      for (int q = kMaxShuffleFactors - 1; q >= 0; --q) {
        if (q >= pass.count) continue;
        sum0[q] += first[q] * g;
        sum1[q] += second[q] * g;
        T g0, g1;
        ShufflePair(lane, e, PairDistance(plan, pass.first + q), g, &g0, &g1);
        g = w.out0[q] * g0 + w.out1[q] * g1;
      }
      grad_to[int64_t{r} * plan.size + e] = g;
    }
    BFLOW_UNROLL
    for (int q = 0; q < kMaxShuffleFactors; ++q) {
      if (q >= pass.count) break;
      const ButterflyFactor<T>& factor = plan.factors[pass.first + q];
      const int distance = PairDistance(plan, pass.first + q);
      T sums[2] = {sum0[q], sum1[q]};
      if (factor.shared) {
        for (int mask = 1; mask < distance; mask *= 2) {
          T other[2] = {sums[0], sums[1]};
          lane.ShuffleXor(other, mask);
          sums[0] += other[0];
          sums[1] += other[1];
        }
      }
      const int j = e & (distance - 1);
      if (factor.shared && j != 0) continue;
      int stride;
      T* to = partial + factor.offset +
              PairOffset(factor, plan.size, e / (2 * distance), j, &stride) +
              ((e & distance) != 0 ? 1 : 0);
      to[0] += sums[0];
      to[stride] += sums[1];
    }
  }
}

// Plan with at most kBackwardRegisterFactors levels per pass in registers.
template <typename Lane, typename T>
BFLOW_BODY void ButterflyBackwardBody(const Lane& lane, const ButterflyBackwardArgs<T>& args) {
  const ButterflyLayerPlan<T>& plan = args.plan;
  const int64_t tile = int64_t{args.rows_per_block} * plan.size;
  T* saved = args.saved + int64_t{lane.block()} * plan.pass_count * tile;
  T* gradient = saved + (plan.pass_count - 1) * tile;
  T* partial = args.partial + int64_t{lane.block()} * args.slots * plan.weight_count;
  const int64_t stride = int64_t{lane.grid_blocks()} * args.rows_per_block;
  const int last = plan.pass_count - 1;
  for (int64_t row = int64_t{lane.block()} * args.rows_per_block; row < args.rows; row += stride) {
    const int rows = static_cast<int>(args.rows - row < args.rows_per_block ? args.rows - row
                                                                            : args.rows_per_block);
    const T* x = args.x + row * plan.size;
    for (int p = 0; p < last; ++p) {
      ForwardPass(lane, plan, plan.passes[p], static_cast<const T*>(nullptr),
                  p == 0 ? x : saved + (p - 1) * tile, saved + p * tile, rows);
      lane.Sync();
    }
    for (int p = last; p >= 0; --p) {
      const ButterflyPass& pass = plan.passes[p];
      const T* from = p == 0 ? x : saved + (p - 1) * tile;
      const T* grad_from = p == last ? args.grad_y + row * plan.size : gradient;
      T* grad_to = p == 0 ? args.grad_x + row * plan.size : gradient;
      if (pass.shuffle) {
        BackwardByShuffles(lane, plan, pass, from, grad_from, grad_to, partial, rows);
      } else if (pass.count == 2 && pass.ascending) {
        BackwardInRegisters<2, true>(lane, plan, pass, from, grad_from, grad_to, partial, rows);
      } else if (pass.count == 2) {
        BackwardInRegisters<2, false>(lane, plan, pass, from, grad_from, grad_to, partial, rows);
      } else {
        BackwardInRegisters<1, true>(lane, plan, pass, from, grad_from, grad_to, partial, rows);
      }
      lane.Sync();
    }
  }
}

// grad[i] of every weight of the layer: the partial sums in their order, and the log-determinant's
// part. `parts` is grid times slots of the backward kernel.
template <typename Lane, typename T>
BFLOW_BODY void ButterflyWeightGradBody(const Lane& lane, const ButterflyLayerPlan<T>& plan,
                                        const T* partial, int64_t parts, const T* grad_log_det,
                                        T* grad) {
  const int64_t threads = int64_t{lane.grid_blocks()} * lane.block_threads();
  for (int64_t i = int64_t{lane.block()} * lane.block_threads() + lane.thread();
       i < plan.weight_count; i += threads) {
    double sum = 0;
    for (int64_t p = 0; p < parts; ++p)
      sum += static_cast<double>(partial[p * plan.weight_count + i]);
    int f = 0;
    while (f + 1 < plan.factor_count && plan.factors[f + 1].offset <= i) ++f;
    const ButterflyFactor<T>& factor = plan.factors[f];
    const int64_t at = i - factor.offset;  // ((b * 2 + h) * matrices + j) * 2 + o
    const int64_t matrices = factor.shared ? 1 : plan.size >> (factor.level + 1);
    const int o = static_cast<int>(at & 1), h = static_cast<int>(at / 2 / matrices) & 1;
    const T* w = factor.weights + at - o - (h != 0 ? 2 * matrices : 0);
    const double w00 = w[0], w01 = w[1], w10 = w[2 * matrices], w11 = w[2 * matrices + 1];
    const double pairs = factor.shared ? plan.size >> (factor.level + 1) : 1;
    // d log|w00 w11 - w10 w01|: the opposite entry, with the sign of its product, over d.
    const double opposite = o == h ? (h == 0 ? w11 : w00) : -(h == 0 ? w10 : w01);
    sum += static_cast<double>(grad_log_det[0]) * pairs * opposite / (w00 * w11 - w10 * w01);
    grad[i] = static_cast<T>(sum);
  }
}

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_BUTTERFLY_BACKWARD_CUH_
