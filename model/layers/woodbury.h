// Woodbury transformation of images (Lu and Huang 2020, section 3): with x as a C x HW matrix, y =
// (I + Lc Rc) x (I + Ls Rs)^T, the factors of low rank r. log_det = HW log|det(I + Rc Lc)| + C
// log|det(I + Rs Ls)| (Sylvester), determinants of r x r matrices; inverses by the Woodbury
// identity. A baseline: plain ATen, no kernel of its own.
#ifndef BFLOW_MODEL_LAYERS_WOODBURY_H_
#define BFLOW_MODEL_LAYERS_WOODBURY_H_

#include <cstdint>
#include <string>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: channel.left [C, r], channel.right [r, C], spatial.left [HW, r], spatial.right [r,
// HW], start as N(0, 0.01^2), so that the layer starts near the identity.
class WoodburyLayer : public Bijector {
 public:
  WoodburyLayer(const LevelShape& shape, int64_t rank, at::Generator& generator,
                at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;

 private:
  struct Factors {
    at::Tensor left, right;
  };
  Factors Register(const std::string& name, int64_t size, int64_t rank, at::Generator& generator,
                   at::ScalarType dtype);
  at::Tensor LogDet(const at::Tensor& x) const;

  Factors channel_, spatial_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_WOODBURY_H_
