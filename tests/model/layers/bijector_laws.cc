#include "tests/model/layers/bijector_laws.h"

#include <algorithm>
#include <cmath>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/Parallel.h"
#include "ATen/ops/linalg_slogdet.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/stack.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

using Direction = std::function<Transformed(const at::Tensor&)>;

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  const at::Tensor difference = (a.detach() - b.detach()).abs();
  EXPECT_TRUE(difference.isfinite().all().item<bool>());
  return difference.max().item<double>();
}

void ExpectInvertible(const LawSubject& subject, const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  const Transformed y = subject.forward(x);
  ASSERT_EQ(y.log_det.sizes(), at::IntArrayRef({x.size(0)}));
  const Transformed back = subject.inverse(y.value);
  EXPECT_LT(MaxDifference(back.value, x), 1e-9);
  EXPECT_LT(MaxDifference(y.log_det, -back.log_det), 1e-9);
  // and the other way round: x taken for a latent
  const Transformed data = subject.inverse(x);
  EXPECT_LT(MaxDifference(subject.forward(data.value).value, x), 1e-9);
}

// log|det dy/dx| of each row by autograd, one row of the Jacobian at a time.
at::Tensor JacobianLogDet(const Direction& direction, const at::Tensor& x) {
  std::vector<at::Tensor> log_dets;
  for (int64_t b = 0; b < x.size(0); ++b) {
    const at::Tensor row = x.narrow(0, b, 1).clone().requires_grad_(true);
    const at::Tensor y = direction(row).value.flatten();
    std::vector<at::Tensor> jacobian;
    for (int64_t i = 0; i < y.numel(); ++i) {
      const at::Tensor gradient =
          torch::autograd::grad({y[i]}, {row}, {}, /*retain_graph=*/true)[0];
      jacobian.push_back(gradient.flatten());
    }
    log_dets.push_back(std::get<1>(at::linalg_slogdet(at::stack(jacobian))));
  }
  return at::stack(log_dets);
}

void ExpectLogDetOfJacobian(const Direction& direction, const at::Tensor& x) {
  EXPECT_LT(MaxDifference(direction(x).log_det, JacobianLogDet(direction, x)), 1e-9);
}

// Gradients of a random linear functional of (value, log_det) against central differences.
void ExpectGradients(const LawSubject& subject, const Direction& direction,
                     const at::Tensor& input) {
  const at::Tensor weight = Gauss(input.sizes(), 11), log_det_weight = Gauss({input.size(0)}, 12);
  const at::Tensor x = input.clone().requires_grad_(true);
  const auto loss = [&]() {
    const Transformed y = direction(x);
    return (y.value * weight).sum() + (y.log_det * log_det_weight).sum();
  };
  std::vector<std::pair<std::string, at::Tensor>> tensors = subject.parameters;
  tensors.emplace_back("x", x);
  std::vector<at::Tensor> arguments;
  for (const auto& [name, tensor] : tensors) arguments.push_back(tensor);
  const std::vector<at::Tensor> gradients =
      torch::autograd::grad({loss()}, arguments, {}, /*retain_graph=*/false, /*create_graph=*/false,
                            /*allow_unused=*/true);

  const c10::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const at::Tensor values = arguments[t].flatten();  // a view: parameters are contiguous
    const int64_t stride = std::max<int64_t>(1, values.numel() / 12);
    for (int64_t i = 0; i < values.numel(); i += stride) {
      at::Tensor entry = values[i];
      const double centre = entry.item<double>();
      entry.fill_(centre + kStep);
      const double above = loss().item<double>();
      entry.fill_(centre - kStep);
      const double below = loss().item<double>();
      entry.fill_(centre);
      const double numeric = (above - below) / (2 * kStep);
      const double analytic = gradients[t].defined() ? gradients[t].flatten()[i].item<double>() : 0;
      EXPECT_NEAR(analytic, numeric, 2e-7 * std::max(1.0, std::fabs(numeric)) + 2e-7)
          << tensors[t].first << " entry " << i;
    }
  }
}

void ExpectRowIndependence(const Direction& direction, const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  const Transformed all = direction(x);
  for (int64_t b = 0; b < x.size(0); ++b) {
    const Transformed alone = direction(x.narrow(0, b, 1));
    EXPECT_LT(MaxDifference(alone.value[0], all.value[b]), 1e-12);
    EXPECT_LT(MaxDifference(alone.log_det[0], all.log_det[b]), 1e-12);
  }
}

void ExpectFreezeChangesNothing(const LawSubject& subject, const at::Tensor& x) {
  const c10::NoGradGuard no_grad;
  const Transformed forward = subject.forward(x), inverse = subject.inverse(x);
  subject.freeze();
  const Transformed frozen_forward = subject.forward(x), frozen_inverse = subject.inverse(x);
  EXPECT_LT(MaxDifference(frozen_forward.value, forward.value), 1e-11);
  EXPECT_LT(MaxDifference(frozen_forward.log_det, forward.log_det), 1e-11);
  EXPECT_LT(MaxDifference(frozen_inverse.value, inverse.value), 1e-11);
  EXPECT_LT(MaxDifference(frozen_inverse.log_det, inverse.log_det), 1e-11);
}

}  // namespace

LawSubject SubjectOf(Bijector& layer) {
  LawSubject subject = {[&layer](const at::Tensor& x) { return layer.Forward(x); },
                        [&layer](const at::Tensor& z) { return layer.Inverse(z); },
                        [&layer] { layer.Freeze(); },
                        {}};
  for (const auto& item : layer.named_parameters()) {
    subject.parameters.emplace_back(item.key(), item.value());
  }
  return subject;
}

at::Tensor Gauss(at::IntArrayRef shape, uint64_t seed) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(shape, generator, at::kDouble);
}

void Perturb(torch::nn::Module& module, double size) {
  const c10::NoGradGuard no_grad;
  uint64_t seed = 100;
  for (at::Tensor& parameter : module.parameters()) {
    parameter.add_(Gauss(parameter.sizes(), seed++) * size);
  }
}

void ExpectLaws(const LawSubject& subject, const at::Tensor& x) {
  at::set_num_threads(1);  // tensors are tiny: threads would only wait for each other
  ExpectInvertible(subject, x);
  for (const Direction& direction : {subject.forward, subject.inverse}) {
    ExpectLogDetOfJacobian(direction, x);
    ExpectGradients(subject, direction, x);
    ExpectRowIndependence(direction, x);
  }
  ExpectFreezeChangesNothing(subject, x);
  // As served: the laws hold with the frozen constants, and gradients reach x.
  ExpectInvertible(subject, x);
  ExpectLogDetOfJacobian(subject.forward, x);
  ExpectLogDetOfJacobian(subject.inverse, x);
}

}  // namespace bflow
