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
#include "model/training/training_data.h"

namespace bflow {

// The preset's settings with the flags' changes.
TrainingSettings MergeSettings(const Preset& preset, const TrainOptions& options);

// The spec of --spec, if given. Errors: InvalidArgument naming the flag.
absl::StatusOr<std::optional<FlowSpec>> ReadSpecFile(const TrainOptions& options);

// The architecture of the file or the preset with the channels of the data.
FlowSpec MakeSpec(const std::optional<FlowSpec>& from_file, const TrainOptions& options,
                  const TrainingData& data);

// Records that cannot be read are listed and counted; the others are used.
absl::StatusOr<TrainingData> LoadData(const TrainOptions& options, int64_t window,
                                      int* records_failed);

// A hash of what decides the weights: program, spec, settings, seed and a sample of the data.
std::string Fingerprint(const TrainOptions& options, const TrainingSettings& settings,
                        const FlowSpec& spec, const TrainingData& data);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_RUN_SETUP_H_
