// From the kind of a layer in a flow_spec to the module that computes it. A new layer is one line
// here.
#ifndef BFLOW_MODEL_FLOW_LAYER_REGISTRY_H_
#define BFLOW_MODEL_FLOW_LAYER_REGISTRY_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "ATen/core/Generator.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"

namespace bflow {

// Makes a layer for vectors of `shape`, its parameters drawn from `generator`.
using LayerFactory =
    std::function<std::shared_ptr<Bijector>(const LayerSpec& spec, const LevelShape& shape,
                                            at::Generator& generator, at::ScalarType dtype)>;

// By LayerKind. A flow can be built from another registry, e.g. one of plain ATen layers to compare
// with.
using LayerRegistry = std::map<std::string, LayerFactory>;

const LayerRegistry& BuiltInLayers();

}  // namespace bflow

#endif  // BFLOW_MODEL_FLOW_LAYER_REGISTRY_H_
