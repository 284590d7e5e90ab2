// The training loop: steps that are not finite, the end of a run that diverges, and resuming at
// every step.
#include "model/training/trainer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/training/fit_fixed_layers.h"
#include "tests/model/training/trainer_fixture.h"

namespace bflow {
namespace {

// All of a state but its time.
std::string Bytes(TrainState state) {
  state.seconds = 0;
  return *SerialiseTrainState(state);
}

bool AllFinite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

TEST_F(TrainerTest, ResumedAtEveryStepGivesTheSameBits) {
  for (const KeepCheckpoint keep : {KeepCheckpoint::kLast, KeepCheckpoint::kBest}) {
    for (const double decay : {0.0, 0.9}) {
      for (const EmaScheme scheme : {EmaScheme::kPolyak, EmaScheme::kAlternating}) {
        options_.keep = keep;
        options_.settings.ema_decay = decay;
        options_.settings.ema_scheme = scheme;
        const auto spoilt = [](size_t batch) { return batch == 2 || batch == 5 || batch == 6; };
        const Seen whole = Train(spoilt);
        ASSERT_EQ(whole.states.size(), 7u);
        for (size_t k = 0; k < whole.states.size(); ++k) {
          SCOPED_TRACE(absl::StrCat("after step ", k + 1));
          const TrainState from = *ParseTrainState(*SerialiseTrainState(whole.states[k]));
          const size_t drawn = k + 1 + static_cast<size_t>(from.skipped_steps);
          const Seen rest = Train([&](size_t batch) { return spoilt(batch + drawn); }, &from);
          EXPECT_EQ(rest.kept, whole.kept);
          EXPECT_EQ(rest.outcome.skipped_steps, 3);
          EXPECT_EQ(rest.outcome.kept_step, whole.outcome.kept_step);
          EXPECT_EQ(rest.outcome.validation_nll, whole.outcome.validation_nll);
          ASSERT_EQ(rest.states.size(), whole.states.size() - k - 1);
          for (size_t i = 0; i < rest.states.size(); ++i) {
            EXPECT_EQ(Bytes(rest.states[i]), Bytes(whole.states[k + 1 + i])) << i;
          }
          EXPECT_EQ(rest.reports.back().train_nll, whole.reports.back().train_nll);
          EXPECT_EQ(rest.reports.back().gradient_norm, whole.reports.back().gradient_norm);
          EXPECT_GE(rest.outcome.seconds, from.seconds);
        }
      }
    }
  }
}

TEST_F(TrainerTest, TheDefaultPresetLearnsOnTopOfItsWhitening) {
  const Preset preset = *FindPreset(std::string(kDefaultPreset));
  WriteArchitecture(preset, data_.window(), 2, &spec_);
  const std::shared_ptr<Flow> flow = NewFlow(), again = NewFlow(), other = NewFlow();
  ASSERT_TRUE(FitFixedLayers(*flow, data_, 3).ok());
  ASSERT_TRUE(FitFixedLayers(*again, data_, 3).ok());
  ASSERT_TRUE(FitFixedLayers(*other, data_, 4).ok());
  const std::vector<at::Tensor> fitted = flow->buffers();
  EXPECT_GT(fitted[0].abs().max().item<double>(), 0.1);
  EXPECT_TRUE(again->buffers()[0].equal(fitted[0]));
  EXPECT_FALSE(other->buffers()[0].equal(fitted[0]));
  const at::Tensor lags = fitted[0].clone();
  options_.settings = preset.settings;
  options_.settings.steps = 60;
  Trainer trainer(flow, data_, options_);
  const auto outcome = trainer.Run({});
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->skipped_steps, 0);
  EXPECT_LT(outcome->last_nll, outcome->first_nll - 0.02);
  EXPECT_TRUE(flow->buffers()[0].equal(lags));  // nothing trains it
}

TEST_F(TrainerTest, ExactCodeLengthsAreLearntOnTheLatticeOfTheTrainingPart) {
  const Preset preset = *FindPreset("waveform-exact");
  WriteArchitecture(preset, data_.window(), 2, &spec_);
  data_ = MakeData(/*gaps=*/true);
  spec_.channels = data_.channels();
  std::vector<int64_t> sizes;
  const auto lattice = LatticeCodes(data_);
  for (const auto& seen : lattice) {
    EXPECT_EQ(seen.front(), 0);
    sizes.push_back(static_cast<int64_t>(seen.size()));
  }
  std::get<LatticeSpec>(spec_.pre[0]).sizes = sizes;
  const std::shared_ptr<Flow> flow = NewFlow();
  ASSERT_TRUE(FitFixedLayers(*flow, data_, 3).ok());
  ASSERT_EQ(lattice[0].size(), 1u) << "no rare codes: the identity";
  ASSERT_GT(lattice[1].size(), 100u);
  EXPECT_GT(lattice[1].back(), static_cast<int64_t>(2 * lattice[1].size()));
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : flow->NamedTensors()) tensors[name] = tensor;
  const at::Tensor codes = tensors.at("pre.0.codes.1");
  for (size_t i = 0; i < lattice[1].size(); ++i) {
    EXPECT_EQ(codes[static_cast<int64_t>(i)].item<int64_t>(), lattice[1][i]);
  }
  EXPECT_GT(tensors.at("pre.1.whitening.lags").abs().max().item<double>(), 0.05);
  options_.settings = preset.settings;
  options_.settings.steps = 40;
  Trainer trainer(flow, data_, options_);
  const auto outcome = trainer.Run({});
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->skipped_steps, 0);
  EXPECT_LT(outcome->last_nll, outcome->first_nll - 0.05);
  std::get<LatticeSpec>(spec_.pre[0]).sizes[1] += 1;
  EXPECT_EQ(FitFixedLayers(*NewFlow(), data_, 3).code(), absl::StatusCode::kInvalidArgument);
}

