// Invertible 1x1 convolution of images (Kingma and Dhariwal 2018, section 3.2) with a full weight:
// y[o] = sum_i weight[o,i] x[i] at each of the H W positions; log_det = H W log|det weight|.
#ifndef BFLOW_MODEL_LAYERS_CONV1X1_H_
#define BFLOW_MODEL_LAYERS_CONV1X1_H_

#include <cstdint>
#include <vector>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameter: weight [C, C], starts as a random orthogonal matrix.
class Conv1x1Layer : public Bijector {
 public:
  Conv1x1Layer(int64_t channels, at::Generator& generator, at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  void Freeze() override;

  // While it lives, Forward of all `layers` takes log-determinants of one batched factorisation per
  // size of weights: a factorisation of its own is a dozen launches on a GPU. Not for frozen
  // layers.
  class SharedLogDets {
   public:
    explicit SharedLogDets(const std::vector<Conv1x1Layer*>& layers);
    ~SharedLogDets();
    SharedLogDets(const SharedLogDets&) = delete;
    SharedLogDets& operator=(const SharedLogDets&) = delete;

   private:
    std::vector<Conv1x1Layer*> layers_;
  };

 protected:
  // Per position, a float64 scalar.
  at::Tensor LogDet() const;

  at::Tensor weight_;
  at::Tensor shared_log_det_;  // of SharedLogDets; undefined without one
  // Undefined before Freeze. log_det per position: float64 scalar.
  at::Tensor frozen_inverse_, frozen_log_det_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_CONV1X1_H_
