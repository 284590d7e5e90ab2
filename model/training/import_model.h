// bflow-train --import: a model file made elsewhere (import_reference.py) becomes a version folder
// with self-test rows of our own.
#ifndef BFLOW_MODEL_TRAINING_IMPORT_MODEL_H_
#define BFLOW_MODEL_TRAINING_IMPORT_MODEL_H_

#include "base/file_system.h"
#include "model/training/options.h"

namespace bflow {

// `options.import_file` is a model.safetensors as docs/checkpoint_format.md describes it. It is
// checked as a server would, rows are drawn from the model (a fixed seed) and scored in float64,
// and everything is written, the manifest last; without a calibration the model has likelihoods and
// samples only. The result is the exit code; what went wrong is on stderr.
int ImportModel(const TrainOptions& options, FileSystem& files);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_IMPORT_MODEL_H_
