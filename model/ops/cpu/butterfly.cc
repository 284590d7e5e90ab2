// bflow::butterfly on the CPU: packs the factors, then runs rows through the kernels.
#include <cmath>
#include <tuple>
#include <vector>

#include "ATen/Dispatch.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty_like.h"
#include "model/ops/checks.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/simd_dispatch.h"
#include "torch/library.h"

namespace bflow::cpu {
namespace {

// The factors as the kernels take them; owns the packed planes.
template <typename T>
class PackedFactors {
 public:
  PackedFactors(at::TensorList factors, int64_t size) {
    tensors_.reserve(factors.size());
    planes_.reserve(factors.size());
    for (const at::Tensor& tensor : factors) {
      const at::Tensor& w = tensors_.emplace_back(tensor.contiguous());
      ButterflyFactor<T>& factor = factors_.emplace_back();
      std::vector<T>& planes = planes_.emplace_back();
      factor.blocks = w.size(0);
      factor.half = size / (2 * factor.blocks);
      const int64_t stored = w.size(2);
      if (stored == 1 && factor.half >= kWideStride) {
        factor.matrices = w.const_data_ptr<T>();
        continue;
      }
      planes.resize(3 * size);
      Fill(w.const_data_ptr<T>(), stored, factor, size, planes.data());
      factor.own = planes.data();
      factor.cross = factor.own + size;
      factor.cross_transposed = factor.cross + size;
    }
  }
  const ButterflyFactor<T>* data() const { return factors_.data(); }
  const ButterflyFactor<T>& operator[](size_t i) const { return factors_[i]; }
  const at::Tensor& tensor(size_t i) const { return tensors_[i]; }
  int64_t size() const { return static_cast<int64_t>(factors_.size()); }

 private:
  static void Fill(const T* w, int64_t stored, const ButterflyFactor<T>& factor, int64_t size,
                   T* planes) {
    for (int64_t b = 0; b < factor.blocks; ++b) {
      for (int64_t o = 0; o < 2; ++o) {
        const int64_t begin = (2 * b + o) * factor.half;
        for (int64_t j = 0; j < factor.half; ++j) {
          const int64_t s = stored == 1 ? 0 : j;
          // w[b][h][s][o]
          const auto at = [&](int64_t h, int64_t out) {
            return w[((2 * b + h) * stored + s) * 2 + out];
          };
          planes[begin + j] = at(o, o);
          planes[size + begin + j] = at(1 - o, o);
          planes[2 * size + begin + j] = at(o, 1 - o);
        }
      }
    }
  }

