// The layers that are fitted to the training part once, before the training, and then stay.
#ifndef BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_
#define BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "model/flow/flow.h"
#include "model/training/training_data.h"

namespace bflow {

// Fits the whitening of the flow, if it has one, on 200,000 random stretches of the training part
// with dequantisation noise (fewer where the part is shorter than that). The same data and seed
// give the same bits. The flow is on the CPU. Errors: InvalidArgument (FitWhitening).
absl::Status FitFixedLayers(Flow& flow, const TrainingData& data, uint64_t seed);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_
