// What the runners of all kinds share: a layer or flow with the weights of a case, evaluated in one
// of several ways, and its values beside those of the case.
#ifndef BFLOW_TESTS_GOLDEN_COMPARE_H_
#define BFLOW_TESTS_GOLDEN_COMPARE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ATen/core/Generator.h"
#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "c10/core/ScalarType.h"
#include "model/checkpoint/safetensors.h"
#include "model/flow/flow.h"
#include "tests/golden/golden_case.h"
#include "tests/golden/reference_names.h"

namespace bflow::golden {

// One of the ways a case is evaluated.
struct Mode {
  at::ScalarType dtype;
  bool plain;   // plain ATen layers instead of ours
  bool frozen;  // after Freeze()
};

// A value of ours beside the float64 value it should have.
struct Comparison {
  std::string name;
  at::Tensor got;
  at::Tensor expected;
};
using Comparisons = std::vector<Comparison>;

// What a case calls y or z, evaluated both ways.
struct Map {
  std::function<Transformed(const at::Tensor&)> forward;
  std::function<Transformed(const at::Tensor&)> inverse;
};

// Compares what a case of one kind holds. Errors: InvalidArgument naming a tensor or config field
// that is missing or does not fit.
using Runner = std::function<absl::Status(const GoldenCase&, const SafetensorsFile&, const Mode&,
                                          Comparisons&)>;

// Everything that a map from in.x to out.y (or out.z) tells, as far as the case holds it.
absl::Status CompareMap(const SafetensorsFile& file, const Map& map, at::ScalarType dtype,
                        Comparisons& comparisons);

// Copies `tensors` over the parameters and buffers of a layer; the names must be exactly its own.
absl::Status SetTensors(Bijector& layer, const TensorMap& tensors);

Map MapOf(std::shared_ptr<Bijector> layer);
Map MapOf(std::shared_ptr<Flow> flow);

at::Generator AnyGenerator();

absl::StatusOr<std::shared_ptr<Bijector>> MakeLayer(const LayerSpec& spec, const LevelShape& shape,
                                                    const TensorMap& tensors, const Mode& mode);

// Through a model file of ours, as a server would get it.
absl::StatusOr<std::shared_ptr<Flow>> LoadFlow(const FlowSpec& spec, const TensorMap& tensors,
                                               const Mode& mode);

// Data-dependent initialisation on init.x from `before`; afterwards the parameters are `after` and
// what comes out is init.y, where the case holds it.
absl::Status CompareInitialisation(const SafetensorsFile& file, const LayerSpec& spec,
                                   const LevelShape& shape, const TensorMap& before,
                                   const TensorMap& after, const Mode& mode,
                                   Comparisons& comparisons);

// The bookkeeping of a multi-scale chain: `spec` with layers that are all the identity, against
// out.latent_levelL and the map to out.z.
absl::Status CompareLatents(const SafetensorsFile& file, FlowSpec spec, const Mode& mode,
                            Comparisons& comparisons);

}  // namespace bflow::golden

#endif  // BFLOW_TESTS_GOLDEN_COMPARE_H_
