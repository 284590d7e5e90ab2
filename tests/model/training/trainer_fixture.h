// A tiny training in this process, for tests that look at every step of it.
#ifndef BFLOW_TESTS_MODEL_TRAINING_TRAINER_FIXTURE_H_
#define BFLOW_TESTS_MODEL_TRAINING_TRAINER_FIXTURE_H_

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/Parallel.h"
#include "gtest/gtest.h"
#include "model/flow/flow.h"
#include "model/training/presets.h"
#include "model/training/trainer.h"
#include "model/training/training_data.h"
#include "tests/model/training/tiny_record.h"

namespace bflow {

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : data_(MakeData()) {
    at::set_num_threads(1);
    spec_.levels = PublishedWaveformLevels(data_.window(), 2);
    spec_.event_shape = {data_.window(), 2};
    spec_.sampling_rate_hz = data_.frames_per_second();
    spec_.channels = data_.channels();
    options_.seed = 3;
    options_.state_every = 1;
    options_.settings.steps = 8;
    options_.settings.batch = 4;
    options_.settings.validate_every = 3;
    options_.settings.schedule.learning_rate = 1e-2;
    options_.settings.schedule.warmup_steps = 2;
  }

  // With gaps: between the codes of B others are never seen.
  static TrainingData MakeData(bool gaps = false) {
    TrainingData::Request request;
    request.signals = {"A", "B"};
    request.window = request.hop = 16;
    request.fractions = {0.6, 0.2, 0};
    WaveformRecord record = TinyRecord(16 * 60);
    for (float& code : record.segments[0].signals[1].codes) {
      if (gaps) code *= code < 0 ? 3 : 2;
    }
    return *TrainingData::Create({std::move(record)}, request);
  }
  std::shared_ptr<Flow> NewFlow(at::ScalarType dtype = at::kFloat) const {
    std::shared_ptr<Flow> flow = *Flow::Create(spec_, options_.seed, dtype);
    flow->MoveTo(device_);
    return flow;
  }

  // A run, and what is seen of it.
  struct Seen {
    TrainingOutcome outcome;
    std::vector<TrainState> states;  // after each step that was done, but the last
    std::vector<TrainingReport> reports;
    std::vector<at::Tensor> batches;  // as drawn
    std::vector<float> kept;          // the flow's parameters in the end
  };
  // The batches whose numbers (from 0) `spoilt` says are made NaN.
  Seen Train(const std::function<bool(size_t)>& spoilt = {}, const TrainState* from = nullptr) {
    Seen seen;
    const std::shared_ptr<Flow> flow = NewFlow();
    Trainer trainer(flow, data_, options_);
    TrainerHooks hooks;
    hooks.state = [&](const TrainState& state) { seen.states.push_back(state); };
    hooks.report = [&](const TrainingReport& report, bool interval) {
      if (interval) seen.reports.push_back(report);
    };
    hooks.batch = [&](at::Tensor* batch) {
      seen.batches.push_back(batch->cpu().clone());
      if (spoilt && spoilt(seen.batches.size() - 1)) batch->fill_(std::nan(""));
    };
    const auto outcome = trainer.Run(hooks, from);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    seen.outcome = *outcome;
    seen.kept = ParameterValues(*flow);
    return seen;
  }

  TrainingData data_;
  FlowSpec spec_;
  TrainerOptions options_;
  at::Device device_ = at::kCPU;
};

}  // namespace bflow

#endif  // BFLOW_TESTS_MODEL_TRAINING_TRAINER_FIXTURE_H_
