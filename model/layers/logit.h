// The logit transform of values in [-1, 1] (Dinh et al. 2017, section 4.1): q = a + (1 - 2a) (x +
// 1) / 2 with a = 1e-6, y = log q - log(1 - q); log_det = sum log((1 - 2a) / 2) - log q - log(1 -
// q). Outside [-1, 1] it is not finite. No parameters.
#ifndef BFLOW_MODEL_LAYERS_LOGIT_H_
#define BFLOW_MODEL_LAYERS_LOGIT_H_

#include "model/layers/bijector.h"

namespace bflow {

class LogitLayer : public Bijector {
 public:
  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_LOGIT_H_
