// bflow::box_net and bflow::box_cells on the CPU, and the contexts of whole rows.
#include "model/ops/box.h"

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "ATen/Dispatch.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "model/ops/checks.h"
#include "model/ops/cpu/box_cell.h"
#include "model/ops/cpu/box_context.h"
#include "model/ops/cpu/box_expert.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/simd_dispatch.h"
#include "torch/library.h"

namespace bflow::cpu {
namespace {

// The net's tensors as the kernels take them; keeps them alive.
template <typename T>
class HeldBoxNet {
 public:
  HeldBoxNet(const at::Tensor& features, const at::Tensor& heads, at::TensorList tensors,
             at::IntArrayRef dilations)
      : dilations_(dilations.begin(), dilations.end()) {
    net.features = features.size(2);
    net.width = tensors[0].size(0);
    net.kernel = tensors[0].size(2);
    net.blocks = static_cast<int64_t>(dilations.size());
    net.channels = heads.size(2);
    net.outputs = kBoxOutputs;
    const size_t first_head = 1 + 2 * dilations.size();
    for (size_t i = 0; 2 * i < tensors.size(); ++i) {
      const at::Tensor& w = tensors[2 * i];
      const bool shared = i < first_head || (i - first_head) % 2 == 1;
      weight_.push_back(Hold(w));
      bias_.push_back(Hold(tensors[2 * i + 1]));
      transposed_.push_back(Hold((shared ? w : w.narrow(1, 0, net.width)).transpose(0, 1).flip(2)));
      offsets_.push_back(parameters);
      parameters += w.numel() + w.size(0);
    }
    net.dilations = dilations_.data();
    net.offsets = offsets_.data();
    net.weight = weight_.data();
    net.bias = bias_.data();
    net.weight_transposed = transposed_.data();
    stride = ConvolutionStride(features.size(1), BoxMargin(net));
  }
  HeldBoxNet(const HeldBoxNet&) = delete;

  BoxNet<T> net;
  int64_t parameters = 0, stride = 0;

