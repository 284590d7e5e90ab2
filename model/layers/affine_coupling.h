// Affine coupling per time step (Dinh et al. 2017, section 3.2): z1 = first half of the channels,
// unchanged; z2' = z2 exp(log_s(z1)) + t(z1), log_det = sum log_s. log_s and t are MLPs C/2 ->
// hidden -> hidden -> C/2 with tanh and ReLU inside and a linear last layer.
#ifndef BFLOW_MODEL_LAYERS_AFFINE_COUPLING_H_
#define BFLOW_MODEL_LAYERS_AFFINE_COUPLING_H_

#include <cstdint>
#include <vector>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: scale_net.N.{weight,bias}, shift_net.N.{weight,bias}, N = 0, 1, 2; weights start
// orthogonal, biases 0. Nothing here can be frozen: all of it depends on the data.
class AffineCouplingLayer : public Bijector {
 public:
  AffineCouplingLayer(int64_t channels, int64_t hidden, at::Generator& generator,
                      at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;

 protected:
  std::vector<at::Tensor> scale_net_, shift_net_;  // weight, bias of layers 0, 1, 2
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_AFFINE_COUPLING_H_
