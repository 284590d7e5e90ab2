// bflow-train without its main(): reads the records, trains, writes the model.
#ifndef BFLOW_MODEL_TRAINING_TRAIN_PROGRAM_H_
#define BFLOW_MODEL_TRAINING_TRAIN_PROGRAM_H_

#include <atomic>

#include "base/file_system.h"
#include "model/training/options.h"

namespace bflow {

// Figures go to stdout, progress and errors to stderr; the result is the exit code. `stop` ends the
// training after the current step; the model is then written as it is and the result is 130.
// Checkpoints and states are written through `files`. To be called before anything else of torch:
// it may load the CUDA plugin.
int RunTrain(const TrainOptions& options, const std::atomic<bool>& stop, FileSystem& files);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAIN_PROGRAM_H_
