// The authors' variant with two optimisers and an average of the butterflies' weights, against the
// same computed by hand in float64.
#include "model/training/updater.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ATen/ops/arange.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"
#include "tests/model/training/trainer_fixture.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow {
namespace {

constexpr double kDecay = 0.9;

// Adam as its authors write it.
struct ByHandAdam {
  at::Tensor m, v;
  void Step(int t, double rate, const at::Tensor& g, at::Tensor* w) {
    if (!m.defined()) m = at::zeros_like(g), v = at::zeros_like(g);
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    *w -= rate * (m / (1 - std::pow(0.9, t))) / ((v / (1 - std::pow(0.999, t))).sqrt() + 1e-8);
  }
};

// A flow in float64 whose butterflies' weights have an average.
class ByHand {
 public:
  explicit ByHand(const std::shared_ptr<Flow>& flow) : flow_(flow) {
    for (const auto& parameter : flow->named_parameters()) {
      names_.push_back(parameter.key());
      tensors_[parameter.key()] = parameter.value();
      if (IsButterfly(parameter.key())) {
        average_[parameter.key()] = parameter.value().detach().clone();
      }
    }
  }
  static bool IsButterfly(const std::string& name) {
    return name.find("factors") != std::string::npos;
  }

  void Step(int t, double rate, const at::Tensor& x) {
    // Everything else, evaluated with the average of the butterflies.
    std::map<std::string, at::Tensor> raw;
    for (const auto& [name, average] : average_) {
      raw[name] = tensors_[name].detach().clone();
      Set(name, average);
    }
    const auto others = Gradients(x);
    for (const auto& [name, value] : raw) Set(name, value);
    for (const std::string& name : names_) {
      if (!IsButterfly(name)) Move(name, t, rate, others.at(name));
    }
    // Then the butterflies, evaluated with the raw ones; then the average.
    const auto butterflies = Gradients(x);
    for (auto& [name, average] : average_) {
      Move(name, t, rate, butterflies.at(name));
      average = kDecay * average + (1 - kDecay) * tensors_[name].detach();
    }
  }

  // All values in the order of the parameters; the average in place of what it averages.
  std::vector<double> Kept() const {
    std::vector<double> values;
    for (const std::string& name : names_) {
      const at::Tensor& tensor = IsButterfly(name) ? average_.at(name) : tensors_.at(name);
      const at::Tensor flat = tensor.detach().contiguous();
      values.insert(values.end(), flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel());
    }
    return values;
  }

 private:
  void Set(const std::string& name, const at::Tensor& value) {
    const c10::NoGradGuard no_grad;
    tensors_[name].copy_(value);
  }
  void Move(const std::string& name, int t, double rate, const at::Tensor& gradient) {
    const c10::NoGradGuard no_grad;
    adam_[name].Step(t, rate, gradient, &tensors_[name]);
  }
  std::map<std::string, at::Tensor> Gradients(const at::Tensor& x) {
    const at::Tensor loss = -flow_->LogProb(x).mean() / static_cast<double>(x[0].numel());
    std::vector<at::Tensor> inputs;
    for (const std::string& name : names_) inputs.push_back(tensors_[name]);
    const std::vector<at::Tensor> gradients = torch::autograd::grad({loss}, inputs);
    std::map<std::string, at::Tensor> by_name;
    for (size_t i = 0; i < names_.size(); ++i) by_name[names_[i]] = gradients[i];
    return by_name;
  }

