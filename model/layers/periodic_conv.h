// Periodic convolution of images (Hoogeboom, van den Berg and Welling 2019, section 4; Karami et
// al. 2019): a k x k convolution on the torus. In Fourier space it is a C x C matrix per frequency,
// so log_det = sum over the H W frequencies of log|det|, and the inverse solves frequency by
// frequency. A baseline: plain ATen, no kernel of its own.
#ifndef BFLOW_MODEL_LAYERS_PERIODIC_CONV_H_
#define BFLOW_MODEL_LAYERS_PERIODIC_CONV_H_

#include <cstdint>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameter: weight [C, C, k, k], starts as the identity at its centre plus N(0, 0.01^2).
class PeriodicConvLayer : public Bijector {
 public:
  PeriodicConvLayer(const LevelShape& shape, int64_t kernel, at::Generator& generator,
                    at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  void Freeze() override;

 private:
  // The matrix of every frequency, [H, W, C, C] complex128.
  at::Tensor Spectrum() const;
  at::Tensor LogDet() const;

  int64_t kernel_, height_, width_;
  at::Tensor weight_;
  at::Tensor frozen_log_det_;  // float64 scalar; undefined before Freeze
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_PERIODIC_CONV_H_