  std::vector<at::Tensor> tensors_;
  std::vector<std::vector<T>> planes_;
  std::vector<ButterflyFactor<T>> factors_;
};

// The four entries of 2x2 number s of block b: w00, w01, w10, w11 at these places of a factor.
struct Places {
  Places(int64_t b, int64_t stored, int64_t s)
      : w00((2 * b * stored + s) * 2),
        w01(w00 + 1),
        w10(((2 * b + 1) * stored + s) * 2),
        w11(w10 + 1) {}
  int64_t w00, w01, w10, w11;
};

template <typename T>
double LogDet(const PackedFactors<T>& factors) {
  double log_det = 0;
  for (int64_t f = 0; f < factors.size(); ++f) {
    const T* w = factors.tensor(f).template const_data_ptr<T>();
    const int64_t stored = factors.tensor(f).size(2);
    double sum = 0;
    for (int64_t b = 0; b < factors[f].blocks; ++b) {
      for (int64_t s = 0; s < stored; ++s) {
        const Places p(b, stored, s);
        sum += std::log(std::abs(static_cast<double>(w[p.w00]) * w[p.w11] -
                                 static_cast<double>(w[p.w10]) * w[p.w01]));
      }
    }
    log_det += sum * static_cast<double>(factors[f].half / stored);
  }
  return log_det;
}

template <typename T>
std::tuple<at::Tensor, at::Tensor> Forward(const at::Tensor& x, at::TensorList factors) {
  const int64_t rows = x.size(0), size = x.size(1);
  const PackedFactors<T> packed(factors, size);
  at::Tensor y = at::empty_like(x);
  const T* from = x.const_data_ptr<T>();
  T* to = y.data_ptr<T>();
  const auto kernel = CurrentKernels<T>().butterfly;
  ForRows(rows, size * packed.size(), [&](int64_t begin, int64_t end) {
    kernel(packed.data(), packed.size(), size, from + begin * size, to + begin * size, end - begin);
  });
  return {y, Scalar<T>(LogDet(packed), x)};
}

// Partial sums of the factors' gradients: per chunk, 2x2s in float64 and planes in T.
template <typename T>
struct FactorSums {
  FactorSums(const PackedFactors<T>& factors, int64_t size, int64_t chunks) {
    for (int64_t f = 0; f < factors.size(); ++f) {
      const bool matrices = factors[f].matrices != nullptr;
      offset.push_back(matrices ? matrix_size : plane_size);
      (matrices ? matrix_size : plane_size) += matrices ? 4 * factors[f].blocks : 2 * size;
    }
    matrix_sums.resize(chunks * matrix_size);
    plane_sums.resize(chunks * plane_size);
  }
  int64_t matrix_size = 0, plane_size = 0;
  std::vector<int64_t> offset;
  std::vector<double> matrix_sums;
  std::vector<T> plane_sums;
};

// dL/dw of factor f from the totals, and d log|d| / dw = (w11, -w10, -w01, w00) / d for w00, w01,
// w10, w11.
template <typename T>
at::Tensor FactorGradient(const PackedFactors<T>& factors, int64_t f, int64_t size,
                          const double* totals, double grad_log_det) {
  const at::Tensor& tensor = factors.tensor(f);
  const T* w = tensor.template const_data_ptr<T>();
  const ButterflyFactor<T>& factor = factors[f];
  const int64_t stored = tensor.size(2), half = factor.half;
  std::vector<double> grad(tensor.numel(), 0.0);
  for (int64_t b = 0; b < factor.blocks; ++b) {
    if (factor.matrices != nullptr) {
      for (int i = 0; i < 4; ++i) grad[4 * b + i] = totals[4 * b + i];
    } else {
      for (int64_t j = 0; j < half; ++j) {
        const Places p(b, stored, stored == 1 ? 0 : j);
        const int64_t e0 = 2 * b * half + j, e1 = e0 + half;
        grad[p.w00] += totals[e0];
        grad[p.w10] += totals[size + e0];
        grad[p.w01] += totals[size + e1];
        grad[p.w11] += totals[e1];
      }
    }
    for (int64_t s = 0; s < stored; ++s) {
      const Places p(b, stored, s);
      const double w00 = w[p.w00], w01 = w[p.w01], w10 = w[p.w10], w11 = w[p.w11];
      const double factor_of_d =
          grad_log_det * static_cast<double>(half / stored) / (w00 * w11 - w10 * w01);
      grad[p.w00] += factor_of_d * w11;
      grad[p.w01] -= factor_of_d * w10;
      grad[p.w10] -= factor_of_d * w01;
      grad[p.w11] += factor_of_d * w00;
    }
  }
  return Rounded<T>(grad.data(), tensor);
}

template <typename T>
std::tuple<at::Tensor, std::vector<at::Tensor>> Backward(const at::Tensor& x,
                                                         at::TensorList factors,
                                                         const at::Tensor& grad_y,
                                                         double grad_log_det) {
  const int64_t rows = x.size(0), size = x.size(1);
  const PackedFactors<T> packed(factors, size);
  const Chunks chunks(rows);
  FactorSums<T> sums(packed, size, chunks.count());
  at::Tensor grad_x = at::empty_like(x);
  const T* from = x.const_data_ptr<T>();
  const T* grad_from = grad_y.const_data_ptr<T>();
  T* to = grad_x.data_ptr<T>();
  const auto kernel = CurrentKernels<T>().butterfly_backward;
  chunks.Run([&](int64_t chunk, int64_t first, int64_t count) {
    std::vector<T> scratch(packed.size() * size);
    std::vector<ButterflyFactorGrad<T>> grads(packed.size());
    for (int64_t f = 0; f < packed.size(); ++f) {
      if (packed[f].matrices != nullptr) {
        grads[f].matrices = sums.matrix_sums.data() + chunk * sums.matrix_size + sums.offset[f];
      } else {
        grads[f].own = sums.plane_sums.data() + chunk * sums.plane_size + sums.offset[f];
        grads[f].cross = grads[f].own + size;
      }
    }
    kernel(packed.data(), grads.data(), packed.size(), size, from + first * size,
           grad_from + first * size, to + first * size, count, scratch.data());
  });
  const std::vector<double> matrices =
      SumChunks(sums.matrix_sums, chunks.count(), sums.matrix_size);
  const std::vector<double> planes = SumChunks(sums.plane_sums, chunks.count(), sums.plane_size);
  std::vector<at::Tensor> grad_factors;
  for (int64_t f = 0; f < packed.size(); ++f) {
    const double* totals =
        (packed[f].matrices != nullptr ? matrices : planes).data() + sums.offset[f];
    grad_factors.push_back(FactorGradient(packed, f, size, totals, grad_log_det));
  }
  return {grad_x, grad_factors};
}

std::tuple<at::Tensor, at::Tensor> ButterflyCpu(const at::Tensor& x, at::TensorList factors) {
  CheckButterfly(x, factors);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::butterfly",
                                    [&] { return Forward<scalar_t>(x.contiguous(), factors); });
}

std::tuple<at::Tensor, std::vector<at::Tensor>> ButterflyBackwardCpu(
    const at::Tensor& x, at::TensorList factors, const at::Tensor& grad_y,
    const at::Tensor& grad_log_det) {
  CheckButterfly(x, factors);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::butterfly_backward", [&] {
    return Backward<scalar_t>(x.contiguous(), factors, grad_y.contiguous(),
                              grad_log_det.item<double>());
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(bflow, CPU, m) {
  m.impl("butterfly", ButterflyCpu);
  m.impl("butterfly_backward", ButterflyBackwardCpu);
}

}  // namespace bflow::cpu