// 8 of 13 codes are a range with rare ones, every second one a lattice.
TEST(LatticeCodes, RankChannelsOfEverySecondCodeAtTheMost) {
  struct Events : TrainingEvents {
    std::vector<std::vector<int64_t>> SeenCodes() const override {
      return {{0, 2, 4, 6, 8, 10, 11, 12}, {0, 2, 4, 6, 8, 10, 12}};
    }
    const std::vector<ChannelSpec>& channels() const override { return none; }
    std::vector<int64_t> event_shape() const override { return {}; }
    double frames_per_second() const override { return 0; }
    std::string noun() const override { return ""; }
    int64_t Count(DataPart) const override { return 0; }
    std::vector<float> Gather(DataPart, bool, int64_t, int64_t*) const override { return {}; }
    absl::StatusOr<std::unique_ptr<TrainingDraws>> Draws(uint64_t, int64_t) const override {
      return absl::UnimplementedError("");
    }
    int64_t InitialisationRows() const override { return 0; }
    std::map<std::string, std::string> CardFields() const override { return {}; }
    std::vector<ChannelSpec> none;
  };
  const auto codes = LatticeCodes(Events());
  EXPECT_EQ(codes[0], std::vector<int64_t>{0});
  EXPECT_EQ(codes[1], (std::vector<int64_t>{0, 2, 4, 6, 8, 10, 12}));
}

TEST_F(TrainerTest, AStartNearIdentityIsResumedToTheSameBits) {
  WriteArchitecture(*FindPreset(std::string(kDefaultPreset)), data_.window(), 2, &spec_);
  options_.settings.start = TrainingStart::kNearIdentity;
  options_.settings.first_batch = 6;
  const Seen whole = Train();
  const TrainState from = *ParseTrainState(*SerialiseTrainState(whole.states[2]));
  const Seen rest = Train({}, &from);
  EXPECT_EQ(rest.kept, whole.kept);
  EXPECT_EQ(rest.outcome.last_nll, whole.outcome.last_nll);  // permutations are no parameters
}

TEST_F(TrainerTest, AStateThatDoesNotFitIsRefused) {
  options_.settings.ema_decay = 0.9;
  const Seen whole = Train();
  options_.settings.ema_scheme = EmaScheme::kAlternating;
  Trainer trainer(NewFlow(), data_, options_);
  EXPECT_EQ(trainer.Run({}, &whole.states[0]).status().code(), absl::StatusCode::kDataLoss);
}

