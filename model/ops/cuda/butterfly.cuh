// Forward bodies of the butterfly kernels (model/ops/butterfly.h has the operator's mathematics). A
// block takes `rows_per_block` rows at a time through all passes of the layer: the first pass reads
// x, the last writes y, what lies between stays in the block's tile. A pass in registers holds the
// values that up to three levels mix; a pass by shuffles holds one value per lane.
#ifndef BFLOW_MODEL_OPS_CUDA_BUTTERFLY_CUH_
#define BFLOW_MODEL_OPS_CUDA_BUTTERFLY_CUH_

#include <cmath>
#include <cstdint>

#include "model/ops/cuda/butterfly_plan.h"
#include "model/ops/cuda/lane.cuh"

namespace bflow::cuda {

template <typename T>
struct ButterflyForwardArgs {
  ButterflyLayerPlan<T> plan;
  const T* x = nullptr;  // [rows, D]
  T* y = nullptr;
  T* tiles = nullptr;  // [grid, rows_per_block, D] where a tile does not fit in shared memory
  int64_t rows = 0;
  int rows_per_block = 1;
  int staged_weights = 0;  // all weights copied to shared memory, or 0
};

// The 2x2 of a pair: w[h][o] of block `b` and pair `j` of a factor.
template <typename T>
struct Matrix2 {
  T w00, w01, w10, w11;
};

// Offset of w[b, 0, j, 0]; w[b, 0, j, 1] follows it, w[b, 1, j, .] lies `stride` further.
template <typename T>
BFLOW_BODY int64_t PairOffset(const ButterflyFactor<T>& factor, int size, int b, int j,
                              int* stride) {
  const int matrices = factor.shared ? 1 : size >> (factor.level + 1);
  *stride = 2 * matrices;
  return int64_t{2} * (int64_t{2} * b * matrices + (factor.shared ? 0 : j));
}

template <typename T>
BFLOW_BODY Matrix2<T> LoadPair(const ButterflyFactor<T>& factor, const T* weights, int size, int b,
                               int j) {
  int stride;
  const T* w = weights + PairOffset(factor, size, b, j, &stride);
  return {w[0], w[1], w[stride], w[stride + 1]};
}

// Where in a pass in registers of kCount levels: value k of an item lies at base + k * step.
struct RegisterItem {
  int block;  // b at the lowest level
  int j;
  int base;
  int step;
};

BFLOW_BODY RegisterItem MakeItem(int size, int low, int count, int block, int j) {
  const int step = size >> (low + count);
  return {block, j, block * (size >> low) + j, step};
}

// Pair `t` of the q-th level of a pass: its first value's k; the second is 2^(count-1-q) further.
BFLOW_BODY int FirstOfPair(int count, int q, int t) {
  const int low_bits = count - 1 - q;
  return ((t >> low_bits) << (low_bits + 1)) | (t & ((1 << low_bits) - 1));
}

template <int kCount, typename T>
BFLOW_BODY void LoadItemWeights(const ButterflyLayerPlan<T>& plan, const ButterflyPass& pass,
                                const T* staged, const RegisterItem& item,
                                Matrix2<T> (&w)[kCount][1 << (kCount - 1)]) {
  BFLOW_UNROLL
  for (int q = 0; q < kCount; ++q) {
    const int f = pass.first + (pass.ascending ? q : kCount - 1 - q);
    const ButterflyFactor<T>& factor = plan.factors[f];
    const T* weights = staged != nullptr ? staged + factor.offset : factor.weights;
    const int low_bits = kCount - 1 - q;
    BFLOW_UNROLL
    for (int t = 0; t < 1 << (kCount - 1); ++t) {
      const int b = (item.block << q) | (t >> low_bits);
      const int j = (t & ((1 << low_bits) - 1)) * item.step + item.j;
      w[q][t] = LoadPair(factor, weights, plan.size, b, j);
    }
  }
}

template <int kCount, typename T>
BFLOW_BODY void MixLevel(int q, const Matrix2<T> (&w)[kCount][1 << (kCount - 1)],
                         T (&v)[1 << kCount]) {
  BFLOW_UNROLL
  for (int t = 0; t < 1 << (kCount - 1); ++t) {
    const int k0 = FirstOfPair(kCount, q, t), k1 = k0 + (1 << (kCount - 1 - q));
    const T v0 = v[k0], v1 = v[k1];
    v[k0] = w[q][t].w00 * v0 + w[q][t].w10 * v1;
    v[k1] = w[q][t].w01 * v0 + w[q][t].w11 * v1;
  }
}

template <int kCount, typename Lane, typename T>
BFLOW_BODY void ForwardInRegisters(const Lane& lane, const ButterflyLayerPlan<T>& plan,
                                   const ButterflyPass& pass, const T* staged, const T* from, T* to,
                                   int rows) {
  const int step = plan.size >> (pass.low + kCount);
  const int items = step << pass.low;
  for (int i = lane.thread(); i < items; i += lane.block_threads()) {
    const RegisterItem item = MakeItem(plan.size, pass.low, kCount, i / step, i % step);
    Matrix2<T> w[kCount][1 << (kCount - 1)];
    LoadItemWeights<kCount>(plan, pass, staged, item, w);
    for (int r = 0; r < rows; ++r) {
      const int64_t base = int64_t{r} * plan.size + item.base;
      T v[1 << kCount];
      BFLOW_UNROLL
      for (int k = 0; k < 1 << kCount; ++k) v[k] = from[base + k * item.step];
      if (pass.ascending) {
        BFLOW_UNROLL
        for (int q = 0; q < kCount; ++q) MixLevel<kCount>(q, w, v);
      } else {
        BFLOW_UNROLL
        for (int q = kCount - 1; q >= 0; --q) MixLevel<kCount>(q, w, v);
      }
      BFLOW_UNROLL
      for (int k = 0; k < 1 << kCount; ++k) to[base + k * item.step] = v[k];
    }
  }
}

// What one lane needs of the factors of a pass by shuffles, for the value at index e of a row.
template <typename T>
struct ShuffleWeights {
  T in0[kMaxShuffleFactors], in1[kMaxShuffleFactors];    // w[b, 0, j, o], w[b, 1, j, o]
  T out0[kMaxShuffleFactors], out1[kMaxShuffleFactors];  // w[b, o, j, 0], w[b, o, j, 1]
};

template <typename T>
BFLOW_BODY int PairDistance(const ButterflyLayerPlan<T>& plan, int factor) {
  return plan.size >> (plan.factors[factor].level + 1);
}

template <typename T>
BFLOW_BODY ShuffleWeights<T> LoadShuffleWeights(const ButterflyLayerPlan<T>& plan,
                                                const ButterflyPass& pass, const T* staged, int e) {
  ShuffleWeights<T> out = {};
  BFLOW_UNROLL
  for (int q = 0; q < kMaxShuffleFactors; ++q) {
    if (q >= pass.count) break;
    const ButterflyFactor<T>& factor = plan.factors[pass.first + q];
    const int distance = PairDistance(plan, pass.first + q);
    const T* weights = staged != nullptr ? staged + factor.offset : factor.weights;
    const Matrix2<T> w =
        LoadPair(factor, weights, plan.size, e / (2 * distance), e & (distance - 1));
    const bool second = (e & distance) != 0;
    out.in0[q] = second ? w.w01 : w.w00;
    out.in1[q] = second ? w.w11 : w.w10;
    out.out0[q] = second ? w.w10 : w.w00;
    out.out1[q] = second ? w.w11 : w.w01;
  }
  return out;
}

// The pair that `value` of index e is part of, both lanes' view of it.
template <typename Lane, typename T>
BFLOW_BODY void ShufflePair(const Lane& lane, int e, int distance, T value, T* first, T* second) {
  T other[1] = {value};
  lane.ShuffleXor(other, distance);
  const bool is_second = (e & distance) != 0;
  *first = is_second ? other[0] : value;
  *second = is_second ? value : other[0];
}

template <typename Lane, typename T>
BFLOW_BODY void ForwardByShuffles(const Lane& lane, const ButterflyLayerPlan<T>& plan,
                                  const ButterflyPass& pass, const T* staged, const T* from, T* to,
                                  int rows) {
  // D is a multiple of 32, so that a warp is inside or outside as a whole.
  for (int e = lane.thread(); e < plan.size; e += lane.block_threads()) {
    const ShuffleWeights<T> w = LoadShuffleWeights(plan, pass, staged, e);
    for (int r = 0; r < rows; ++r) {
      T value = from[int64_t{r} * plan.size + e];
      BFLOW_UNROLL
      for (int q = 0; q < kMaxShuffleFactors; ++q) {
        if (q >= pass.count) break;
        T first, second;
        ShufflePair(lane, e, PairDistance(plan, pass.first + q), value, &first, &second);
        value = w.in0[q] * first + w.in1[q] * second;
      }
      to[int64_t{r} * plan.size + e] = value;
    }
  }
}

template <typename Lane, typename T>
BFLOW_BODY void ForwardPass(const Lane& lane, const ButterflyLayerPlan<T>& plan,
                            const ButterflyPass& pass, const T* staged, const T* from, T* to,
                            int rows) {
  if (pass.shuffle) {
    ForwardByShuffles(lane, plan, pass, staged, from, to, rows);
  } else if (pass.count == 3) {
    ForwardInRegisters<3>(lane, plan, pass, staged, from, to, rows);
  } else if (pass.count == 2) {
    ForwardInRegisters<2>(lane, plan, pass, staged, from, to, rows);
  } else {
    ForwardInRegisters<1>(lane, plan, pass, staged, from, to, rows);
  }
}

// Whether neighbouring threads of a pass touch far-apart values: then it works on the tile, and a
// plain copy, whose accesses coalesce, talks to global memory.
template <typename T>
BFLOW_BODY bool Scattered(const ButterflyLayerPlan<T>& plan, const ButterflyPass& pass) {
  return !pass.shuffle && (plan.size >> (pass.low + pass.count)) < 8 && plan.size >= 64;
}

template <typename Lane, typename T>
BFLOW_BODY void Copy(const Lane& lane, const T* from, T* to, int64_t count) {
  for (int64_t i = lane.thread(); i < count; i += lane.block_threads()) to[i] = from[i];
}

template <typename Lane, typename T>
BFLOW_BODY void ButterflyForwardBody(const Lane& lane, const ButterflyForwardArgs<T>& args) {
  const ButterflyLayerPlan<T>& plan = args.plan;
  T* shared = lane.template shared<T>();
  const T* staged = nullptr;
  if (args.staged_weights > 0) {
    for (int f = 0; f < plan.factor_count; ++f) {
      const ButterflyFactor<T>& factor = plan.factors[f];
      const int64_t end =
          f + 1 < plan.factor_count ? plan.factors[f + 1].offset : plan.weight_count;
      Copy(lane, factor.weights, shared + factor.offset, end - factor.offset);
    }
    staged = shared;
    lane.Sync();
  }
  T* tile = args.tiles != nullptr
                ? args.tiles + int64_t{lane.block()} * args.rows_per_block * plan.size
                : shared + args.staged_weights;
  const int64_t stride = int64_t{lane.grid_blocks()} * args.rows_per_block;
  for (int64_t row = int64_t{lane.block()} * args.rows_per_block; row < args.rows; row += stride) {
    const int rows = static_cast<int>(args.rows - row < args.rows_per_block ? args.rows - row
                                                                            : args.rows_per_block);
    const T* x = args.x + row * plan.size;
    T* y = args.y + row * plan.size;
    if (Scattered(plan, plan.passes[0])) {
      Copy(lane, x, tile, int64_t{rows} * plan.size);
      lane.Sync();
      x = tile;
    }
    const int last = plan.pass_count - 1;
    const bool copy_out = Scattered(plan, plan.passes[last]);
    for (int p = 0; p <= last; ++p) {
      ForwardPass(lane, plan, plan.passes[p], staged, p == 0 ? x : tile,
                  p == last && !copy_out ? y : tile, rows);
      lane.Sync();
    }
    if (copy_out) {
      Copy(lane, tile, y, int64_t{rows} * plan.size);
      lane.Sync();
    }
  }
}

// The log-determinant of a row, by one block. scratch: one double per warp.
template <typename Lane, typename T>
BFLOW_BODY void ButterflyLogDetBody(const Lane& lane, const ButterflyLayerPlan<T>& plan,
                                    T* log_det) {
  double sum = 0;
  for (int f = 0; f < plan.factor_count; ++f) {
    const ButterflyFactor<T>& factor = plan.factors[f];
    const int half = plan.size >> (factor.level + 1);
    const int matrices = factor.shared ? 1 : half;
    const int64_t count = int64_t{matrices} << factor.level;
    double part = 0;
    for (int64_t i = lane.thread(); i < count; i += lane.block_threads()) {
      const Matrix2<T> w = LoadPair(factor, factor.weights, plan.size,
                                    static_cast<int>(i / matrices), static_cast<int>(i % matrices));
      part += log(fabs(static_cast<double>(w.w00) * static_cast<double>(w.w11) -
                       static_cast<double>(w.w10) * static_cast<double>(w.w01)));
    }
    sum += factor.shared ? part * half : part;
  }
  sum = BlockSum(lane, sum, lane.template shared<double>());
  if (lane.thread() == 0) log_det[0] = static_cast<T>(sum);
}

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_BUTTERFLY_CUH_