 private:
  const T* Hold(const at::Tensor& tensor) {
    return held_.emplace_back(tensor.detach().contiguous()).template const_data_ptr<T>();
  }
  std::vector<at::Tensor> held_;
  std::vector<int64_t> dilations_, offsets_;
  std::vector<const T*> weight_, bias_, transposed_;
};

at::Tensor BoxNetCpu(const at::Tensor& features, const at::Tensor& heads, at::TensorList net,
                     at::IntArrayRef dilations) {
  CheckBoxNet(features, heads, net, dilations);
  const at::Tensor f = features.contiguous(), h = heads.contiguous();
  const int64_t rows = f.size(0), steps = f.size(1), channels = h.size(2);
  at::Tensor y = at::empty({rows, steps, channels, kBoxOutputs}, f.options());
  AT_DISPATCH_FLOATING_TYPES(f.scalar_type(), "bflow::box_net", [&] {
    const HeldBoxNet<scalar_t> held(f, h, net, dilations);
    const scalar_t *from = f.const_data_ptr<scalar_t>(), *more = h.const_data_ptr<scalar_t>();
    scalar_t* to = y.data_ptr<scalar_t>();
    const auto kernel = CurrentKernels<scalar_t>().box_net;
    ForRows(rows, steps * held.parameters, [&](int64_t begin, int64_t end) {
      std::vector<scalar_t> scratch(BoxPlaneCount(held.net, false) * held.stride);
      for (int64_t r = begin; r < end; ++r) {
        kernel(held.net, from + r * steps * f.size(2), more + r * steps * channels * kBoxHeadInputs,
               to + r * steps * channels * kBoxOutputs, steps, scratch.data());
      }
    });
  });
  return y;
}

std::vector<at::Tensor> BoxNetBackwardCpu(const at::Tensor& features, const at::Tensor& heads,
                                          at::TensorList net, at::IntArrayRef dilations,
                                          const at::Tensor& grad_y) {
  CheckBoxNet(features, heads, net, dilations);
  const at::Tensor f = features.contiguous(), h = heads.contiguous(), g = grad_y.contiguous();
  const int64_t rows = f.size(0), steps = f.size(1), channels = h.size(2);
  std::vector<at::Tensor> grads;
  AT_DISPATCH_FLOATING_TYPES(f.scalar_type(), "bflow::box_net_backward", [&] {
    const HeldBoxNet<scalar_t> held(f, h, net, dilations);
    const scalar_t *from = f.const_data_ptr<scalar_t>(), *more = h.const_data_ptr<scalar_t>();
    const scalar_t* grad = g.const_data_ptr<scalar_t>();
    const Chunks chunks(rows);
    std::vector<double> sums(chunks.count() * held.parameters);
    const auto kernel = CurrentKernels<scalar_t>().box_net_backward;
    chunks.Run([&](int64_t chunk, int64_t first, int64_t count) {
      std::vector<scalar_t> scratch(BoxPlaneCount(held.net, true) * held.stride +
                                    16 * held.parameters);
      kernel(held.net, from + first * steps * f.size(2),
             more + first * steps * channels * kBoxHeadInputs,
             grad + first * steps * channels * kBoxOutputs, count, steps, held.parameters,
             scratch.data(), sums.data() + chunk * held.parameters);
    });
    const std::vector<double> total = SumChunks(sums, chunks.count(), held.parameters);
    const double* next = total.data();
    for (const at::Tensor& tensor : net) {
      grads.push_back(Rounded<scalar_t>(next, tensor));
      next += tensor.numel();
    }
  });
  return grads;
}

constexpr int64_t kCellCost = 1000;  // of a cell, in multiply-adds

std::tuple<at::Tensor, at::Tensor, at::Tensor> BoxCellsCpu(const at::Tensor& raw,
                                                           const at::Tensor& frame,
                                                           const at::Tensor& u) {
  CheckBoxCells(raw, frame, u);
  const at::Tensor r = raw.contiguous(), f = frame.contiguous(), offset = u.contiguous();
  at::Tensor z = at::empty_like(offset), log_det = at::empty({u.size(0)}, u.options());
  at::Tensor share = at::zeros_like(offset);
  const int64_t channels = u.size(2), size = u.size(1) * channels, width = frame.size(3);
  const bool adaptive = width == kAdaptiveBoxFrame;
  const double *raws = r.const_data_ptr<double>(), *frames = f.const_data_ptr<double>();
  const double* offsets = offset.const_data_ptr<double>();
  double *to = z.data_ptr<double>(), *log_dets = log_det.data_ptr<double>();
  double* shares = share.data_ptr<double>();
  ForRows(u.size(0), size * kCellCost, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      double sum = 0;
      std::vector<ExpertShare> experts(static_cast<size_t>(adaptive ? channels : 0));
      for (int64_t i = row * size; i < (row + 1) * size; ++i) {
        ExpertShare* const expert =
            adaptive ? &experts[static_cast<size_t>(i % channels)] : nullptr;
        if (adaptive) shares[i] = expert->value();
        const double* const own = frames + i * width;
        const BoxCell cell(BoxMixture(raws + i * kBoxOutputs, own, shares[i]), own[0]);
        if (adaptive) expert->Update(cell.expert_posterior);
        const BoxLatent latent(cell, offsets[i]);
        to[i] = latent.z();
        sum += cell.inside - latent.log_y - latent.log_rest;
      }
      log_dets[row] = sum;
    }
  });
  return {z, log_det, share};
}

// Gradients of one value's z and log_det = log P - log y - log(1 - y), and of the expert's
// posterior.
struct CellGradients {
  double z, log_det, posterior;
};

// The gradient of raw [kBoxOutputs] and, returned, those of u and of the expert's share. Each sum's
// terms have their shares of its gradient.
struct InputGradients {
  double u, share;
};
InputGradients CellBackward(const double* raw, const double* frame, double u, double share,
                            const CellGradients& of, double* grad) {
  const BoxMixture m(raw, frame, share);
  const BoxCell cell(m, frame[0]);
  const BoxLatent latent(cell, u);
  const double of_y = of.z - of.log_det, of_rest = -of.z - of.log_det;
  double of_net = 0, of_expert = 0;  // of the logarithms of their weights
  for (int64_t k = 0; k < m.count; ++k) {
    const bool by_net = k < kBoxComponents;
    const double below = of_y * std::exp(cell.below_terms[k] - latent.log_y);
    const double above = of_rest * std::exp(cell.above_terms[k] - latent.log_rest);
    const double term = cell.inside_terms[k];
    const double inside = std::exp(term - cell.inside) *
                              (of.log_det + of.posterior * (!by_net - cell.expert_posterior)) +
                          of_y * u * std::exp(term - latent.log_y) +
                          of_rest * (1 - u) * std::exp(term - latent.log_rest);
    const double of_weight = below + above + inside;
    (by_net ? of_net : of_expert) += of_weight;
    if (!by_net) continue;  // the rest of an expert is fixed by the codes
    const double at_low = Sigmoid(cell.low[k]), at_high = Sigmoid(cell.high[k]);
    const double low = below * Sigmoid(-cell.low[k]) - inside * at_low;
    const double high = inside * Sigmoid(-cell.high[k]) - above * at_high;
    const double rate = inside / std::expm1(m.rate[k]);
    grad[k] = of_weight;  // until the softmax below
    grad[kBoxComponents + k] = -(low + high) * m.rate[k] * kBoxShift * m.base[k];
    grad[2 * kBoxComponents + k] = -(m.rate[k] * rate + low * cell.low[k] + high * cell.high[k]) *
                                   kBoxLogScale / 2 * (1 - m.squashed[k] * m.squashed[k]);
  }
  for (int64_t k = 0; k < kBoxComponents; ++k) {
    grad[k] -= std::exp(m.log_weight[k]) / (1 - share) * of_net;
  }
  return {of_y * std::exp(cell.inside - latent.log_y) -
              of_rest * std::exp(cell.inside - latent.log_rest),
          share > 0 ? of_expert / share - of_net / (1 - share) : 0};
}