  std::shared_ptr<Flow> flow_;
  std::vector<std::string> names_;
  std::map<std::string, at::Tensor> tensors_, average_;
  std::map<std::string, ByHandAdam> adam_;
};

TEST_F(TrainerTest, TwoOptimisersTakeTurnsAsComputedByHand) {
  options_.settings.ema_decay = kDecay;
  options_.settings.ema_scheme = EmaScheme::kAlternating;
  options_.settings.steps = 6;
  const std::shared_ptr<Flow> flow = NewFlow();
  Trainer trainer(flow, data_, options_);
  std::vector<at::Tensor> batches;
  std::unique_ptr<ByHand> by_hand;
  TrainerHooks hooks;
  hooks.batch = [&](at::Tensor* batch) {
    if (batches.empty()) {  // initialised, not yet moved
      const std::shared_ptr<Flow> wide = NewFlow(at::kDouble);
      const auto from = flow->NamedTensors(), to = wide->NamedTensors();
      const c10::NoGradGuard no_grad;
      for (size_t i = 0; i < from.size(); ++i) to[i].second.copy_(from[i].second);
      by_hand = std::make_unique<ByHand>(wide);
    }
    batches.push_back(batch->to(at::kDouble));
  };
  const auto outcome = trainer.Run(hooks);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(batches.size(), 6u);
  Schedule schedule = options_.settings.schedule;
  schedule.total_steps = 6;
  const std::vector<double> before = by_hand->Kept();
  for (int t = 1; t <= 6; ++t) {
    by_hand->Step(t, schedule.RateAt(t - 1), batches[static_cast<size_t>(t) - 1]);
  }
  const std::vector<double> expected = by_hand->Kept();
  const std::vector<float> kept = ParameterValues(*flow);
  ASSERT_EQ(kept.size(), expected.size());
  double moved = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    // Adam divides by the size of the gradient: one near rounding moves by its sign.
    EXPECT_NEAR(kept[i], expected[i], 2e-4) << i;
    moved = std::max(moved, std::abs(expected[i] - before[i]));
  }
  EXPECT_GT(moved, 0.01);
}

// A loss that is finite, in float64, with gradients that are not, in float32.
TEST_F(TrainerTest, GradientsAreClippedAtTheirNorm) {
  // Adam's first step is the same for a gradient of any size; its first moment is not.
  const at::Tensor x =
      (at::arange(4 * data_.event_size(), at::kFloat) * 0.7).sin().view({4, data_.window(), 2});
  const auto moment = [&](double largest, double* norm) {
    Updater updater(NewFlow(), 0, EmaScheme::kPolyak, largest);
    *norm = updater.Step(x, 0).gradient_norm;
    TrainState state;
    updater.Save(&state);
    double squares = 0;
    for (const float m : state.first_moment) squares += static_cast<double>(m) * m;
    return std::sqrt(squares) / 0.1;
  };
  double norm = 0, same = 0;
  EXPECT_NEAR(moment(0, &norm) / norm, 1, 1e-4);
  EXPECT_NEAR(moment(norm * 2, &same) / norm, 1, 1e-4);
  EXPECT_EQ(same, norm);
  EXPECT_NEAR(moment(norm / 4, &same) / norm, 0.25, 1e-4);
  EXPECT_EQ(same, norm);  // reported as it was
}

TEST_F(TrainerTest, GradientsThatAreNotFiniteChangeNothing) {
  const std::shared_ptr<Flow> flow = NewFlow();
  const at::Tensor x = Train().batches.front();
  flow->InitialiseFrom(x);
  for (const EmaScheme scheme : {EmaScheme::kPolyak, EmaScheme::kAlternating}) {
    Updater updater(flow, kDecay, scheme);
    const std::vector<float> before = updater.Values();
    const Update update = updater.Step(x * 1e25, 1e-2);
    EXPECT_FALSE(update.done);
    EXPECT_TRUE(std::isfinite(update.loss)) << update.loss;
    EXPECT_EQ(updater.Values(), before);
    EXPECT_FALSE(updater.Revert()) << "no update was done";
    TrainState state;
    updater.Save(&state);
    EXPECT_EQ(state.average_updates, 0);
    EXPECT_EQ(state.first_moment, std::vector<float>(before.size()));
    EXPECT_TRUE(updater.Step(x, 1e-2).done);
  }
}

// The average is of the butterflies alone: what is kept has the others as they are.
TEST_F(TrainerTest, TheAverageOfTheButterfliesAloneIsKept) {
  options_.settings.ema_decay = 0.99;
  options_.settings.ema_scheme = EmaScheme::kAlternating;
  const Seen seen = Train();
  const std::shared_ptr<Flow> flow = NewFlow();
  size_t butterflies = 0, all = 0;
  for (const auto& parameter : flow->named_parameters()) {
    const size_t size = static_cast<size_t>(parameter.value().numel());
    all += size;
    if (ByHand::IsButterfly(parameter.key())) butterflies += size;
  }
  EXPECT_GT(butterflies, 0u);
  EXPECT_LT(butterflies, all);
  const TrainState& last = seen.states.back();
  EXPECT_EQ(last.parameters.size(), all);
  EXPECT_EQ(last.first_moment.size(), all);
  EXPECT_EQ(last.average.size(), butterflies);
}

}  // namespace
}  // namespace bflow
