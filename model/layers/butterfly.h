// The butterfly layer (Meng et al. 2022, section 3) on the flattened event: factors of 2x2 mixings
// at strides D/2, D/4, ..., for any D by partitions. The inverse is the same operator with inverted
// 2x2s in the opposite order, so one kernel serves density, sampling and gradients.
#ifndef BFLOW_MODEL_LAYERS_BUTTERFLY_H_
#define BFLOW_MODEL_LAYERS_BUTTERFLY_H_

#include <cstdint>
#include <vector>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"

namespace bflow {

// Parameters: factors.F (F-th factor applied) [2^level, 2, shared ? 1 : stride, 2], with partitions
// rounds.R.parts.P.factors.F. They start as rotations by uniform angles (log-determinant 0).
class ButterflyLayer : public Bijector {
 public:
  // On vectors of `size` values; x may have any shape [B, ...] of that many values per row, [B, C,
  // H, W] where the spec flattens it as HWC.
  ButterflyLayer(const ButterflySpec& spec, int64_t size, at::Generator& generator,
                 at::ScalarType dtype);
  // From the list of rounds itself; `partitioned` decides the names of the parameters.
  ButterflyLayer(const std::vector<std::vector<ButterflyPart>>& rounds, bool shared,
                 bool partitioned, at::Generator& generator, at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  // Every 2x2 is the identity.
  void StartNearIdentity(int64_t block) override;
  void Freeze() override;

 protected:
  // One butterfly on consecutive values of the vector, factors in the order of application.
  struct Part {
    int64_t size;
    std::vector<at::Tensor> factors;
    std::vector<at::Tensor> inverse_factors;  // last factor's first; empty before Freeze
    at::Tensor log_det;                       // float64 scalar; undefined before Freeze
  };
  // y and scalar log_det of one part; x: [B, size].
  virtual Transformed ApplyPart(const at::Tensor& x, const std::vector<at::Tensor>& factors) const;
  // Inverted 2x2s in the opposite order, computed in float64 and rounded once.
  static std::vector<at::Tensor> InverseFactors(const std::vector<at::Tensor>& factors);

 private:
  Transformed Apply(const at::Tensor& x, bool inverse) const;

  std::vector<std::vector<Part>> rounds_;
  ImageFlattening flatten_ = ImageFlattening::kChw;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_BUTTERFLY_H_
