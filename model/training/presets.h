// Named starting points of bflow-train. A preset writes the levels of a flow_spec and the training
// settings; nothing of its name reaches the architecture in the model file.
#ifndef BFLOW_MODEL_TRAINING_PRESETS_H_
#define BFLOW_MODEL_TRAINING_PRESETS_H_

#include <cstdint>
#include <string>
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

struct TrainingSettings {
  int64_t steps = 3500;
  int64_t batch = 128;
  Schedule schedule;     // total_steps is set from `steps` when training starts
  double ema_decay = 0;  // 0: no moving average
  EmaScheme ema_scheme = EmaScheme::kPolyak;
  int64_t validate_every = 100;
};

struct Preset {
  std::string name;
  std::string summary;
  TrainingSettings settings;
};

// waveform-published and waveform-paper: both the published waveform flow (2 levels x 2 blocks, 10
// shared butterfly factors and one fewer on the second level, widest first, hidden 16).
const std::vector<Preset>& Presets();

// Errors: InvalidArgument listing the presets.
absl::StatusOr<Preset> FindPreset(const std::string& name);

// The published architecture for events [window, channels]. A level whose size is not divisible by
// 2^10 (2^9) gets as many factors as its size allows.
std::vector<LevelSpec> PublishedWaveformLevels(int64_t window, int64_t channels);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_PRESETS_H_
