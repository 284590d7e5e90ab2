// Adam (Kingma and Ba, 2015) and an exponential moving average over one flat tensor, on its device
// (model/training/flat_parameters.h).
#ifndef BFLOW_MODEL_TRAINING_ADAM_H_
#define BFLOW_MODEL_TRAINING_ADAM_H_

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace bflow {

struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
};

// m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
// p -= rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon), t counting updates from 1.
class Adam {
 public:
  struct State {
    at::Tensor first_moment, second_moment;  // like the parameters
    int64_t updates = 0;
  };

  // parameters: [N] float, contiguous; changed in place.
  explicit Adam(const at::Tensor& parameters, const AdamOptions& options = {});

  // One update by gradients [N] on the same device.
  void Step(double rate, const at::Tensor& gradients);

  const State& state() const { return state_; }
  State CopyState() const;
  // Goes on from the state of another run.
  void Restore(State state) { state_ = std::move(state); }

 private:
  void StepOnCpu(double rate, const at::Tensor& gradients);

  at::Tensor parameters_;
  AdamOptions options_;
  State state_;
};

// How a moving average begins.
enum class DecayStart {
  kGrowing,  // d = min(decay, (1 + t) / (10 + t)): early weights are forgotten quickly
  kAtOnce,   // d = decay
};

// average = d average + (1 - d) p after each update t, counting from 1; d by `start`.
class ExponentialAverage {
 public:
  // parameters: [N] float, contiguous; changed in place by Swap.
  ExponentialAverage(const at::Tensor& parameters, double decay,
                     DecayStart start = DecayStart::kGrowing);

  void Update();
  // Exchanges the average with the parameters; calling it twice restores both.
  void Swap();

  int64_t updates() const { return updates_; }
  // Between an even number of swaps; changed in place by Update.
  const at::Tensor& average() const { return average_; }
  void Restore(const at::Tensor& average, int64_t updates);

 private:
  at::Tensor parameters_;
  double decay_;
  DecayStart start_;
  at::Tensor average_;
  int64_t updates_ = 0;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_ADAM_H_
