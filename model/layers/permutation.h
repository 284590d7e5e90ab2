// A fixed permutation of the whole event: out[k] = in[permutation[k]] on the flat vector (CHW of an
// image, time-major of a waveform); log-determinant 0.
#ifndef BFLOW_MODEL_LAYERS_PERMUTATION_H_
#define BFLOW_MODEL_LAYERS_PERMUTATION_H_

#include <cstdint>

#include "ATen/core/Generator.h"
#include "model/layers/bijector.h"

namespace bflow {

// Buffer: permutation I64 [D], starts as a uniform one.
class PermutationLayer : public Bijector {
 public:
  PermutationLayer(int64_t size, at::Generator& generator);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  void Freeze() override;

 private:
  at::Tensor permutation_;
  at::Tensor frozen_inverse_;  // undefined before Freeze
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_PERMUTATION_H_
