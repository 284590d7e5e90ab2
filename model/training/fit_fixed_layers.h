// The layers that are fitted to the training part once, before the training, and then stay.
#ifndef BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_
#define BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "model/flow/flow.h"
#include "model/training/training_data.h"

namespace bflow {

// Fits, where the flow has them: the lattice to the codes of the training part; whitening, that of
// a box included, on 200,000 random stretches of the training part with dequantisation noise (fewer
// where the part is shorter than that), which the lattice has ranked; mean and deviation of a box.
// The same data and seed give the same bits. The flow is on the CPU. Errors: InvalidArgument
// (FitWhitening; a lattice of other sizes than the data have codes).
absl::Status FitFixedLayers(Flow& flow, const TrainingData& data, uint64_t seed);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_
