// The flags of bflow-train that only presets of images know. Torch-free.
#ifndef BFLOW_MODEL_TRAINING_IMAGE_OPTIONS_H_
#define BFLOW_MODEL_TRAINING_IMAGE_OPTIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "model/training/flag_values.h"
#include "model/training/image_data.h"
#include "model/training/training_settings.h"

namespace bflow {

struct ImageOptions {
  // Smaller models than the preset's: width of the couplings' nets, blocks per level.
  std::optional<int64_t> hidden, blocks;
  std::optional<int64_t> bits;                 // of a pixel that are kept; 8
  std::optional<Augmentations> augmentations;  // absent: the preset's
  ConvolutionPrecision precision = ConvolutionPrecision::kFloat32;
  std::optional<int64_t> sample_every;  // steps between pictures of samples; absent: none
  std::string sample_dir;
};

std::map<std::string, FlagHandler> ImageFlagHandlers(ImageOptions* options);
std::set<std::string> ImageFlags();

// Errors: InvalidArgument naming the flag.
absl::Status CheckImageOptions(const ImageOptions& options);

std::string ImageFlagsHelp();

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_IMAGE_OPTIONS_H_
