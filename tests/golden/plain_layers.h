// The layers in plain ATen operations, in the dtype of their input: the yardstick for float32
// errors.
#ifndef BFLOW_TESTS_GOLDEN_PLAIN_LAYERS_H_
#define BFLOW_TESTS_GOLDEN_PLAIN_LAYERS_H_

#include <memory>
#include <vector>

#include "model/flow/layer_registry.h"
#include "model/layers/butterfly.h"

namespace bflow::golden {

const LayerRegistry& PlainLayers();

// A butterfly from explicit rounds, plain or ours.
std::shared_ptr<Bijector> MakeButterfly(const std::vector<std::vector<ButterflyPart>>& rounds,
                                        bool shared, bool partitioned, at::Generator& generator,
                                        at::ScalarType dtype, bool plain);

}  // namespace bflow::golden

#endif  // BFLOW_TESTS_GOLDEN_PLAIN_LAYERS_H_
