#include "tests/golden/plain_layers.h"

#include <variant>

#include "model/layers/act_norm.h"
#include "model/layers/affine_coupling.h"
#include "model/layers/lu_matmul.h"
#include "model/ops/act_norm.h"
#include "model/ops/affine_coupling.h"
#include "model/ops/butterfly.h"
#include "model/ops/lu_matmul.h"

namespace bflow::golden {
namespace {

// Parameters, and what layers compute in plain ATen anyway (inverses of ActNorm and LU, all of
// images but the butterfly), are inherited.
class PlainActNorm : public ActNormLayer {
 public:
  using ActNormLayer::ActNormLayer;
  Transformed Forward(const at::Tensor& x) override {
    if (is_image_) return ActNormLayer::Forward(x);
    const auto [y, log_det] = ActNormReference(x, log_scale_, bias_);
    return {y, log_det.expand({x.size(0)})};
  }
};

class PlainLuMatmul : public LuMatmulLayer {
 public:
  using LuMatmulLayer::LuMatmulLayer;
  Transformed Forward(const at::Tensor& x) override {
    const auto [y, log_det] =
        LuMatmulReference(x, lower_, upper_, log_diagonal_, diagonal_sign_, permutation_);
    return {y, log_det.expand({x.size(0)})};
  }
};

class PlainButterfly : public ButterflyLayer {
 public:
  using ButterflyLayer::ButterflyLayer;

 protected:
  Transformed ApplyPart(const at::Tensor& x,
                        const std::vector<at::Tensor>& factors) const override {
    const auto [y, log_det] = ButterflyReference(x, factors);
    return {y, log_det};
  }
};

class PlainAffineCoupling : public AffineCouplingLayer {
 public:
  using AffineCouplingLayer::AffineCouplingLayer;
  Transformed Forward(const at::Tensor& x) override {
    const auto [y, log_det] = AffineCouplingReference(x, scale_net_, shift_net_, /*inverse=*/false);
    return {y, log_det};
  }
  Transformed Inverse(const at::Tensor& z) override {
    const auto [x, log_det] = AffineCouplingReference(z, scale_net_, shift_net_, /*inverse=*/true);
    return {x, log_det};
  }
};

}  // namespace

const LayerRegistry& PlainLayers() {
  static const auto* const kLayers = [] {
    auto* const layers = new LayerRegistry(BuiltInLayers());
    (*layers)["act_norm"] = [](const LayerSpec&, const LevelShape& shape, at::Generator& generator,
                               at::ScalarType dtype) {
      return std::make_shared<PlainActNorm>(shape.channels, shape.is_image, generator, dtype);
    };
    (*layers)["lu_matmul"] = [](const LayerSpec&, const LevelShape& shape, at::Generator& generator,
                                at::ScalarType dtype) {
      return std::make_shared<PlainLuMatmul>(shape.channels, generator, dtype);
    };
    (*layers)["butterfly"] = [](const LayerSpec& spec, const LevelShape& shape,
                                at::Generator& generator, at::ScalarType dtype) {
      return std::make_shared<PlainButterfly>(std::get<ButterflySpec>(spec), shape.size(),
                                              generator, dtype);
    };
    (*layers)["affine_coupling"] = [](const LayerSpec& spec, const LevelShape& shape,
                                      at::Generator& generator, at::ScalarType dtype) {
      return std::make_shared<PlainAffineCoupling>(
          shape.channels, std::get<AffineCouplingSpec>(spec).hidden, generator, dtype);
    };
    return layers;
  }();
  return *kLayers;
}

std::shared_ptr<Bijector> MakeButterfly(const std::vector<std::vector<ButterflyPart>>& rounds,
                                        bool shared, bool partitioned, at::Generator& generator,
                                        at::ScalarType dtype, bool plain) {
  if (plain) {
    return std::make_shared<PlainButterfly>(rounds, shared, partitioned, generator, dtype);
  }
  return std::make_shared<ButterflyLayer>(rounds, shared, partitioned, generator, dtype);
}

}  // namespace bflow::golden
