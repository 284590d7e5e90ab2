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
#include "model/training/schedule.h"

namespace bflow {

// What the moving average of the weights is for (model/training/updater.h).
enum class EmaScheme {
  kPolyak,       // all weights are averaged; the average is validated and kept
  kAlternating,  // the authors' variant: two optimisers take turns, one sees the average
};

// Where the weights start.
enum class TrainingStart {
  kDrawn,         // random, as the authors' (the headers of the layers)
  kNearIdentity,  // Bijector::StartNearIdentity
};

struct TrainingSettings {
  int64_t steps = 3500;
  int64_t batch = 128;
  Schedule schedule;     // total_steps is set from `steps` when training starts
  double ema_decay = 0;  // 0: no moving average
  EmaScheme ema_scheme = EmaScheme::kPolyak;
  int64_t validate_every = 100;
  TrainingStart start = TrainingStart::kDrawn;
  int64_t first_batch = 0;      // windows of the data-dependent initialisation; 0: a batch
  double largest_gradient = 0;  // its norm, in nats per window, is clipped here; 0: never
};

struct Preset {
  std::string name;
  std::string summary;
  TrainingSettings settings;
  // Present: whitening in front, these couplings in place of the published ones, and a Student-t
  // base.
  std::optional<Conv1dCouplingSpec> convolutions;
};

inline constexpr std::string_view kDefaultPreset = "waveform";

// waveform and waveform-light: the published flow's levels and butterflies between whitening and a
// Student-t base, with convolutional couplings. waveform-published and waveform-paper: both the
// published waveform flow (2 levels x 2 blocks, 10 shared butterfly factors and one fewer on the
// second level, widest first, hidden 16).
const std::vector<Preset>& Presets();

// Errors: InvalidArgument listing the presets.
absl::StatusOr<Preset> FindPreset(const std::string& name);

// Writes the preset's pre, levels and base for events [window, channels] into `spec`. The order of
// the whitening is 16, less where the window is no longer than that.
void WriteArchitecture(const Preset& preset, int64_t window, int64_t channels, FlowSpec* spec);

// The published architecture for events [window, channels]. A level whose size is not divisible by
// 2^10 (2^9) gets as many factors as its size allows.
std::vector<LevelSpec> PublishedWaveformLevels(int64_t window, int64_t channels);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_PRESETS_H_