// The steps that were skipped left no trace but their count: the same batches without the spoilt
// ones, by hand.
TEST_F(TrainerTest, StepsThatAreNotFiniteAreSkippedAndCounted) {
  options_.settings.ema_decay = 0.9;
  const Seen seen = Train([](size_t batch) { return batch == 0 || batch == 4 || batch == 5; });
  EXPECT_EQ(seen.outcome.end, TrainingEnd::kFinished);
  EXPECT_EQ(seen.outcome.steps, 8);
  EXPECT_EQ(seen.outcome.skipped_steps, 3);
  EXPECT_EQ(seen.batches.size(), 11u);
  ASSERT_EQ(seen.reports.size(), 3u);
  EXPECT_EQ(seen.reports[0].skipped_steps, 1);
  EXPECT_EQ(seen.reports[1].skipped_steps, 3);
  EXPECT_EQ(seen.states[2].skipped_steps, 1);
  EXPECT_EQ(seen.states[3].skipped_steps, 3);

  // The first batch initialised the flow; it is no batch of a step.
  const std::shared_ptr<Flow> flow = NewFlow();
  {
    TrainerOptions one = options_;
    one.settings.steps = 1;
    Trainer trainer(flow, data_, one);
    TrainerHooks hooks;
    hooks.batch = [](at::Tensor* batch) { batch->fill_(std::nan("")); };
    EXPECT_EQ(trainer.Run(hooks)->end, TrainingEnd::kDiverged);
  }
  Schedule schedule = options_.settings.schedule;
  schedule.total_steps = 8;
  Updater updater(flow, 0.9, EmaScheme::kPolyak);
  double last_norm = 0;
  int64_t steps = 0;
  for (size_t i = 0; i < seen.batches.size(); ++i) {
    if (i == 0 || i == 4 || i == 5) continue;
    const Update update = updater.Step(seen.batches[i], schedule.RateAt(steps));
    ASSERT_TRUE(update.done);
    last_norm = update.gradient_norm;
    if (++steps == 8) continue;
    EXPECT_EQ(updater.Values(), seen.states[static_cast<size_t>(steps) - 1].parameters) << steps;
  }
  EXPECT_GT(last_norm, 0);
  updater.SwapAverage();
  EXPECT_EQ(updater.Values(), seen.kept);
}

TEST_F(TrainerTest, TenInARowEndTheRunWithTheLastGoodWeights) {
  const Seen seen = Train([](size_t batch) { return batch >= 5; });
  EXPECT_EQ(seen.outcome.end, TrainingEnd::kDiverged);
  EXPECT_EQ(seen.outcome.steps, 5);
  EXPECT_EQ(seen.outcome.skipped_steps, Trainer::kMaxBadSteps);
  // The weights after the fifth update never had a finite loss.
  EXPECT_EQ(seen.outcome.kept_step, 4);
  EXPECT_EQ(seen.kept, seen.states[3].parameters);

  const Seen nine = Train([](size_t batch) { return batch >= 5 && batch < 14; });
  EXPECT_EQ(nine.outcome.end, TrainingEnd::kFinished);
  EXPECT_EQ(nine.outcome.skipped_steps, 9);

  options_.keep = KeepCheckpoint::kBest;
  options_.settings.validate_every = 1;
  const Seen best = Train([](size_t batch) { return batch >= 5; });
  EXPECT_EQ(best.outcome.end, TrainingEnd::kDiverged);
  EXPECT_EQ(best.kept, best.states[static_cast<size_t>(best.outcome.kept_step) - 1].parameters);
}

TEST_F(TrainerTest, AnExplodingLearningRateEndsWithFiniteWeights) {
  options_.settings.schedule = {.kind = ScheduleKind::kConstant, .learning_rate = 1e30};
  for (const double decay : {0.0, 0.9}) {
    options_.settings.ema_decay = decay;
    const Seen seen = Train();
    EXPECT_EQ(seen.outcome.end, TrainingEnd::kDiverged);
    EXPECT_EQ(seen.outcome.steps, 1);
    EXPECT_EQ(seen.outcome.kept_step, 0);
    EXPECT_TRUE(AllFinite(seen.kept));
    ASSERT_TRUE(seen.outcome.validation_nll.has_value());
    EXPECT_LT(*seen.outcome.validation_nll, 5);
  }
  // The second pass sees what the first one did: the step is undone whole.
  options_.settings.ema_scheme = EmaScheme::kAlternating;
  const Seen seen = Train();
  EXPECT_EQ(seen.outcome.end, TrainingEnd::kDiverged);
  EXPECT_EQ(seen.outcome.steps, 0);
  EXPECT_TRUE(AllFinite(seen.kept));
  ASSERT_TRUE(seen.outcome.validation_nll.has_value());
  EXPECT_LT(*seen.outcome.validation_nll, 5);
}

}  // namespace
}  // namespace bflow
