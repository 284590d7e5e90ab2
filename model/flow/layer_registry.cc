#include "model/flow/layer_registry.h"

#include <variant>

#include "model/layers/act_norm.h"
#include "model/layers/affine_coupling.h"
#include "model/layers/butterfly.h"
#include "model/layers/lu_matmul.h"

namespace bflow {
namespace {

std::shared_ptr<Bijector> MakeActNorm(const LayerSpec&, const LevelShape& shape,
                                      at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<ActNormLayer>(shape.channels, generator, dtype);
}

std::shared_ptr<Bijector> MakeLuMatmul(const LayerSpec&, const LevelShape& shape,
                                       at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<LuMatmulLayer>(shape.channels, generator, dtype);
}

std::shared_ptr<Bijector> MakeButterfly(const LayerSpec& spec, const LevelShape& shape,
                                        at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<ButterflyLayer>(std::get<ButterflySpec>(spec), shape.size(), generator,
                                          dtype);
}

std::shared_ptr<Bijector> MakeAffineCoupling(const LayerSpec& spec, const LevelShape& shape,
                                             at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<AffineCouplingLayer>(
      shape.channels, std::get<AffineCouplingSpec>(spec).hidden, generator, dtype);
}

}  // namespace

const LayerRegistry& BuiltInLayers() {
  static const auto* const kLayers = new LayerRegistry{
      {"act_norm", MakeActNorm},
      {"lu_matmul", MakeLuMatmul},
      {"butterfly", MakeButterfly},
      {"affine_coupling", MakeAffineCoupling},
  };
  return *kLayers;
}

}  // namespace bflow
