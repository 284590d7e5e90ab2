// What changes the weights: gradients of the mean negative log-likelihood, Adam, and the moving
// average that is validated and kept. An update is done whole or not at all.
#ifndef BFLOW_MODEL_TRAINING_UPDATER_H_
#define BFLOW_MODEL_TRAINING_UPDATER_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "model/flow/flow.h"
#include "model/training/adam.h"
#include "model/training/flat_parameters.h"
#include "model/training/presets.h"
#include "model/training/train_state.h"

namespace bflow {

struct Update {
  bool done = false;         // false: a loss or a gradient was not finite, nothing was changed
  double loss = 0;           // of the batch before the update, nats per dimension
  double gradient_norm = 0;  // Euclidean, of all gradients, before they are clipped
};

// With EmaScheme::kPolyak one Adam moves all weights, and the average follows all of them.
// With EmaScheme::kAlternating (the authors' variant) a batch makes two passes. First all weights
// but the butterflies' move, by the gradients at the AVERAGE of the butterflies' weights; then the
// butterflies' move, by the gradients at their own values and the others' new ones; each has an
// Adam of its own. Then the average, of the butterflies' weights alone, follows:
// average = decay average + (1 - decay) w, without the growing decay that kPolyak begins with. The
// loss reported is that of the first pass: of the weights that would be kept.
class Updater {
 public:
  // The flow is initialised, and stays on its device. decay 0: no average, and kPolyak. Gradients
  // of a pass (of the loss in nats per dimension) whose norm is above `largest_gradient` are scaled
  // down to it; 0: never.
  Updater(std::shared_ptr<Flow> flow, double decay, EmaScheme scheme, double largest_gradient = 0);

  // x: a batch on the flow's device, in the scaled unit. butterfly_rate: of the second optimiser of
  // kAlternating; absent: `rate` too.
  Update Step(const at::Tensor& x, double rate, std::optional<double> butterfly_rate = {});

  // Undoes the last update that was done, if it is known: the weights, and averages, before it had
  // a finite loss and gradients. For the end of a run; the optimiser is not undone.
  bool Revert();

  // Exchanges the average, if any, with the weights that it averages.
  void SwapAverage();

  std::vector<float> Values() const { return ParameterValues(*flow_); }
  void SetValues(const std::vector<float>& values) { SetParameterValues(values, *flow_); }

  // The weights, moments and averages of `state`. Errors: DataLoss (they do not fit).
  void Save(TrainState* state) const;
  absl::Status Restore(const TrainState& state);

 private:
  // Weights that move together.
  struct Group {
    explicit Group(std::vector<at::Tensor> tensors)
        : parameters(std::move(tensors)), adam(parameters.values()) {}
    FlatParameters parameters;
    Adam adam;
  };
  struct Gradients {
    double loss;
    at::Tensor
        values;   // as the group's parameters; undefined: the loss or one of them is not finite
    double norm;  // before they were clipped
  };
  // What an update changes.
  struct Before {
    std::vector<at::Tensor> values;  // of each group
    at::Tensor average;
  };

  Gradients Differentiate(const at::Tensor& x, const Group& group) const;
  Update StepTogether(const at::Tensor& x, double rate);
  Update StepAlternating(const at::Tensor& x, double rate, double butterfly_rate);
  Before Copy() const;
  void Return(const Before& before);

  std::shared_ptr<Flow> flow_;
  double largest_gradient_;
  std::vector<Group> groups_;  // all; or all but the butterflies, then the butterflies
  std::optional<ExponentialAverage> average_;  // of the last group
  std::optional<Before> before_;               // the last update
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_UPDATER_H_
