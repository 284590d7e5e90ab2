// The authors' tensor names and ours. Each function collects the tensors of one layer under our
// parameter names; `prefix` is everything before the authors' own name, dot included.
#ifndef BFLOW_TESTS_GOLDEN_REFERENCE_NAMES_H_
#define BFLOW_TESTS_GOLDEN_REFERENCE_NAMES_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/safetensors.h"

namespace bflow::golden {

using TensorMap = std::map<std::string, at::Tensor>;

// A tensor of the case as float64 (int64 where it holds indices). Errors: InvalidArgument naming
// it.
absl::StatusOr<at::Tensor> Require(const SafetensorsFile& file, std::string_view name);

// `scale`: what the authors call the logarithm of the scale, "weight" or "log_scale".
absl::StatusOr<TensorMap> ActNormTensors(const SafetensorsFile& file, const std::string& prefix,
                                         const std::string& scale);
// `fixed_prefix`: where P and sign_S stand, which the authors do not save with the weights.
absl::StatusOr<TensorMap> LuMatmulTensors(const SafetensorsFile& file, const std::string& prefix,
                                          const std::string& fixed_prefix);
// conv1, conv2, conv3 of a coupling of images.
absl::StatusOr<TensorMap> ConvolutionTensors(const SafetensorsFile& file,
                                             const std::string& prefix);
absl::StatusOr<TensorMap> CouplingTensors(const SafetensorsFile& file, const std::string& prefix);

// prefix0.w1, prefix1.w1, ... in the order of application.
absl::StatusOr<std::vector<at::Tensor>> Factors(const SafetensorsFile& file,
                                                const std::string& prefix);
// The levels that the shapes of the factors tell. Errors: InvalidArgument (not a factor of `size`
// values).
absl::StatusOr<ButterflyPart> PartOf(const std::vector<at::Tensor>& factors, int64_t size);
// True if every factor shares one 2x2 per block.
bool AreShared(const std::vector<at::Tensor>& factors);

// Fields of a case's config. Errors: InvalidArgument naming the field.
absl::StatusOr<int64_t> IntField(const Json& config, const char* field);
absl::StatusOr<bool> BoolField(const Json& config, const char* field, bool fallback);

// The flow of a `waveform_flow` case and its tensors under the names of a model file of ours.
struct WaveformFlow {
  FlowSpec spec;
  TensorMap tensors;
  // trace.NAME of [level][block][position in the block].
  std::vector<std::vector<std::vector<std::string>>> trace_names;
};
absl::StatusOr<WaveformFlow> ReadWaveformFlow(const SafetensorsFile& file, const Json& config);

// The flow of an `image_flow` case.
struct ImageFlow {
  FlowSpec spec;
  TensorMap tensors;
};
absl::StatusOr<ImageFlow> ReadImageFlow(const SafetensorsFile& file, const Json& config);

// The layers of a `glow_step` or a `prior_step` (whose coupling is called "nice"), with their
// tensors under the names 0.log_scale, ...; what the authors left out is left out.
struct ImageStep {
  std::vector<LayerSpec> layers;
  TensorMap tensors;
};
absl::StatusOr<ImageStep> ReadImageStep(const SafetensorsFile& file, const std::string& prefix,
                                        const std::string& coupling, const Json& config);

// A spec of `levels` levels of reals, blocks still empty: of a waveform [T, C] or an image [C, H,
// W].
FlowSpec EmptySpec(const std::vector<int64_t>& event_shape, int64_t levels);
// `tensors` with `prefix` before every name, into `to`.
void Merge(TensorMap tensors, const std::string& prefix, TensorMap& to);

}  // namespace bflow::golden

#endif  // BFLOW_TESTS_GOLDEN_REFERENCE_NAMES_H_
