// Adam (Kingma and Ba, 2015) and an exponential moving average over plain float buffers. A waveform
// flow has 15 thousand parameters in 106 tensors: a tensor library's optimiser would spend its time
// on call overhead, one pass over raw pointers takes microseconds.
#ifndef BFLOW_MODEL_TRAINING_ADAM_H_
#define BFLOW_MODEL_TRAINING_ADAM_H_

#include <cstdint>
#include <span>
#include <vector>

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
  // The buffers stay where they are for the life of this object.
  explicit Adam(std::vector<std::span<float>> parameters, const AdamOptions& options = {});

  // One update. `gradients` holds one buffer per parameter buffer, of the same size.
  void Step(double rate, const std::vector<std::span<const float>>& gradients);

  int64_t updates() const { return updates_; }
  // All buffers, one after the other, as for Restore.
  const std::vector<float>& first_moment() const { return first_moment_; }
  const std::vector<float>& second_moment() const { return second_moment_; }
  // Goes on from the state of another run; both of the parameters' total size.
  void Restore(std::vector<float> first_moment, std::vector<float> second_moment, int64_t updates);

 private:
  std::vector<std::span<float>> parameters_;
  AdamOptions options_;
  std::vector<float> first_moment_;  // all buffers, one after the other
  std::vector<float> second_moment_;
  int64_t updates_ = 0;
};

// How a moving average begins.
enum class DecayStart {
  kGrowing,  // d = min(decay, (1 + t) / (10 + t)): early weights are forgotten quickly
  kAtOnce,   // d = decay
};

// average = d average + (1 - d) p after each update t, counting from 1; d by `start`.
class ExponentialAverage {
 public:
  ExponentialAverage(std::vector<std::span<float>> parameters, double decay,
                     DecayStart start = DecayStart::kGrowing);

  void Update();
  // Exchanges the average with the parameters; calling it twice restores both.
  void Swap();

  int64_t updates() const { return updates_; }
  // Between an even number of swaps.
  const std::vector<float>& average() const { return average_; }
  void Restore(std::vector<float> average, int64_t updates);

 private:
  std::vector<std::span<float>> parameters_;
  double decay_;
  DecayStart start_;
  std::vector<float> average_;
  int64_t updates_ = 0;
};

// A copy of all buffers, and back.
std::vector<float> CopyValues(const std::vector<std::span<float>>& parameters);
void RestoreValues(const std::vector<float>& values,
                   const std::vector<std::span<float>>& parameters);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_ADAM_H_