std::tuple<at::Tensor, at::Tensor> BoxCellsBackwardCpu(const at::Tensor& raw,
                                                       const at::Tensor& frame, const at::Tensor& u,
                                                       const at::Tensor& share,
                                                       const at::Tensor& grad_z,
                                                       const at::Tensor& grad_log_det) {
  CheckBoxCells(raw, frame, u);
  const at::Tensor r = raw.contiguous(), f = frame.contiguous(), offset = u.contiguous();
  const at::Tensor of_z = grad_z.contiguous(), of_log_det = grad_log_det.contiguous();
  at::Tensor grad_raw = at::empty_like(r), grad_u = at::empty_like(offset);
  const at::Tensor held_share = share.contiguous();
  const int64_t channels = u.size(2), size = u.size(1) * channels, width = frame.size(3);
  const double *raws = r.const_data_ptr<double>(), *frames = f.const_data_ptr<double>();
  const double* offsets = offset.const_data_ptr<double>();
  const double* shares = held_share.const_data_ptr<double>();
  const double* grads = of_z.const_data_ptr<double>();
  const double* log_dets = of_log_det.const_data_ptr<double>();
  double *to = grad_raw.data_ptr<double>(), *to_u = grad_u.data_ptr<double>();
  ForRows(u.size(0), size * kCellCost, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      // Backwards: a value's posterior is its channel's next share.
      std::vector<double> of_posterior(static_cast<size_t>(channels), 0.0);
      for (int64_t i = (row + 1) * size - 1; i >= row * size; --i) {
        double& posterior = of_posterior[static_cast<size_t>(i % channels)];
        const InputGradients of =
            CellBackward(raws + i * kBoxOutputs, frames + i * width, offsets[i], shares[i],
                         {grads[i], log_dets[row], posterior}, to + i * kBoxOutputs);
        to_u[i] = of.u;
        posterior = (1 - ExpertShare::kSwitching) * of.share;
      }
    }
  });
  return {grad_raw, grad_u};
}

}  // namespace

TORCH_LIBRARY_IMPL(bflow, CPU, m) {
  m.impl("box_net", BoxNetCpu);
  m.impl("box_net_backward", BoxNetBackwardCpu);
  m.impl("box_cells", BoxCellsCpu);
  m.impl("box_cells_backward", BoxCellsBackwardCpu);
}

}  // namespace bflow::cpu

namespace bflow {

BoxContext MakeBoxContext(const at::Tensor& codes, const BoxFit& fit) {
  CheckWhitening(codes, fit.map);
  const cpu::BoxContextMap context(fit);
  const at::Tensor values = (codes.detach() + 0.5).contiguous();
  const int64_t rows = codes.size(0), steps = codes.size(1), channels = codes.size(2);
  const int64_t size = steps * channels, features = context.features(), width = context.frame();
  BoxContext made = {at::zeros({rows, steps, features}, codes.options()),
                     at::empty({rows, steps, channels, 4}, codes.options()),
                     at::empty({rows, steps, channels, width}, codes.options())};
  const double* from = values.const_data_ptr<double>();
  double *to = made.features.data_ptr<double>(), *heads = made.heads.data_ptr<double>();
  double* frames = made.frame.data_ptr<double>();
  cpu::ForRows(rows, size * 500, [&](int64_t begin, int64_t end) {
    cpu::BoxContextMap::Row learned(context);
    for (int64_t r = begin; r < end; ++r) {
      const double* row = from + r * size;
      double *head = heads + r * size * 4, *frame = frames + r * size * width;
      learned.Clear();
      for (int64_t i = 0; i < size; ++i) {
        context.Before(row, i, frame + width * i, head + 4 * i, &learned);
        context.After(row, i, frame + width * i, head + 4 * i, &learned);
      }
      for (int64_t t = 0; t + 1 < steps; ++t) {
        context.Features(row, head + 4 * t * channels, t, to + (r * steps + t + 1) * features);
      }
    }
  });
  return made;
}

}  // namespace bflow
