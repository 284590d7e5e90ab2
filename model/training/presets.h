// Named starting points of bflow-train. A preset writes the levels of a flow_spec and the training
// settings; nothing of its name reaches the architecture in the model file.
#ifndef BFLOW_MODEL_TRAINING_PRESETS_H_
#define BFLOW_MODEL_TRAINING_PRESETS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/training/image_data.h"
#include "model/training/training_settings.h"

namespace bflow {

// An image flow for images of any size that 2^levels divides (image_presets.h builds it).
struct ImageArchitecture {
  int64_t levels = 2;
  int64_t blocks = 8;             // of each level
  int64_t factors = 0;            // of the first level's butterflies; one fewer per level
  bool permuted = false;          // a random permutation of the image first
  std::optional<int64_t> hidden;  // of all couplings; absent: 512, in prior steps min(8 C, 512)
  Augmentations augmentations = Augmentations::kCropFlip;
};

struct Preset {
  std::string name;
  std::string summary;
  TrainingSettings settings;
  std::optional<ImageArchitecture> image;  // absent: a preset of waveforms
  // Of waveforms. Present: whitening in front, these couplings in place of the published ones, and
  // a Student-t base.
  std::optional<Conv1dCouplingSpec> convolutions;
  // Of waveforms. Present: a lattice and this layer, and a logistic base behind.
  std::optional<BoxSpec> box;
};

inline constexpr std::string_view kDefaultPreset = "waveform";

// waveform and waveform-light: the published flow's levels and butterflies between whitening and a
// Student-t base, with convolutional couplings. waveform-published and waveform-paper: both the
// published waveform flow (2 levels x 2 blocks, 10 shared butterfly factors and one fewer on the
// second level, widest first, hidden 16). waveform-exact: lattice, box and logistic base. Then
// those of images (image_presets.h).
const std::vector<Preset>& Presets();

// Errors: InvalidArgument listing the presets.
absl::StatusOr<Preset> FindPreset(const std::string& name);

// Writes the preset's pre, levels and base for events [window, channels] into `spec`. The order of
// the whitening is 16, less where the window is no longer than that. The sizes of a lattice are the
// data's (MakeSpec).
void WriteArchitecture(const Preset& preset, int64_t window, int64_t channels, FlowSpec* spec);

// The published architecture for events [window, channels]. A level whose size is not divisible by
// 2^10 (2^9) gets as many factors as its size allows.
std::vector<LevelSpec> PublishedWaveformLevels(int64_t window, int64_t channels);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_PRESETS_H_
