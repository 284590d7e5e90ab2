// Bodies of the kernels of affine_coupling (model/ops/affine_coupling.h): a thread per time step,
// the weights of both nets in shared memory.
#ifndef BFLOW_MODEL_OPS_CUDA_COUPLING_CUH_
#define BFLOW_MODEL_OPS_CUDA_COUPLING_CUH_

#include <cmath>
#include <cstdint>

#include "model/ops/cuda/lane.cuh"
#include "model/ops/cuda/per_step.cuh"

namespace bflow::cuda {

inline constexpr int kMaxHalf = 8;
inline constexpr int kMaxHidden = 64;

// C/2 and H: known to the compiler where kHalf is not 0.
template <int kHalf, int kHidden>
struct CouplingShape {
  int half_ = kHalf;
  int hidden_ = kHidden;
  static constexpr int kHalfCapacity = kHalf == 0 ? kMaxHalf : kHalf;
  static constexpr int kHiddenCapacity = kHalf == 0 ? kMaxHidden : kHidden;
  BFLOW_BODY constexpr int half() const { return kHalf == 0 ? half_ : kHalf; }
  BFLOW_BODY constexpr int hidden() const { return kHalf == 0 ? hidden_ : kHidden; }
  // Offsets in a net's weights {w0, b0, w1, b1, w2, b2}, one after the other.
  BFLOW_BODY constexpr int b0() const { return hidden() * half(); }
  BFLOW_BODY constexpr int w1() const { return b0() + hidden(); }
  BFLOW_BODY constexpr int b1() const { return w1() + hidden() * hidden(); }
  BFLOW_BODY constexpr int w2() const { return b1() + hidden(); }
  BFLOW_BODY constexpr int b2() const { return w2() + half() * hidden(); }
  BFLOW_BODY constexpr int parameters() const { return b2() + half(); }
  // Numbers per time step that the backward kernel keeps of one net.
  BFLOW_BODY constexpr int features() const { return 2 * half() + 4 * hidden(); }
};

template <typename T>
struct CouplingArgs {
  const T* weights = nullptr;  // scale net, then shift net
  const T* x = nullptr;        // [rows, steps, 2 half]
  T* y = nullptr;
  T* log_det = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t steps = 0;
  bool inverse = false;
};

template <typename T>
struct CouplingBackwardArgs {
  const T* weights = nullptr;
  const T* x = nullptr;
  const T* grad_y = nullptr;
  const T* grad_log_det = nullptr;  // [rows]
  T* grad_x = nullptr;
  double* partial = nullptr;  // [grid, 2 parameters], zero at the start
  int64_t rows = 0;
  int64_t steps = 0;
  bool inverse = false;
};

template <typename Lane, typename T>
BFLOW_BODY void StageWeights(const Lane& lane, const T* weights, int count, T* to) {
  for (int i = lane.thread(); i < count; i += lane.block_threads()) to[i] = weights[i];
  lane.Sync();
}

// One step of a net; h1 and h2 are the values of its hidden layers, tanh or ReLU.
template <bool kTanh, typename Shape, typename T>
BFLOW_BODY void EvaluateNet(const Shape& shape, const T* w, const T* in, T* h1, T* h2, T* out) {
  const int half = shape.half(), hidden = shape.hidden();
  const auto activate = [](T v) { return kTanh ? static_cast<T>(tanh(v)) : v > 0 ? v : T(0); };
  BFLOW_UNROLL
  for (int h = 0; h < hidden; ++h) {
    T sum = w[shape.b0() + h];
    BFLOW_UNROLL
    for (int i = 0; i < half; ++i) sum += w[h * half + i] * in[i];
    h1[h] = activate(sum);
  }
  BFLOW_UNROLL
  for (int o = 0; o < hidden; ++o) {
    T sum = w[shape.b1() + o];
    BFLOW_UNROLL
    for (int h = 0; h < hidden; ++h) sum += w[shape.w1() + o * hidden + h] * h1[h];
    h2[o] = activate(sum);
  }
  BFLOW_UNROLL
  for (int o = 0; o < half; ++o) {
    T sum = w[shape.b2() + o];
    BFLOW_UNROLL
    for (int h = 0; h < hidden; ++h) sum += w[shape.w2() + o * hidden + h] * h2[h];
    out[o] = sum;
  }
}

// Shared memory: the weights, then one double per warp (aligned to 8 bytes).
template <typename Lane, typename T, typename Shape>
BFLOW_BODY void CouplingBody(const Lane& lane, const Shape& shape, const CouplingArgs<T>& args) {
  const int half = shape.half(), parameters = shape.parameters();
  T* w = lane.template shared<T>();
  double* scratch = lane.template shared<double>() +
                    (2 * parameters * sizeof(T) + sizeof(double) - 1) / sizeof(double);
  StageWeights(lane, args.weights, 2 * parameters, w);
  for (int64_t row = lane.block(); row < args.rows; row += lane.grid_blocks()) {
    double sum = 0;
    for (int64_t step = lane.thread(); step < args.steps; step += lane.block_threads()) {
      const int64_t at = (row * args.steps + step) * 2 * half;
      T in[Shape::kHalfCapacity], scale[Shape::kHalfCapacity], shift[Shape::kHalfCapacity];
      T h1[Shape::kHiddenCapacity], h2[Shape::kHiddenCapacity];
      lane.Reload();
      for (int i = 0; i < half; ++i) in[i] = args.x[at + i];
      EvaluateNet<true>(shape, w, in, h1, h2, scale);
      EvaluateNet<false>(shape, w + parameters, in, h1, h2, shift);
      for (int i = 0; i < half; ++i) {
        const T z2 = args.x[at + half + i];
        args.y[at + i] = in[i];
        args.y[at + half + i] = args.inverse ? (z2 - shift[i]) * static_cast<T>(exp(-scale[i]))
                                             : z2 * static_cast<T>(exp(scale[i])) + shift[i];
        sum += static_cast<double>(args.inverse ? -scale[i] : scale[i]);
      }
    }
    sum = BlockSum(lane, sum, scratch);
    if (lane.thread() == 0) args.log_det[row] = static_cast<T>(sum);
  }
}

// Backward of one net at one step: adds to grad_in and leaves in `features` (of this thread; one
// number every `pitch`) what the weights' gradients are made of: in, h1, h2, then the gradients of
// the three layers' sums. An idle thread leaves zeros.
template <bool kTanh, typename Shape, typename T>
BFLOW_BODY void NetBackward(const Shape& shape, const T* w, bool active, const T* in, const T* h1,
                            const T* h2, const T* grad_out, T* grad_in, T* features, int pitch) {
  const int half = shape.half(), hidden = shape.hidden();
  const auto slope = [](T h) { return kTanh ? 1 - h * h : h > 0 ? T(1) : T(0); };
  T* at = features;
  const auto keep = [&](T value) {
    *at = active ? value : T(0);
    at += pitch;
  };
  for (int i = 0; i < half; ++i) keep(in[i]);
  for (int h = 0; h < hidden; ++h) keep(h1[h]);
  for (int h = 0; h < hidden; ++h) keep(h2[h]);
  T d1[Shape::kHiddenCapacity], d2[Shape::kHiddenCapacity];
  BFLOW_UNROLL
  for (int h = 0; h < hidden; ++h) {
    T sum = 0;
    BFLOW_UNROLL
    for (int o = 0; o < half; ++o) sum += w[shape.w2() + o * hidden + h] * grad_out[o];
    d2[h] = sum * slope(h2[h]);
  }
  BFLOW_UNROLL
  for (int h = 0; h < hidden; ++h) {
    T sum = 0;
    BFLOW_UNROLL
    for (int o = 0; o < hidden; ++o) sum += w[shape.w1() + o * hidden + h] * d2[o];
    d1[h] = sum * slope(h1[h]);
  }
  for (int i = 0; i < half; ++i) {
    T sum = 0;
    BFLOW_UNROLL
    for (int h = 0; h < hidden; ++h) sum += w[h * half + i] * d1[h];
    grad_in[i] += sum;
  }
  for (int h = 0; h < hidden; ++h) keep(d1[h]);
  for (int h = 0; h < hidden; ++h) keep(d2[h]);
  for (int o = 0; o < half; ++o) keep(grad_out[o]);
}

// The features that parameter `p` of a net multiplies: its gradient is the sum over steps of
// features[left] * features[right], or of features[left] where right is -1.
template <typename Shape>
BFLOW_BODY void ParameterFeatures(const Shape& shape, int p, int* left, int* right) {
  const int half = shape.half(), hidden = shape.hidden();
  const int h1 = half, h2 = h1 + hidden, d1 = h2 + hidden, d2 = d1 + hidden, d3 = d2 + hidden;
  *right = -1;
  if (p < shape.b0()) {
    *left = d1 + p / half;
    *right = p % half;
  } else if (p < shape.w1()) {
    *left = d1 + p - shape.b0();
  } else if (p < shape.b1()) {
    *left = d2 + (p - shape.w1()) / hidden;
    *right = h1 + (p - shape.w1()) % hidden;
  } else if (p < shape.w2()) {
    *left = d2 + p - shape.b1();
  } else if (p < shape.b2()) {
    *left = d3 + (p - shape.w2()) / hidden;
    *right = h2 + (p - shape.w2()) % hidden;
  } else {
    *left = d3 + p - shape.b2();
  }
}

// Adds this tile's part of a net's gradients; a thread owns its parameters, so nothing is atomic.
template <typename Lane, typename Shape, typename T>
BFLOW_BODY void AddParameterGrads(const Lane& lane, const Shape& shape, const T* features,
                                  int pitch, double* partial) {
  for (int p = lane.thread(); p < shape.parameters(); p += lane.block_threads()) {
    int left, right;
    ParameterFeatures(shape, p, &left, &right);
    T sum = 0;
    for (int k = 0; k < lane.block_threads(); ++k) {
      const T value = features[left * pitch + k];
      sum += right < 0 ? value : value * features[right * pitch + k];
    }
    partial[p] += static_cast<double>(sum);
  }
}

// Shared memory: the weights, then [features, block_threads + 1] (one more: no bank conflicts).
template <typename Lane, typename T, typename Shape>
BFLOW_BODY void CouplingBackwardBody(const Lane& lane, const Shape& shape,
                                     const CouplingBackwardArgs<T>& args) {
  const int half = shape.half(), parameters = shape.parameters();
  T* w = lane.template shared<T>();
  T* features = w + 2 * parameters;
  const int pitch = lane.block_threads() + 1;
  double* partial = args.partial + int64_t{lane.block()} * 2 * parameters;
  StageWeights(lane, args.weights, 2 * parameters, w);
  const int64_t count = args.rows * args.steps;
  for (int64_t tile = int64_t{lane.block()} * lane.block_threads(); tile < count;
       tile += GridThreads(lane)) {
    const int64_t step = tile + lane.thread();
    const bool active = step < count;
    const int64_t at = step * 2 * half;
    T in[Shape::kHalfCapacity] = {}, scale[Shape::kHalfCapacity] = {},
      shift[Shape::kHalfCapacity] = {}, grad_in[Shape::kHalfCapacity] = {},
      grad_scale[Shape::kHalfCapacity] = {}, grad_shift[Shape::kHalfCapacity] = {};
    T h1[Shape::kHiddenCapacity] = {}, h2[Shape::kHiddenCapacity] = {};
    if (active) {
      for (int i = 0; i < half; ++i) {
        in[i] = args.x[at + i];
        grad_in[i] = args.grad_y[at + i];
      }
      // The shift first: the scale net's hidden values are then there for its backward.
      EvaluateNet<false>(shape, w + parameters, in, h1, h2, shift);
      EvaluateNet<true>(shape, w, in, h1, h2, scale);
      const T grad_log_det = args.grad_log_det[step / args.steps];
      for (int i = 0; i < half; ++i) {
        const T z2 = args.x[at + half + i], g = args.grad_y[at + half + i];
        const T factor = static_cast<T>(exp(args.inverse ? -scale[i] : scale[i]));
        args.grad_x[at + half + i] = g * factor;
        if (args.inverse) {
          grad_shift[i] = -g * factor;
          grad_scale[i] = -g * (z2 - shift[i]) * factor - grad_log_det;
        } else {
          grad_shift[i] = g;
          grad_scale[i] = g * z2 * factor + grad_log_det;
        }
      }
    }
    NetBackward<true>(shape, w, active, in, h1, h2, grad_scale, grad_in, features + lane.thread(),
                      pitch);
    lane.Sync();
    AddParameterGrads(lane, shape, features, pitch, partial);
    lane.Sync();
    if (active) EvaluateNet<false>(shape, w + parameters, in, h1, h2, shift);
    NetBackward<false>(shape, w + parameters, active, in, h1, h2, grad_shift, grad_in,
                       features + lane.thread(), pitch);
    lane.Sync();
    AddParameterGrads(lane, shape, features, pitch, partial + parameters);
    lane.Sync();
    if (active) {
      for (int i = 0; i < half; ++i) args.grad_x[at + i] = grad_in[i];
    }
  }
}

// out[i] of the partial sums [parts, entries].
template <typename Lane, typename T>
BFLOW_BODY void SumPartsBody(const Lane& lane, const double* partial, int64_t parts,
                             int64_t entries, T* out) {
  for (int64_t i = GridThread(lane); i < entries; i += GridThreads(lane)) {
    out[i] = static_cast<T>(SumParts(partial, parts, entries, i));
  }
}

}  // namespace bflow::cuda

#endif  // BFLOW_MODEL_OPS_CUDA_COUPLING_CUH_
