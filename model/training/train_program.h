// bflow-train without its main(): reads the records, trains, writes the model.
#ifndef BFLOW_MODEL_TRAINING_TRAIN_PROGRAM_H_
#define BFLOW_MODEL_TRAINING_TRAIN_PROGRAM_H_

#include <atomic>

#include "model/training/options.h"

namespace bflow {

// Figures go to stdout, progress and errors to stderr; the result is the exit code. `stop` ends the
// training after the current step; the model is then written as it is and the result is 130.
int RunTrain(const TrainOptions& options, const std::atomic<bool>& stop);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAIN_PROGRAM_H_
