// Bodies of the kernels of act_norm and lu_matmul (model/ops/act_norm.h, lu_matmul.h). x is [steps,
// C] here: all rows of a batch one after the other.
#ifndef BFLOW_MODEL_OPS_CUDA_PER_STEP_CUH_
#define BFLOW_MODEL_OPS_CUDA_PER_STEP_CUH_

#include <cmath>
#include <cstdint>

#include "model/ops/cuda/lane.cuh"

namespace bflow::cuda {

inline constexpr int kMaxChannels = 64;  // of lu_matmul: its matrices stay in shared memory

template <typename Lane>
BFLOW_BODY int64_t GridThread(const Lane& lane) {
  return int64_t{lane.block()} * lane.block_threads() + lane.thread();
}

template <typename Lane>
BFLOW_BODY int64_t GridThreads(const Lane& lane) {
  return int64_t{lane.grid_blocks()} * lane.block_threads();
}

// exp(log_scale) rounded once.
template <typename T>
BFLOW_BODY T Scale(T log_scale) {
  return static_cast<T>(exp(static_cast<double>(log_scale)));
}

// y = x exp(log_scale) + bias, or x exp(log_scale) where bias is null. log_det, if wanted: T
// sum(log_scale), T = steps_per_row. Shared memory: C values.
template <typename Lane, typename T>
BFLOW_BODY void ActNormBody(const Lane& lane, const T* x, const T* log_scale, const T* bias, T* y,
                            int64_t steps, int channels, int64_t steps_per_row, T* log_det) {
  T* scale = lane.template shared<T>();
  for (int c = lane.thread(); c < channels; c += lane.block_threads())
    scale[c] = Scale(log_scale[c]);
  lane.Sync();
  const int64_t count = steps * channels;
  for (int64_t i = GridThread(lane); i < count; i += GridThreads(lane)) {
    const int c = static_cast<int>(i % channels);
    y[i] = bias != nullptr ? x[i] * scale[c] + bias[c] : x[i] * scale[c];
  }
  if (log_det != nullptr && lane.block() == 0 && lane.thread() == 0) {
    double sum = 0;
    for (int c = 0; c < channels; ++c) sum += static_cast<double>(log_scale[c]);
    log_det[0] = static_cast<T>(sum * static_cast<double>(steps_per_row));
  }
}

// Sums over steps of `entries` numbers per step: partial[block, entry] += over this block's share.
// value(step, entry) is called for each. Shared memory: one double per thread.
template <typename Lane, typename Value>
BFLOW_BODY void SumOverSteps(const Lane& lane, int64_t steps, int entries, double* partial,
                             const Value& value) {
  double* scratch = lane.template shared<double>();
  const int threads = lane.block_threads();
  const int width = entries < threads ? entries : threads;
  const int groups = threads / width;
  const int group = lane.thread() / width;
  for (int first = 0; first < entries; first += width) {
    const int entry = first + lane.thread() % width;
    double sum = 0;
    if (group < groups && entry < entries) {
      for (int64_t step = int64_t{lane.block()} * groups + group; step < steps;
           step += int64_t{lane.grid_blocks()} * groups) {
        sum += value(step, entry);
      }
    }
    scratch[lane.thread()] = sum;
    lane.Sync();
    if (group == 0 && entry < entries) {
      double total = 0;
      for (int g = 0; g < groups; ++g) total += scratch[g * width + lane.thread()];
      partial[int64_t{lane.block()} * entries + entry] = total;
    }
    lane.Sync();
  }
}

// The partial sums of `parts` blocks, added in their order.
BFLOW_BODY double SumParts(const double* partial, int64_t parts, int64_t entries, int64_t entry) {
  double sum = 0;
  for (int64_t p = 0; p < parts; ++p) sum += partial[p * entries + entry];
  return sum;
}

// partial: [grid, 2 C], sums of x grad_y, then of grad_y.
template <typename Lane, typename T>
BFLOW_BODY void ActNormSumsBody(const Lane& lane, const T* x, const T* grad_y, int64_t steps,
                                int channels, double* partial) {
  SumOverSteps(lane, steps, 2 * channels, partial, [=](int64_t step, int entry) {
    const int c = entry < channels ? entry : entry - channels;
    const double g = static_cast<double>(grad_y[step * channels + c]);
    return entry < channels ? static_cast<double>(x[step * channels + c]) * g : g;
  });
}

template <typename Lane, typename T>
BFLOW_BODY void ActNormGradBody(const Lane& lane, const double* partial, int64_t parts,
                                const T* log_scale, const T* grad_log_det, int channels,
                                int64_t steps_per_row, T* grad_log_scale, T* grad_bias) {
  for (int64_t c = GridThread(lane); c < channels; c += GridThreads(lane)) {
    grad_log_scale[c] = static_cast<T>(
        SumParts(partial, parts, 2 * channels, c) * exp(static_cast<double>(log_scale[c])) +
        static_cast<double>(grad_log_det[0]) * static_cast<double>(steps_per_row));
    grad_bias[c] = static_cast<T>(SumParts(partial, parts, 2 * channels, channels + c));
  }
}

// The factors of lu_matmul's W = P L U, as the operator takes them.
template <typename T>
struct LuArgs {
  const T* lower = nullptr;
  const T* upper = nullptr;
  const T* log_diagonal = nullptr;
  const T* diagonal_sign = nullptr;
  const int64_t* permutation = nullptr;
  int channels = 0;
};

template <typename T>
BFLOW_BODY double LuLower(const LuArgs<T>& lu, int i, int j) {
  return i == j ? 1 : j < i ? static_cast<double>(lu.lower[i * lu.channels + j]) : 0;
}

template <typename T>
BFLOW_BODY double LuUpper(const LuArgs<T>& lu, int i, int j) {
  if (i == j) {
    return static_cast<double>(lu.diagonal_sign[i]) * exp(static_cast<double>(lu.log_diagonal[i]));
  }
  return i < j ? static_cast<double>(lu.upper[i * lu.channels + j]) : 0;
}

// W, summed in float64 and rounded once, by one block; its transpose if wanted. A permutation index
// out of range makes the row NaN. log_det, if wanted: T sum(log_diagonal).
template <typename Lane, typename T>
BFLOW_BODY void LuWeightBody(const Lane& lane, const LuArgs<T>& lu, bool transposed, T* weight,
                             int64_t steps_per_row, T* log_det) {
  const int c = lu.channels;
  for (int at = lane.thread(); at < c * c; at += lane.block_threads()) {
    const int i = at / c, j = at % c;
    const int64_t p = lu.permutation[i];
    double sum = 0;
    if (p < 0 || p >= c) {
      sum = NAN;
    } else {
      for (int k = 0; k < c; ++k) {
        sum += LuLower(lu, static_cast<int>(p), k) * LuUpper(lu, k, j);
      }
    }
    weight[transposed ? j * c + i : at] = static_cast<T>(sum);
  }
  if (log_det != nullptr && lane.thread() == 0) {
    double sum = 0;
    for (int i = 0; i < c; ++i) sum += static_cast<double>(lu.log_diagonal[i]);
    log_det[0] = static_cast<T>(sum * static_cast<double>(steps_per_row));
  }
}

// y = x W on row vectors. Shared memory: C^2 values.
template <typename Lane, typename T>
BFLOW_BODY void MatmulBody(const Lane& lane, const T* x, const T* weight, T* y, int64_t steps,
                           int channels) {
  T* w = lane.template shared<T>();
  for (int i = lane.thread(); i < channels * channels; i += lane.block_threads()) w[i] = weight[i];
  lane.Sync();
  const int64_t count = steps * channels;
  for (int64_t i = GridThread(lane); i < count; i += GridThreads(lane)) {
    const int j = static_cast<int>(i % channels);
    const T* row = x + (i - j);
    T sum = 0;
    for (int k = 0; k < channels; ++k) sum += row[k] * w[k * channels + j];
    y[i] = sum;
  }
}

// partial: [grid, C^2], sums of x[i] grad_y[j].
template <typename Lane, typename T>
BFLOW_BODY void MatmulSumsBody(const Lane& lane, const T* x, const T* grad_y, int64_t steps,
                               int channels, double* partial) {
  SumOverSteps(lane, steps, channels * channels, partial, [=](int64_t step, int entry) {
    return static_cast<double>(x[step * channels + entry / channels]) *
           static_cast<double>(grad_y[step * channels + entry % channels]);
  });
}

// Gradients of lower, upper and log_diagonal from the partial sums of W's, by one block: with W = P
// A, A = L U: dA[permutation[i]] += dW[i], dL = dA U^T, dU = L^T dA. Shared memory: C^2 doubles.
template <typename Lane, typename T>
BFLOW_BODY void LuGradBody(const Lane& lane, const LuArgs<T>& lu, const double* partial,
                           int64_t parts, const T* grad_log_det, int64_t steps_per_row,
                           T* grad_lower, T* grad_upper, T* grad_log_diagonal) {
  const int c = lu.channels;
  double* grad_a = lane.template shared<double>();
  for (int at = lane.thread(); at < c * c; at += lane.block_threads()) {
    double sum = 0;  // over the i that the permutation sends to this row
    for (int i = 0; i < c; ++i) {
      if (lu.permutation[i] == at / c) sum += SumParts(partial, parts, c * c, i * c + at % c);
    }
    grad_a[at] = sum;
  }
  lane.Sync();
  for (int at = lane.thread(); at < c * c; at += lane.block_threads()) {
    const int i = at / c, j = at % c;
    double lower = 0, upper = 0;
    for (int k = 0; k < c; ++k) {
      lower += grad_a[i * c + k] * LuUpper(lu, j, k);
      upper += LuLower(lu, k, i) * grad_a[k * c + j];
    }
    grad_lower[at] = static_cast<T>(j < i ? lower : 0);
    grad_upper[at] = static_cast<T>(j > i ? upper : 0);
    if (i == j) {
      grad_log_diagonal[i] =
          static_cast<T>(upper * LuUpper(lu, i, i) +
                         static_cast<double>(grad_log_det[0]) * static_cast<double>(steps_per_row));
    }
  }
}

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_PER_STEP_CUH_
