// What an image flow has learnt, for a person to look at.
#ifndef BFLOW_MODEL_TRAINING_SAMPLE_PICTURE_H_
#define BFLOW_MODEL_TRAINING_SAMPLE_PICTURE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "model/flow/flow.h"

namespace bflow {

// A PNG file of samples: four rows of eight, at the temperatures 0.7, 0.8, 0.9 and 1 of the paper,
// each column from one latent, which follows from `seed`. Errors: those of DrawSamples and
// WritePng.
absl::Status WriteSamplePicture(Flow& flow, uint64_t seed, const std::string& path);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_SAMPLE_PICTURE_H_
