// ActNorm (Kingma and Dhariwal 2018, section 3.1): y = x exp(log_scale) + bias per channel, at
// every time step of a waveform or position of an image; log_det = positions sum(log_scale).
#ifndef BFLOW_MODEL_LAYERS_ACT_NORM_H_
#define BFLOW_MODEL_LAYERS_ACT_NORM_H_

#include <cstdint>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: log_scale [C], starts as N(0, 0.05^2); bias [C], starts as 0.
class ActNormLayer : public Bijector {
 public:
  // Of waveforms [B, T, C], or of images [B, C, H, W].
  ActNormLayer(int64_t channels, bool is_image, at::Generator& generator, at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  // With m and s the mean and the unbiased standard deviation of the output over batch and
  // positions: log_scale += -log(s + 1e-6), bias = (bias - m) / (s + 1e-6).
  // After StartNearIdentity robustly instead: m the median over the batch of the medians over
  // positions, s = 1.25 mean |output - m|, without the 1e-6 (s is at least 1e-6).
  void InitialiseFrom(const at::Tensor& x) override;
  void StartNearIdentity(int64_t block) override;
  void Freeze() override;

 protected:
  // A value per channel in the shape that broadcasts over x.
  at::Tensor PerChannel(const at::Tensor& values) const;
  int64_t Positions(const at::Tensor& x) const;

  bool is_image_;
  bool robust_ = false;  // StartNearIdentity was called
  at::Tensor log_scale_;
  at::Tensor bias_;
  at::Tensor frozen_log_det_;  // float64 scalar, per position; undefined before Freeze
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_ACT_NORM_H_
