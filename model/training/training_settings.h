// How a flow is trained, whatever it is.
#ifndef BFLOW_MODEL_TRAINING_TRAINING_SETTINGS_H_
#define BFLOW_MODEL_TRAINING_TRAINING_SETTINGS_H_

#include <cstdint>
#include <optional>

#include "model/training/schedule.h"

namespace bflow {

// What the moving average of the weights is for (model/training/updater.h).
enum class EmaScheme {
  kPolyak,       // all weights are averaged; the average is validated and kept
  kAlternating,  // the authors' variant: two optimisers take turns, one sees the average
};

// Where the weights of a new flow start.
enum class TrainingStart {
  kDrawn,                // random, as the headers of the layers tell
  kIdentityButterflies,  // the same but for the butterflies
  kNearIdentity,         // Bijector::StartNearIdentity
};

// In what the convolutions of the couplings compute in a training step; everything else is float32.
enum class ConvolutionPrecision { kFloat32, kTf32, kBf16 };

struct TrainingSettings {
  int64_t steps = 3500;
  int64_t batch = 128;
  Schedule schedule;     // total_steps is set from `steps` when training starts
  double ema_decay = 0;  // 0: no moving average
  EmaScheme ema_scheme = EmaScheme::kPolyak;
  // kAlternating only. The butterflies' optimiser has the rate learning_rate * this^epoch, without
  // warm-up; absent: the rate of the other one.
  std::optional<double> butterfly_decay;
  TrainingStart start = TrainingStart::kDrawn;
  // Events of the data-dependent initialisation where the data do not say; 0: a batch.
  int64_t first_batch = 0;
  double largest_gradient = 0;  // its norm, in nats per event, is clipped here; 0: never
  ConvolutionPrecision precision = ConvolutionPrecision::kFloat32;
  int64_t validate_every = 100;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_TRAINING_SETTINGS_H_
