#include "model/flow/layer_registry.h"

#include <variant>

#include "model/layers/act_norm.h"
#include "model/layers/affine_coupling.h"
#include "model/layers/box.h"
#include "model/layers/butterfly.h"
#include "model/layers/conv1d_coupling.h"
#include "model/layers/conv1x1.h"
#include "model/layers/conv2d_coupling.h"
#include "model/layers/emerging_conv.h"
#include "model/layers/lattice.h"
#include "model/layers/logit.h"
#include "model/layers/lu_matmul.h"
#include "model/layers/periodic_conv.h"
#include "model/layers/permutation.h"
#include "model/layers/variational_dequantization.h"
#include "model/layers/whitening.h"
#include "model/layers/woodbury.h"

namespace bflow {
namespace {

std::shared_ptr<Bijector> MakeActNorm(const LayerSpec&, const LevelShape& shape,
                                      at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<ActNormLayer>(shape.channels, shape.is_image, generator, dtype);
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

std::shared_ptr<Bijector> MakeConv1x1(const LayerSpec&, const LevelShape& shape,
                                      at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<Conv1x1Layer>(shape.channels, generator, dtype);
}

std::shared_ptr<Bijector> MakeConv2dCoupling(const LayerSpec& spec, const LevelShape& shape,
                                             at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<Conv2dCouplingLayer>(
      shape.channels, std::get<Conv2dCouplingSpec>(spec).hidden, generator, dtype);
}

std::shared_ptr<Bijector> MakeEmergingConv(const LayerSpec& spec, const LevelShape& shape,
                                           at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<EmergingConvLayer>(
      shape.channels, std::get<EmergingConvSpec>(spec).kernel, generator, dtype);
}

std::shared_ptr<Bijector> MakePeriodicConv(const LayerSpec& spec, const LevelShape& shape,
                                           at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<PeriodicConvLayer>(shape, std::get<PeriodicConvSpec>(spec).kernel,
                                             generator, dtype);
}

std::shared_ptr<Bijector> MakeWoodbury(const LayerSpec& spec, const LevelShape& shape,
                                       at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<WoodburyLayer>(shape, std::get<WoodburySpec>(spec).rank, generator,
                                         dtype);
}

std::shared_ptr<Bijector> MakePermutation(const LayerSpec&, const LevelShape& shape,
                                          at::Generator& generator, at::ScalarType) {
  return std::make_shared<PermutationLayer>(shape.size(), generator);
}

std::shared_ptr<Bijector> MakeLogit(const LayerSpec&, const LevelShape&, at::Generator&,
                                    at::ScalarType) {
  return std::make_shared<LogitLayer>();
}

std::shared_ptr<Bijector> MakeConv1dCoupling(const LayerSpec& spec, const LevelShape& shape,
                                             at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<Conv1dCouplingLayer>(std::get<Conv1dCouplingSpec>(spec), shape.channels,
                                               generator, dtype);
}

std::shared_ptr<Bijector> MakeWhitening(const LayerSpec& spec, const LevelShape& shape,
                                        at::Generator&, at::ScalarType dtype) {
  return std::make_shared<WhiteningLayer>(shape.channels, std::get<WhiteningSpec>(spec).order,
                                          dtype);
}

std::shared_ptr<Bijector> MakeVariationalDequantization(const LayerSpec& spec,
                                                        const LevelShape& shape,
                                                        at::Generator& generator,
                                                        at::ScalarType dtype) {
  return std::make_shared<VariationalDequantizationLayer>(
      std::get<VariationalDequantizationSpec>(spec), shape, generator, dtype);
}

std::shared_ptr<Bijector> MakeLattice(const LayerSpec& spec, const LevelShape& shape,
                                      at::Generator&, at::ScalarType) {
  return std::make_shared<LatticeLayer>(std::get<LatticeSpec>(spec), shape);
}

std::shared_ptr<Bijector> MakeBox(const LayerSpec& spec, const LevelShape& shape,
                                  at::Generator& generator, at::ScalarType dtype) {
  return std::make_shared<BoxLayer>(std::get<BoxSpec>(spec), shape, generator, dtype);
}

}  // namespace

const LayerRegistry& BuiltInLayers() {
  static const auto* const kLayers = new LayerRegistry{
      {"act_norm", MakeActNorm},
      {"lu_matmul", MakeLuMatmul},
      {"butterfly", MakeButterfly},
      {"affine_coupling", MakeAffineCoupling},
      {"conv1x1", MakeConv1x1},
      {"conv2d_coupling", MakeConv2dCoupling},
      {"emerging_conv", MakeEmergingConv},
      {"periodic_conv", MakePeriodicConv},
      {"woodbury", MakeWoodbury},
      {"permutation", MakePermutation},
      {"logit", MakeLogit},
      {"conv1d_coupling", MakeConv1dCoupling},
      {"whitening", MakeWhitening},
      {"variational_dequantisation", MakeVariationalDequantization},
      {"lattice", MakeLattice},
      {"box", MakeBox},
  };
  return *kLayers;
}

}  // namespace bflow
