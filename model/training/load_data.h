// From --data to the events of a run.
#ifndef BFLOW_MODEL_TRAINING_LOAD_DATA_H_
#define BFLOW_MODEL_TRAINING_LOAD_DATA_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "model/training/options.h"
#include "model/training/presets.h"
#include "model/training/training_events.h"

namespace bflow {

// WFDB records in windows of `window` samples. Records that cannot be read are listed on stderr and
// counted; the others are used. Errors: InvalidArgument naming the flag or the record.
absl::StatusOr<std::unique_ptr<TrainingEvents>> LoadWaveforms(const TrainOptions& options,
                                                              int64_t window, int* records_failed);

// Images, all of which must be readable. Errors: those of ReadImages and ImageData::Create.
absl::StatusOr<std::unique_ptr<TrainingEvents>> LoadImages(const TrainOptions& options,
                                                           const ImageArchitecture& preset);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_LOAD_DATA_H_
