// The kernels behind the CPU operators: plain functions on pointers, compiled once per instruction
// set from one source (kernels.inc) and chosen at run time. Every function works on whole rows, is
// free of allocation and threads, and gives a row the same result whatever else is in the call.
#ifndef BFLOW_MODEL_OPS_CPU_KERNELS_H_
#define BFLOW_MODEL_OPS_CPU_KERNELS_H_

#include <cstdint>

namespace bflow::cpu {

// One butterfly factor, packed. Wide factors with shared weights keep their 2x2s (`matrices`,
// [blocks][w00 w01 w10 w11]). All others are two planes of D values: element e of the output is
// own[e] x[e] + cross[e] x[partner of e]; cross_transposed is the plane of the transposed 2x2s.
template <typename T>
struct ButterflyFactor {
  int64_t blocks = 0;
  int64_t half = 0;  // stride between partners
  const T* matrices = nullptr;
  const T* own = nullptr;
  const T* cross = nullptr;
  const T* cross_transposed = nullptr;
};
// Shared weights are kept as 2x2s from this stride on: the widest vector of any kernel.
inline constexpr int64_t kWideStride = 16;

// Where the gradient of a factor is added up: matrices [blocks][4], or the two planes.
template <typename T>
struct ButterflyFactorGrad {
  double* matrices = nullptr;
  T* own = nullptr;
  T* cross = nullptr;
};

// The two nets of a coupling; weights row-major [out][in] as stored, and transposed (for the
// backward).
template <typename T>
struct CouplingNets {
  int64_t half = 0;  // C / 2
  int64_t hidden = 0;
  const T* weight[2][3] = {};
  const T* bias[2][3] = {};
  const T* weight_transposed[2][3] = {};
};
// Time steps that a coupling kernel handles at once; buffers are planes [neuron][kCouplingBlock].
inline constexpr int64_t kCouplingBlock = 64;
// Values of T that the coupling kernels need as scratch; parameters of one net.
constexpr int64_t CouplingParameters(int64_t half, int64_t hidden) {
  return hidden * half + hidden + hidden * hidden + hidden + half * hidden + half;
}
constexpr int64_t CouplingScratch(int64_t half, int64_t hidden) {
  return (8 * half + 4 * hidden) * kCouplingBlock + 2 * CouplingParameters(half, hidden) * 16;
}

// The net of a convolutional coupling: convolutions half -> hidden -> hidden -> 2 half of `kernel`,
// `kernel` and 1 taps, the second one dilated. Weights row-major [out][in][tap] as stored, and for
// the backward [in][out][taps in the opposite order].
template <typename T>
struct ConvolutionNet {
  int64_t half = 0;  // C / 2
  int64_t hidden = 0;
  int64_t kernel = 1;
  int64_t dilation = 1;
  const T* weight[3] = {};
  const T* bias[3] = {};
  const T* weight_transposed[3] = {};
};
constexpr int64_t ConvolutionParameters(int64_t half, int64_t hidden, int64_t kernel) {
  return hidden * (half * kernel + 1) + hidden * (hidden * kernel + 1) + 2 * half * (hidden + 1);
}
// Zeros on both sides of a plane of time steps, and the distance between planes: the steps rounded
// up to two of the widest vectors, and both margins.
constexpr int64_t ConvolutionMargin(int64_t kernel, int64_t dilation) {
  return kernel / 2 * dilation;
}
constexpr int64_t ConvolutionStride(int64_t steps, int64_t margin) {
  return (steps + 31) / 32 * 32 + 2 * margin;
}
// Values of T, all 0, that the kernels need as scratch; they leave the margins 0.
constexpr int64_t ConvolutionScratch(int64_t half, int64_t hidden, int64_t stride) {
  return (5 * half + 2 * hidden) * stride;
}
constexpr int64_t ConvolutionBackwardScratch(int64_t half, int64_t hidden, int64_t kernel,
                                             int64_t stride) {
  return (9 * half + 4 * hidden) * stride + ConvolutionParameters(half, hidden, kernel) * 16;
}

// Whitening, packed: row c of `weight` [C][(order + 1) C] predicts channel c of step t from the
// flat values of the steps t - order .. t, of which those from x[t,c] on have weight 0; value i of
// the first order C ones is predicted from all before it by row i of `head_weight` [order C][order
// C].
template <typename T>
struct WhiteningMap {
  int64_t channels = 0;
  int64_t order = 0;
  const T* weight = nullptr;
  const T* bias = nullptr;
  const T* scale = nullptr;
  const T* head_weight = nullptr;
  const T* head_bias = nullptr;
  const T* head_scale = nullptr;
};

// The net of a box layer: causal convolutions of `features` planes to `width` (`kernel` taps), then
// residual blocks (kBoxTaps dilated taps, then one), then for each channel a head of two layers on
// the width planes and 2 + 2 channel of `heads`. Weights as of ConvolutionNet, in this order: the
// first convolution, both of each block, both of each head; what is transposed of the first layer
// of a head are the weights of the width planes alone.
template <typename T>
struct BoxNet {
  int64_t features = 0;
  int64_t width = 0;
  int64_t kernel = 1;
  int64_t blocks = 0;
  int64_t channels = 0;
  int64_t outputs = 0;                 // of a head
  const int64_t* dilations = nullptr;  // [blocks]
  const int64_t* offsets = nullptr;    // of each convolution's weights among all parameters
  const T* const* weight = nullptr;
  const T* const* bias = nullptr;
  const T* const* weight_transposed = nullptr;
};
inline constexpr int64_t kBoxTaps = 3;
inline constexpr int64_t kBoxHeadInputs = 4;  // per channel and step
// Zeros before and after a plane, planes and parameters of a net; the backward keeps every
// activation.
template <typename T>
int64_t BoxMargin(const BoxNet<T>& net) {
  int64_t margin = net.kernel - 1;
  for (int64_t n = 0; n < net.blocks; ++n) {
    const int64_t reach = (kBoxTaps - 1) * net.dilations[n];
    margin = reach > margin ? reach : margin;
  }
  return margin;
}
template <typename T>
int64_t BoxPlaneCount(const BoxNet<T>& net, bool backward) {
  const int64_t streams = backward ? 2 * net.blocks + 1 : 2, grads = backward ? 3 : 0;
  return net.features + (streams + grads + 2) * net.width + 2 * net.channels + 2 * net.outputs;
}

template <typename T>
struct Kernels {
  // y = all n factors applied to each of `rows` rows; y may be x.
  void (*butterfly)(const ButterflyFactor<T>* factors, int64_t n, int64_t size, const T* x, T* y,
                    int64_t rows);
  // grad_x from grad_y; adds to grads. scratch: n * size.
  void (*butterfly_backward)(const ButterflyFactor<T>* factors, const ButterflyFactorGrad<T>* grads,
                             int64_t n, int64_t size, const T* x, const T* grad_y, T* grad_x,
                             int64_t rows, T* scratch);
  // y[t][c] = x[t][c] scale[c] + bias[c]
  void (*scale_shift)(const T* x, const T* scale, const T* bias, T* y, int64_t steps,
                      int64_t channels);
  // grad_x = grad_y scale; adds sum_t grad_y x to grad_scale and sum_t grad_y to grad_bias.
  void (*scale_shift_backward)(const T* x, const T* grad_y, const T* scale, T* grad_x,
                               double* grad_scale, double* grad_bias, int64_t steps,
                               int64_t channels);
  // y[t] = x[t] w, w [C][C]
  void (*matmul)(const T* x, const T* w, T* y, int64_t steps, int64_t channels);
  // Adds sum_t x[t]^T grad_y[t] to grad_w [C][C].
  void (*matmul_weight_grad)(const T* x, const T* grad_y, double* grad_w, int64_t steps,
                             int64_t channels);
  // One row [steps][C]. Returns its log-determinant.
  double (*coupling)(const CouplingNets<T>& nets, const T* x, T* y, int64_t steps, bool inverse,
                     T* scratch);
  // One row; adds to grad_parameters: both nets, each w0 b0 w1 b1 w2 b2.
  void (*coupling_backward)(const CouplingNets<T>& nets, const T* x, const T* grad_y,
                            T grad_log_det, T* grad_x, int64_t steps, bool inverse, T* scratch,
                            double* grad_parameters);
  // The same for a convolutional coupling, whose backward takes `rows` rows at once.
  double (*convolution_coupling)(const ConvolutionNet<T>& net, const T* x, T* y, int64_t steps,
                                 bool inverse, T* scratch);
  void (*convolution_coupling_backward)(const ConvolutionNet<T>& net, const T* x, const T* grad_y,
                                        const T* grad_log_det, T* grad_x, int64_t rows,
                                        int64_t steps, bool inverse, T* scratch,
                                        double* grad_parameters);
  // One row [steps][C] to residuals, or from residuals in the order of time; and the transposed
  // Jacobian of either applied to a row.
  void (*whiten)(const WhiteningMap<T>& map, const T* x, T* y, int64_t steps, bool inverse);
  void (*whiten_backward)(const WhiteningMap<T>& map, const T* grad_y, T* grad_x, int64_t steps,
                          bool inverse);
  // What the map predicts for value i of a row from those before it: what whiten subtracts, to the
  // bit.
  T (*whiten_predict)(const WhiteningMap<T>& map, const T* x, int64_t i);
  // One row: features [steps][F], heads [steps][C][kBoxHeadInputs] to y [steps][C][outputs]; and of
  // `rows` rows the gradient of all parameters, added to grad_parameters. scratch: all 0, planes of
  // ConvolutionStride(steps, margin) values, of the backward 16 values per parameter more; margins
  // stay 0.
  void (*box_net)(const BoxNet<T>& net, const T* features, const T* heads, T* y, int64_t steps,
                  T* scratch);
  void (*box_net_backward)(const BoxNet<T>& net, const T* features, const T* heads, const T* grad_y,
                           int64_t rows, int64_t steps, int64_t parameters, T* scratch,
                           double* grad_parameters);
  // y = tanh(x), exp(x), asinh(x) of `count` values, a multiple of 64: for the tests of the
  // approximations.
  void (*tanh)(const T* x, T* y, int64_t count);
  void (*exp)(const T* x, T* y, int64_t count);
  void (*asinh)(const T* x, T* y, int64_t count);
};

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_KERNELS_H_
