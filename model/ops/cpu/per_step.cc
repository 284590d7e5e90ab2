// bflow::act_norm and bflow::lu_matmul on the CPU.
#include <cmath>
#include <tuple>
#include <vector>

#include "ATen/Dispatch.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty_like.h"
#include "model/ops/checks.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/simd_dispatch.h"
#include "model/ops/lu_matmul.h"
#include "torch/library.h"

namespace bflow {
namespace {

std::vector<double> ToDouble(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.detach().to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

// W = P L U and the factors it came from, float64, row-major.
struct LuFactors {
  std::vector<double> lower, upper, weight;
  std::vector<int64_t> permutation;
};

LuFactors MakeLu(const at::Tensor& lower, const at::Tensor& upper, const at::Tensor& log_diagonal,
                 const at::Tensor& diagonal_sign, const at::Tensor& permutation) {
  const int64_t c = lower.size(0);
  LuFactors f{ToDouble(lower), ToDouble(upper), std::vector<double>(c * c), {}};
  const std::vector<double> log_d = ToDouble(log_diagonal), sign = ToDouble(diagonal_sign);
  const at::Tensor perm = permutation.contiguous();
  f.permutation.assign(perm.const_data_ptr<int64_t>(), perm.const_data_ptr<int64_t>() + c);
  for (int64_t i = 0; i < c; ++i) {
    TORCH_CHECK(f.permutation[i] >= 0 && f.permutation[i] < c,
                "lu_matmul: permutation has an entry outside [0, C)");
    for (int64_t j = 0; j < c; ++j) {
      if (j >= i) f.lower[i * c + j] = j == i;
      if (j <= i) f.upper[i * c + j] = j == i ? sign[i] * std::exp(log_d[i]) : 0;
    }
  }
  for (int64_t i = 0; i < c; ++i) {
    const int64_t row = f.permutation[i];
    for (int64_t j = 0; j < c; ++j) {
      double sum = 0;
      for (int64_t k = 0; k <= std::min(row, j); ++k) {
        sum += f.lower[row * c + k] * f.upper[k * c + j];
      }
      f.weight[i * c + j] = sum;
    }
  }
  return f;
}

double Sum(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

template <typename T>
std::vector<T> Round(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

// exp(log_scale) rounded once.
template <typename T>
std::vector<T> Scales(const at::Tensor& log_scale) {
  std::vector<double> scale = ToDouble(log_scale);
  for (double& s : scale) s = std::exp(s);
  return Round<T>(scale);
}

template <typename T>
std::tuple<at::Tensor, at::Tensor> ActNormForward(const at::Tensor& x, const at::Tensor& log_scale,
                                                  const at::Tensor& bias) {
  const int64_t steps = x.size(1), channels = x.size(2), row = steps * channels;
  const std::vector<T> scale = Scales<T>(log_scale);
  at::Tensor y = at::empty_like(x);
  const T* from = x.const_data_ptr<T>();
  const T* shift = bias.const_data_ptr<T>();
  T* to = y.data_ptr<T>();
  const auto kernel = cpu::CurrentKernels<T>().scale_shift;
  cpu::ForRows(x.size(0), row, [&](int64_t begin, int64_t end) {
    kernel(from + begin * row, scale.data(), shift, to + begin * row, (end - begin) * steps,
           channels);
  });
  return {y, cpu::Scalar<T>(Sum(ToDouble(log_scale)) * static_cast<double>(steps), x)};
}

template <typename T>
std::tuple<at::Tensor, at::Tensor, at::Tensor> ActNormGradient(const at::Tensor& x,
                                                               const at::Tensor& log_scale,
                                                               const at::Tensor& grad_y,
                                                               double grad_log_det) {
  const int64_t steps = x.size(1), channels = x.size(2), row = steps * channels;
  const std::vector<T> scale = Scales<T>(log_scale);
  at::Tensor grad_x = at::empty_like(x);
  const T* from = x.const_data_ptr<T>();
  const T* grad_from = grad_y.const_data_ptr<T>();
  T* to = grad_x.data_ptr<T>();
  const cpu::Chunks chunks(x.size(0));
  std::vector<double> sums(chunks.count() * 2 * channels);  // per chunk: scale, bias
  const auto kernel = cpu::CurrentKernels<T>().scale_shift_backward;
  chunks.Run([&](int64_t chunk, int64_t first, int64_t count) {
    double* sum = sums.data() + chunk * 2 * channels;
    for (int64_t r = first; r < first + count; ++r) {
      kernel(from + r * row, grad_from + r * row, scale.data(), to + r * row, sum, sum + channels,
             steps, channels);
    }
  });
  std::vector<double> total = cpu::SumChunks(sums, chunks.count(), 2 * channels);
  const std::vector<double> log_scales = ToDouble(log_scale);
  for (int64_t c = 0; c < channels; ++c) {
    total[c] = total[c] * std::exp(log_scales[c]) + grad_log_det * static_cast<double>(steps);
  }
  return {grad_x, cpu::Rounded<T>(total.data(), log_scale),
          cpu::Rounded<T>(total.data() + channels, log_scale)};
}

template <typename T>
void MatmulRows(const at::Tensor& x, const std::vector<double>& weight, const at::Tensor& y) {
  const int64_t steps = x.size(1), channels = x.size(2), row = steps * channels;
  const std::vector<T> w = Round<T>(weight);
  const T* from = x.const_data_ptr<T>();
  T* to = y.data_ptr<T>();
  const auto kernel = cpu::CurrentKernels<T>().matmul;
  // Row by row, so that a row's vectors start at its first step whatever the batch.
  cpu::ForRows(x.size(0), row * channels, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      kernel(from + r * row, w.data(), to + r * row, steps, channels);
    }
  });
}

template <typename T>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> LuGradient(
    const at::Tensor& x, const LuFactors& f, const at::Tensor& like_matrix,
    const at::Tensor& log_diagonal, const at::Tensor& grad_y, double grad_log_det) {
  const int64_t steps = x.size(1), c = x.size(2), row = steps * c;
  std::vector<double> transposed(c * c);
  for (int64_t i = 0; i < c; ++i) {
    for (int64_t j = 0; j < c; ++j) transposed[j * c + i] = f.weight[i * c + j];
  }
  at::Tensor grad_x = at::empty_like(x);
  MatmulRows<T>(grad_y, transposed, grad_x);

  const T* from = x.const_data_ptr<T>();
  const T* grad_from = grad_y.const_data_ptr<T>();
  const cpu::Chunks chunks(x.size(0));
  std::vector<double> sums(chunks.count() * c * c);
  const auto kernel = cpu::CurrentKernels<T>().matmul_weight_grad;
  chunks.Run([&](int64_t chunk, int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      kernel(from + r * row, grad_from + r * row, sums.data() + chunk * c * c, steps, c);
    }
  });
  const std::vector<double> grad_w = cpu::SumChunks(sums, chunks.count(), c * c);
  // W = P A, A = L U: dA[permutation[i]] += dW[i]; dL = dA U^T, dU = L^T dA.
  std::vector<double> grad_a(c * c), grad_lower(c * c), grad_upper(c * c), grad_log(c);
  for (int64_t i = 0; i < c; ++i) {
    for (int64_t j = 0; j < c; ++j) grad_a[f.permutation[i] * c + j] += grad_w[i * c + j];
  }
  for (int64_t i = 0; i < c; ++i) {
    for (int64_t j = 0; j < c; ++j) {
      double lower_sum = 0, upper_sum = 0;
      for (int64_t k = 0; k < c; ++k) {
        lower_sum += grad_a[i * c + k] * f.upper[j * c + k];
        upper_sum += f.lower[k * c + i] * grad_a[k * c + j];
      }
      if (j < i) grad_lower[i * c + j] = lower_sum;
      if (j > i) grad_upper[i * c + j] = upper_sum;
      if (j == i) {
        grad_log[i] = upper_sum * f.upper[i * c + i] + grad_log_det * static_cast<double>(steps);
      }
    }
  }
  return {grad_x, cpu::Rounded<T>(grad_lower.data(), like_matrix),
          cpu::Rounded<T>(grad_upper.data(), like_matrix),
          cpu::Rounded<T>(grad_log.data(), log_diagonal)};
}

std::tuple<at::Tensor, at::Tensor> ActNormCpu(const at::Tensor& x, const at::Tensor& log_scale,
                                              const at::Tensor& bias) {
  CheckActNorm(x, log_scale);
  CheckChannelVector("act_norm", "bias", x, bias);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::act_norm", [&] {
    return ActNormForward<scalar_t>(x.contiguous(), log_scale, bias.contiguous());
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ActNormBackwardCpu(const at::Tensor& x,
                                                                  const at::Tensor& log_scale,
                                                                  const at::Tensor& grad_y,
                                                                  const at::Tensor& grad_log_det) {
  CheckActNorm(x, log_scale);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::act_norm_backward", [&] {
    return ActNormGradient<scalar_t>(x.contiguous(), log_scale, grad_y.contiguous(),
                                     grad_log_det.item<double>());
  });
}

std::tuple<at::Tensor, at::Tensor> LuMatmulCpu(const at::Tensor& x, const at::Tensor& lower,
                                               const at::Tensor& upper,
                                               const at::Tensor& log_diagonal,
                                               const at::Tensor& diagonal_sign,
                                               const at::Tensor& permutation) {
  CheckLu(x, lower, upper, log_diagonal, diagonal_sign, permutation);
  const LuFactors f = MakeLu(lower, upper, log_diagonal, diagonal_sign, permutation);
  const at::Tensor in = x.contiguous();
  at::Tensor y = at::empty_like(in);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::lu_matmul", [&] {
    MatmulRows<scalar_t>(in, f.weight, y);
    const double log_det = Sum(ToDouble(log_diagonal)) * static_cast<double>(x.size(1));
    return std::make_tuple(y, cpu::Scalar<scalar_t>(log_det, x));
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> LuMatmulBackwardCpu(
    const at::Tensor& x, const at::Tensor& lower, const at::Tensor& upper,
    const at::Tensor& log_diagonal, const at::Tensor& diagonal_sign, const at::Tensor& permutation,
    const at::Tensor& grad_y, const at::Tensor& grad_log_det) {
  CheckLu(x, lower, upper, log_diagonal, diagonal_sign, permutation);
  const LuFactors f = MakeLu(lower, upper, log_diagonal, diagonal_sign, permutation);
  return AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bflow::lu_matmul_backward", [&] {
    return LuGradient<scalar_t>(x.contiguous(), f, lower, log_diagonal, grad_y.contiguous(),
                                grad_log_det.item<double>());
  });
}

}  // namespace

at::Tensor LuWeight(const at::Tensor& lower, const at::Tensor& upper,
                    const at::Tensor& log_diagonal, const at::Tensor& diagonal_sign,
                    const at::Tensor& permutation) {
  const LuFactors f = MakeLu(lower, upper, log_diagonal, diagonal_sign, permutation);
  at::Tensor w = at::empty(lower.sizes(), at::kDouble);
  std::copy(f.weight.begin(), f.weight.end(), w.data_ptr<double>());
  return w;
}

TORCH_LIBRARY_IMPL(bflow, CPU, m) {
  m.impl("act_norm", ActNormCpu);
  m.impl("act_norm_backward", ActNormBackwardCpu);
  m.impl("lu_matmul", LuMatmulCpu);
  m.impl("lu_matmul_backward", LuMatmulBackwardCpu);
}

}  // namespace bflow
