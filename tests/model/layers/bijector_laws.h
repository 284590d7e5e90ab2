// What every invertible layer and every flow must satisfy, in float64: the inverse inverts; log_det
// is slogdet of the autograd Jacobian, in both directions; gradients equal central differences; a
// row does not depend on its batch; Freeze changes nothing. Instantiate by ExpectLaws(subject, x).
#ifndef BFLOW_TESTS_MODEL_LAYERS_BIJECTOR_LAWS_H_
#define BFLOW_TESTS_MODEL_LAYERS_BIJECTOR_LAWS_H_

#include <functional>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "model/layers/bijector.h"

namespace bflow {

struct LawSubject {
  std::function<Transformed(const at::Tensor&)> forward;
  std::function<Transformed(const at::Tensor&)> inverse;
  std::function<void()> freeze;
  std::vector<std::pair<std::string, at::Tensor>> parameters;
};

LawSubject SubjectOf(Bijector& layer);

// Moves every parameter away from its structured start by noise of the given size, seeded.
void Perturb(torch::nn::Module& module, double size);

// A seeded standard normal [..] float64 tensor.
at::Tensor Gauss(at::IntArrayRef shape, uint64_t seed);

// x: [B, T, C] float64, B >= 2, few values per row. Freezes the subject.
void ExpectLaws(const LawSubject& subject, const at::Tensor& x);

}  // namespace bflow

#endif  // BFLOW_TESTS_MODEL_LAYERS_BIJECTOR_LAWS_H_
