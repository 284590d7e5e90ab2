// A training of images in this process: initialisation, resuming at every step, the butterflies'
// own rate, the precision of the convolutions, the figures of the test part, pictures.
#include <atomic>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/ops/empty.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "model/data/images.h"
#include "model/data/scaling.h"
#include "model/flow/flow.h"
#include "model/training/evaluate.h"
#include "model/training/image_data.h"
#include "model/training/image_presets.h"
#include "model/training/sample_picture.h"
#include "model/training/start_weights.h"
#include "model/training/trainer.h"

namespace bflow {
namespace {

// 24 pictures of a bright square somewhere on a noisy ground.
ImageSet Squares() {
  ImageSet set;
  set.shape = {1, 8, 8};
  set.count = 24;
  std::mt19937_64 random(1);
  for (int64_t i = 0; i < set.count; ++i) {
    const auto top = random() % 5, left = random() % 5;
    for (uint64_t d = 0; d < 64; ++d) {
      const bool inside = d / 8 - top < 4 && d % 8 - left < 4;
      set.pixels.push_back(static_cast<uint8_t>((inside ? 200 : 20) + random() % 40));
    }
  }
  return set;
}

class ImageTrainerTest : public ::testing::Test {
 protected:
  ImageTrainerTest() : data_(MakeData()) {
    at::set_num_threads(1);
    ImageArchitecture architecture;
    architecture.levels = 2;
    architecture.blocks = 1;
    architecture.factors = 2;
    architecture.hidden = 8;
    spec_ = ImageFlowSpec(architecture, data_.event_shape());
    spec_.channels = data_.channels();
    options_.seed = 3;
    options_.state_every = 1;
    options_.settings.steps = 8;  // epochs of four
    options_.settings.batch = 4;
    options_.settings.validate_every = 3;
    options_.settings.ema_decay = 0.9;
    options_.settings.ema_scheme = EmaScheme::kAlternating;
    options_.settings.butterfly_decay = 0.5;
    options_.settings.schedule.learning_rate = 1e-2;
  }

  static ImageData MakeData() {
    ImageData::Request request;
    request.fractions = {0.7, 0.1, 0};
    request.augmentations = Augmentations::kCropFlip;
    return *ImageData::Create(Squares(), request);
  }
  std::shared_ptr<Flow> NewFlow() const {
    std::shared_ptr<Flow> flow = *Flow::Create(spec_, options_.seed, at::kFloat);
    SetButterfliesToIdentity(*flow);
    return flow;
  }

  struct Seen {
    std::shared_ptr<Flow> flow;
    TrainingOutcome outcome;
    std::vector<TrainState> states;
    std::vector<double> losses;
  };
  Seen Train(const TrainState* from = nullptr) {
    Seen seen;
    seen.flow = NewFlow();
    Trainer trainer(seen.flow, data_, options_);
    TrainerHooks hooks;
    hooks.state = [&](TrainState state) {
      state.seconds = 0;
      seen.states.push_back(std::move(state));
    };
    hooks.report = [&](const TrainingReport& report, bool interval) {
      if (interval) seen.losses.push_back(report.train_nll);
    };
    const auto outcome = trainer.Run(hooks, from);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    seen.outcome = *outcome;
    return seen;
  }
  // Rows under draw `draw` of the noise of an evaluation, or without noise.
  at::Tensor Scaled(const std::vector<float>& codes, CodeNoise kind, uint32_t draw) const {
    const int64_t rows = static_cast<int64_t>(codes.size()) / 64;
    const Noise noise = EvaluationNoise(spec_, options_.seed);
    at::Tensor x = at::empty(Batched(rows, spec_.event_shape), at::kFloat);
    for (int64_t row = 0; row < rows; ++row) {
      ScaleEvent(spec_, std::span(codes).subspan(static_cast<size_t>(row) * 64, 64), kind,
                 noise.seed, noise.row_offset + static_cast<uint64_t>(row), draw,
                 {x.data_ptr<float>() + row * 64, 64});
    }
    return x;
  }

