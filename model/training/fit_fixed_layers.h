// The layers that are fitted to the training part once, before the training, and then stay.
#ifndef BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_
#define BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "model/flow/flow.h"
#include "model/training/training_data.h"
#include "model/training/training_events.h"

namespace bflow {

// The codes of a lattice for these data, per channel as indices of the grid: those that the
// training part has, where they are no more than every second one between its extremes, so that the
// others do not come; else the first alone, which is the identity: the others were too rare to be
// seen.
std::vector<std::vector<int64_t>> LatticeCodes(const TrainingEvents& data);

// Fits, where the flow has them: the lattice to the codes of the training part; whitening, that of
// a box included, on 200,000 random stretches of the training part with dequantisation noise (fewer
// where the part is shorter than that), which the lattice has ranked; mean and deviation of a box.
// The same data and seed give the same bits. The flow is on the CPU. Errors: InvalidArgument
// (FitWhitening; a lattice of other sizes than the data have codes).
absl::Status FitFixedLayers(Flow& flow, const TrainingData& data, uint64_t seed);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_FIT_FIXED_LAYERS_H_
