// From a checked command line to what a run is made of: settings, spec and data.
#ifndef BFLOW_MODEL_TRAINING_RUN_SETUP_H_
#define BFLOW_MODEL_TRAINING_RUN_SETUP_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/training/options.h"
#include "model/training/presets.h"
#include "model/training/training_events.h"

namespace bflow {

// The preset's settings with the flags' changes.
TrainingSettings MergeSettings(const Preset& preset, const TrainOptions& options);

// The spec of --spec, if given. Errors: InvalidArgument naming the flag.
absl::StatusOr<std::optional<FlowSpec>> ReadSpecFile(const Preset& preset,
                                                     const TrainOptions& options);

// The architecture of the file or the preset, with the shape and channels of the data. Errors:
// InvalidArgument (it does not fit the data).
absl::StatusOr<FlowSpec> MakeSpec(const Preset& preset, const std::optional<FlowSpec>& from_file,
                                  const TrainOptions& options, const TrainingEvents& data);

// A hash of what decides the weights: program, spec, settings, seed and a sample of the data.
std::string Fingerprint(const TrainOptions& options, const TrainingSettings& settings,
                        const FlowSpec& spec, const TrainingEvents& data);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_RUN_SETUP_H_
