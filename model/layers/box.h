// A density over codes as a layer (docs/math.md, "Box layer"): a causal net gives each code v its
// probability P(v) from the codes before it, as the difference of the CDF F of a mixture of five
// logistic distributions; inside the code's cell the density is constant. So
//   y = F(v) + u P(v),   z = log y - log(1 - y),   log_det = sum log P - log y - log(1 - y),
// and the log of the code steps per scaled unit: with a standard logistic base log p(v + u) = sum
// log P(v) for every u, the exact code length. The nets see codes alone, so the Jacobian is
// diagonal. The inverse goes through the row in the order of time.
#ifndef BFLOW_MODEL_LAYERS_BOX_H_
#define BFLOW_MODEL_LAYERS_BOX_H_

#include <cstdint>
#include <vector>

#include "ATen/core/Generator.h"
#include "ATen/core/Tensor.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"
#include "model/layers/code_grid.h"
#include "model/ops/box.h"

namespace bflow {

// Buffers: as BoxSpec tells, all 0 until they are fitted (model/training/fit_fixed_layers.h) or
// loaded. Parameters start uniform within +-1/sqrt(values that an output sees), the second
// convolution of a block times 0.3, that of a head times 0.05 without bias: nearly the linear
// prediction's mixture. The net computes in the dtype of the parameters, codes and probabilities in
// float64. Takes x of any dtype and returns float64, both ways; there is no gradient through
// Inverse.
class BoxLayer : public Bijector {
 public:
  // `shape` has channels_of_event.
  BoxLayer(const BoxSpec& spec, const LevelShape& shape, at::Generator& generator,
           at::ScalarType dtype);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;
  void Freeze() override;

 private:
  // What does not depend on data, in float64 on the CPU.
  struct Fixed {
    BoxFit fit;
    std::vector<at::Tensor> net;
  };
  Fixed MakeFixed(bool with_net) const;
  // log of the code steps per scaled unit, of a row.
  double LogSteps(const at::Tensor& x) const;
  void AddConvolution(torch::nn::Module& parent, const std::string& name, at::IntArrayRef shape,
                      double gain, double bias_gain, at::Generator& generator);

  CodeGrid grid_;
  at::ScalarType dtype_;
  bool adaptive_;
  std::vector<int64_t> dilations_;
  std::vector<at::Tensor> map_, net_;  // in the order of the operators
  at::Tensor mean_, log_deviation_;
  Fixed frozen_;  // empty before Freeze
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_BOX_H_