  ImageData data_;
  FlowSpec spec_;
  TrainerOptions options_;
};

TEST_F(ImageTrainerTest, StartsFromTheTrainingImagesWithoutNoise) {
  options_.settings.schedule.learning_rate = 0;
  options_.settings.steps = 1;
  const Seen seen = Train();
  int64_t rows = 0;
  const std::vector<float> codes = data_.Gather(DataPart::kTrain, false, 2048, &rows);
  EXPECT_EQ(rows, 16);
  const std::shared_ptr<Flow> flow = NewFlow();
  flow->InitialiseFrom(Scaled(codes, CodeNoise::kNone, 0));
  EXPECT_EQ(ParameterValues(*seen.flow), ParameterValues(*flow));
}

TEST_F(ImageTrainerTest, ButterfliesStartAsTheIdentity) {
  int factors = 0;
  for (const auto& [name, tensor] : NewFlow()->NamedTensors()) {
    if (name.find(".factors.") == std::string::npos) continue;
    ++factors;
    for (const int64_t h : {0, 1}) {
      for (const int64_t o : {0, 1}) {
        EXPECT_TRUE((tensor.select(1, h).select(2, o) == (h == o ? 1 : 0)).all().item<bool>());
      }
    }
  }
  EXPECT_EQ(factors, 5);
}

TEST_F(ImageTrainerTest, ResumedAtEveryStepGivesTheSameBits) {
  const Seen whole = Train();
  ASSERT_EQ(whole.states.size(), 7u);
  for (size_t k = 0; k < whole.states.size(); ++k) {
    SCOPED_TRACE(absl::StrCat("after step ", k + 1));
    const TrainState from = *ParseTrainState(*SerialiseTrainState(whole.states[k]));
    const Seen rest = Train(&from);
    EXPECT_EQ(ParameterValues(*rest.flow), ParameterValues(*whole.flow));
    ASSERT_EQ(rest.states.size(), whole.states.size() - k - 1);
    for (size_t i = 0; i < rest.states.size(); ++i) {
      EXPECT_EQ(*SerialiseTrainState(rest.states[i]),
                *SerialiseTrainState(whole.states[k + 1 + i]));
    }
  }
}

// 0^epoch is 1 in the first epoch and 0 afterwards.
TEST_F(ImageTrainerTest, TheButterfliesRateFallsByEpoch) {
  options_.settings.butterfly_decay = 0;
  const Seen seen = Train();
  const auto parameters = seen.flow->named_parameters();
  const auto moved = [&](size_t from, size_t to, bool of_butterflies) {
    size_t next = 0;
    bool any = false;
    for (const auto& parameter : parameters) {
      const bool butterfly = parameter.key().find(".factors.") != std::string::npos;
      const size_t end = next + static_cast<size_t>(parameter.value().numel());
      for (; next < end; ++next) {
        if (butterfly != of_butterflies) continue;
        any |= seen.states[from].parameters[next] != seen.states[to].parameters[next];
      }
    }
    return any;
  };
  EXPECT_TRUE(moved(2, 3, true));   // the fourth update, the last of epoch 0
  EXPECT_FALSE(moved(3, 6, true));  // epoch 1
  EXPECT_TRUE(moved(3, 6, false));
}

TEST_F(ImageTrainerTest, Bfloat16ConvolutionsTrainNearlyAsFloat32) {
  options_.settings.steps = 30;
  options_.settings.validate_every = 10;
  const Seen full = Train();
  options_.settings.precision = ConvolutionPrecision::kBf16;
  const Seen half = Train();
  EXPECT_LT(full.losses[2], full.losses[0] - 0.05);
  EXPECT_NE(ParameterValues(*half.flow), ParameterValues(*full.flow));
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(half.losses[i], full.losses[i], 0.02) << i;
  // What is kept computes in float32: the likelihood is that of a new flow with the same weights.
  const std::shared_ptr<Flow> copy = NewFlow();
  SetParameterValues(ParameterValues(*half.flow), *copy);
  int64_t rows = 0;
  const std::vector<float> codes = data_.Gather(DataPart::kTest, false, 4, &rows);
  EXPECT_EQ(*MeanNll(*half.flow, codes, rows, 1, nullptr),
            *MeanNll(*copy, codes, rows, 1, nullptr));
}

TEST_F(ImageTrainerTest, TheFiguresOfTheTestPartByHand) {
  const Seen seen = Train();
  int64_t rows = 0;
  const std::vector<float> codes = data_.Gather(DataPart::kTest, false, 100, &rows);
  ASSERT_EQ(rows, 5);
  const c10::NoGradGuard no_grad;
  double mean = 0;
  std::vector<double> likelihoods(5, 0.0), anchor(5);
  for (uint32_t draw = 0; draw < 8; ++draw) {
    const at::Tensor log_prob = seen.flow->LogProb(Scaled(codes, CodeNoise::kUniform, draw));
    for (int64_t row = 0; row < 5; ++row) {
      const auto r = static_cast<size_t>(row);
      const double value = log_prob[row].item<double>();
      if (draw == 0) anchor[r] = value;
      mean -= value / 8 / 5 / 64;
      likelihoods[r] += std::exp(value - anchor[r]) / 8;
    }
  }
  double weighted = 0;
  for (size_t r = 0; r < 5; ++r) weighted -= (anchor[r] + std::log(likelihoods[r])) / 5 / 64;
  const TestFigures figures = *EvaluateDraws(*seen.flow, codes, rows, options_.seed, 8);
  EXPECT_EQ(figures.rows, rows);
  const std::atomic<bool> stop = true;
  EXPECT_EQ(EvaluateDraws(*seen.flow, codes, rows, options_.seed, 8, &stop)->rows, 0);
  EXPECT_NEAR(figures.nll, mean, 1e-6);
  EXPECT_NEAR(figures.importance_weighted_nll, weighted, 1e-6);
  EXPECT_LT(figures.importance_weighted_nll, figures.nll);
  EXPECT_EQ(figures.not_finite, 0);
  // bits/dim = (NLL + log(128) D) / (D log 2)
  EXPECT_NEAR(CodeUnitOffset(spec_), std::log(128), 1e-12);
  EXPECT_NEAR(EvaluateDraws(*seen.flow, codes, rows, options_.seed, 1)->nll,
              *MeanNll(*seen.flow, codes, rows, options_.seed, nullptr), 1e-12);
}

TEST_F(ImageTrainerTest, PicturesOfSamples) {
  const Seen seen = Train();
  const std::string path = ::testing::TempDir() + "/bflow_samples.png";
  ASSERT_TRUE(WriteSamplePicture(*seen.flow, 1, path).ok());
  const ImageSet picture = *ReadImages({path});
  EXPECT_EQ(picture.shape, (ImageShape{1, 4 * 10 + 2, 8 * 10 + 2}));
  ASSERT_TRUE(WriteSamplePicture(*seen.flow, 1, path).ok());
  EXPECT_EQ(ReadImages({path})->pixels, picture.pixels);
  ASSERT_TRUE(WriteSamplePicture(*seen.flow, 2, path).ok());
  EXPECT_NE(ReadImages({path})->pixels, picture.pixels);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace bflow
