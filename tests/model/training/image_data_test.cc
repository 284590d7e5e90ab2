// Images as training data: parts, epochs, bits, augmentation; and the presets of images, whose
// flows have the sizes that the paper states.
#include "model/training/image_data.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/data/augment.h"
#include "model/training/image_presets.h"
#include "model/training/options.h"

namespace bflow {
namespace {

using ::testing::HasSubstr;

// Image i: all pixels are i, but for those of its first row, which count up from i.
ImageSet Images(int64_t count, ImageShape shape = {1, 6, 6}) {
  ImageSet set;
  set.shape = shape;
  set.count = count;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < shape.size(); ++d) {
      set.pixels.push_back(static_cast<uint8_t>(i + (d < shape.width ? d : 0)));
    }
  }
  return set;
}

ImageData::Request Request(double train, double validation, double calibration) {
  ImageData::Request request;
  request.fractions = {train, validation, calibration};
  return request;
}

ImageData Data(int64_t count, const ImageData::Request& request) {
  absl::StatusOr<ImageData> data = ImageData::Create(Images(count), request);
  EXPECT_TRUE(data.ok()) << data.status();
  return *std::move(data);
}

// The first pixel tells the image.
std::vector<int> Draw(TrainingDraws& draws, uint64_t first, int64_t count, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<float> codes(36);
  std::vector<int> images;
  for (int64_t k = 0; k < count; ++k) {
    EXPECT_TRUE(draws.Draw(first + static_cast<uint64_t>(k), random, codes.data()).ok());
    images.push_back(static_cast<int>(codes[0]));
  }
  return images;
}

TEST(ImageData, PartsAreTheGivenOrder) {
  const ImageData data = Data(50, Request(0.64, 0.08, 0.08));
  EXPECT_EQ(data.Count(DataPart::kTrain), 32);
  EXPECT_EQ(data.Count(DataPart::kValidation), 4);
  EXPECT_EQ(data.Count(DataPart::kCalibration), 4);
  EXPECT_EQ(data.Count(DataPart::kTest), 10);
  EXPECT_EQ(Data(50, Request(0.8, 0, 0)).Count(DataPart::kTest), 10);
  int64_t rows = 0;
  const std::vector<float> test = data.Gather(DataPart::kTest, false, 5, &rows);
  ASSERT_EQ(rows, 5);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(test[i * 36], 40 + 2 * static_cast<float>(i));
  EXPECT_EQ(data.event_shape(), (std::vector<int64_t>{1, 6, 6}));
}

TEST(ImageData, AnEpochIsEveryImageOnceButForTheIncompleteBatch) {
  const ImageData data = Data(30, Request(0.8, 0, 0));  // 24: three batches of 7
  const auto draws = *data.Draws(5, 7);
  std::vector<int> first = Draw(*draws, 0, 21), second = Draw(*draws, 21, 21);
  EXPECT_NE(first, second);
  for (std::vector<int>* epoch : {&first, &second}) {
    std::sort(epoch->begin(), epoch->end());
    EXPECT_EQ(std::unique(epoch->begin(), epoch->end()), epoch->end());
    EXPECT_LT(epoch->back(), 24);
  }
  EXPECT_NE(first, second) << "other images are left out";
  EXPECT_NE(Draw(**data.Draws(6, 7), 0, 21), Draw(**data.Draws(5, 7), 0, 21));
  // What a row is does not depend on how it was reached.
  const std::vector<int> rest = Draw(**data.Draws(5, 7), 30, 40);
  const std::vector<int> all = Draw(**data.Draws(5, 7), 0, 70);
  EXPECT_EQ(rest, std::vector<int>(all.begin() + 30, all.end()));
}

TEST(ImageData, KeepsTheBitsThatAreAskedFor) {
  ImageData::Request request = Request(1, 0, 0);
  request.bits = 5;
  const ImageData data = Data(20, request);
  int64_t rows = 0;
  const std::vector<float> codes = data.Gather(DataPart::kTrain, false, 20, &rows);
  EXPECT_EQ(codes[35], 0);
  EXPECT_EQ(codes[19 * 36 + 35], 16);
  EXPECT_EQ(data.channels()[0].step, 8);
  std::mt19937_64 random(1);
  std::vector<float> drawn(36);
  const auto draws = *data.Draws(1, 4);
  ASSERT_TRUE(draws->Draw(0, random, drawn.data()).ok());
  for (const float code : drawn) EXPECT_EQ(static_cast<int>(code) % 8, 0);
}

TEST(ImageData, AugmentsWithTheRunsGenerator) {
  ImageData::Request request = Request(1, 0, 0);
  request.augmentations = Augmentations::kCropFlip;
  const ImageData data = Data(8, request);
  const auto draws = *data.Draws(1, 8);
  const std::vector<int> order = Draw(**Data(8, Request(1, 0, 0)).Draws(1, 8), 0, 8);
  std::mt19937_64 random(9), by_hand(9);
  const ImageSet images = Images(8);
  for (uint64_t row = 0; row < 8; ++row) {
    std::vector<float> codes(36);
    ASSERT_TRUE(draws->Draw(row, random, codes.data()).ok());
    std::vector<uint8_t> expected(36);
    const Augmentation augmentation = DrawAugmentation(true, by_hand);
    ASSERT_TRUE(Augment(images.shape, images.Image(order[row]), augmentation, expected).ok());
    EXPECT_EQ(codes, std::vector<float>(expected.begin(), expected.end()));
  }
}

TEST(ImageData, ScalesPixelsAndNamesChannels) {
  const ImageData data = *ImageData::Create(Images(4, {3, 6, 6}), Request(1, 0, 0));
  ASSERT_EQ(data.channels().size(), 3u);
  EXPECT_EQ(data.channels()[2].name, "blue");
  EXPECT_EQ(data.channels()[2].lo, 0);
  EXPECT_EQ(data.channels()[2].hi, 256);
  EXPECT_EQ(data.channels()[2].input_max, 255);
  EXPECT_EQ(data.InitialisationRows(), 4);
  EXPECT_EQ(Data(10, Request(1, 0, 0)).channels()[0].name, "grey");
  EXPECT_EQ(ImageData::Create(Images(4, {2, 6, 6}), Request(1, 0, 0))->channels()[1].name,
            "channel1");
}

TEST(ImageData, RefusesWhatCannotTrain) {
  EXPECT_THAT(std::string(ImageData::Create(Images(3), Request(0.2, 0, 0)).status().message()),
              HasSubstr("no training image among 3"));
  ImageData::Request request = Request(1, 0, 0);
  request.augmentations = Augmentations::kCrop;
  const auto small = ImageData::Create(Images(3, {1, 4, 8}), request);
  EXPECT_THAT(std::string(small.status().message()), HasSubstr("at least 5"));
  EXPECT_THAT(std::string(Data(10, Request(0.5, 0, 0)).Draws(1, 6).status().message()),
              HasSubstr("--batch: 6, the training part has 5 images"));
}

struct Weights {
  int64_t all = 0;
  int64_t butterflies = 0;
};

FlowSpec SpecOf(const std::string& preset, const std::vector<int64_t>& shape) {
  FlowSpec spec = ImageFlowSpec(*FindPreset(preset)->image, shape);
  for (int64_t c = 0; c < shape[0]; ++c) {
    ChannelSpec channel;
    channel.name = "channel" + std::to_string(c);
    channel.input_max = 255;
    channel.lo = 0;
    channel.hi = 256;
    spec.channels.push_back(channel);
  }
  EXPECT_TRUE(ValidateFlowSpec(spec).ok()) << ValidateFlowSpec(spec);
  return spec;
}

Weights CountWeights(const FlowSpec& spec) {
  Weights weights;
  for (const TensorSpec& tensor : ExpectedTensors(spec)) {
    if (tensor.is_index()) continue;
    const int64_t values = std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1},
                                           std::multiplies<int64_t>());
    weights.all += values;
    if (tensor.rule == TensorRule::kFactor) weights.butterflies += values;
  }
  return weights;
}

// The counts of the authors' models.
TEST(ImagePresets, HaveTheSizesOfThePaper) {
  const std::vector<int64_t> colour = {3, 32, 32};
  const Weights galaxy = CountWeights(SpecOf("galaxy", colour));
  EXPECT_EQ(galaxy.all, 6'385'152);
  EXPECT_EQ(galaxy.butterflies, 135'168);
  const Weights cifar10 = CountWeights(SpecOf("cifar10", colour));
  EXPECT_EQ(cifar10.all, 44'378'016);
  EXPECT_EQ(cifar10.butterflies, 202'752);
  const Weights permuted = CountWeights(SpecOf("cifar10-permuted", colour));
  EXPECT_EQ(permuted.all, 47'508'384);
  EXPECT_EQ(permuted.butterflies, 3'333'120);
  EXPECT_EQ(CountWeights(SpecOf("imagenet32", colour)).all, cifar10.all);
}

TEST(ImagePresets, MnistHasFourFactorsThenThree) {
  const FlowSpec spec = SpecOf("mnist", {1, 28, 28});
  ASSERT_EQ(spec.levels.size(), 2u);
  EXPECT_EQ(std::get<ButterflySpec>(spec.levels[0].blocks[7][2]).factors, 4);
  EXPECT_EQ(std::get<ButterflySpec>(spec.levels[0].prior[2]).factors, 4);
  EXPECT_EQ(std::get<Conv2dCouplingSpec>(spec.levels[0].prior[3]).hidden, 32);
  EXPECT_EQ(std::get<ButterflySpec>(spec.levels[1].blocks[0][2]).factors, 3);
  EXPECT_TRUE(spec.levels[1].prior.empty());
}

TEST(ImagePresets, TrainAsTheAuthorsDid) {
  const Preset permuted = *FindPreset("cifar10-permuted");
  EXPECT_TRUE(std::holds_alternative<PermutationSpec>(SpecOf(permuted.name, {3, 32, 32}).pre[0]));
  EXPECT_EQ(permuted.settings.ema_scheme, EmaScheme::kAlternating);
  EXPECT_EQ(permuted.settings.butterfly_decay, 0.99);
  EXPECT_EQ(permuted.settings.start, TrainingStart::kDrawn);
  const Preset cifar10 = *FindPreset("cifar10");
  EXPECT_EQ(cifar10.settings.batch, 128);
  EXPECT_EQ(cifar10.settings.ema_decay, 0);
  EXPECT_EQ(cifar10.settings.start, TrainingStart::kIdentityButterflies);
  EXPECT_DOUBLE_EQ(cifar10.settings.schedule.RateAt(5), 5e-4);
  EXPECT_DOUBLE_EQ(cifar10.settings.schedule.RateAt(12), 1e-3 * 0.999997 * 0.999997);
  const Preset galaxy = *FindPreset("galaxy");
  EXPECT_EQ(galaxy.settings.batch, 64);
  EXPECT_EQ(galaxy.settings.ema_decay, 0.999);
  EXPECT_EQ(galaxy.settings.butterfly_decay, 0.996);
  EXPECT_EQ(galaxy.image->augmentations, Augmentations::kCropFlip);
}

TEST(ImageOptions, AreParsed) {
  const std::vector<std::string> minimal = {"--preset=galaxy", "--data=a.npy", "b.npy", "--out=o",
                                            "--model=m"};
  const TrainOptions defaults = *ParseTrainOptions(minimal);
  EXPECT_EQ(defaults.data, (std::vector<std::string>{"a.npy", "b.npy"}));
  EXPECT_FALSE(defaults.image.augmentations.has_value());
  EXPECT_EQ(defaults.image.precision, ConvolutionPrecision::kFloat32);
  std::vector<std::string> all = minimal;
  all.insert(all.end(), {"--hidden=32", "--blocks=2", "--bits=5", "--augmentation=crop",
                         "--convolution_precision=bf16", "--sample_every=9", "--sample-dir=d",
                         "--draws=3", "--butterfly_decay=0.5"});
  const TrainOptions given = *ParseTrainOptions(all);
  EXPECT_EQ(given.image.hidden, 32);
  EXPECT_EQ(given.image.blocks, 2);
  EXPECT_EQ(given.image.bits, 5);
  EXPECT_EQ(given.image.augmentations, Augmentations::kCrop);
  EXPECT_EQ(given.image.precision, ConvolutionPrecision::kBf16);
  EXPECT_EQ(given.image.sample_every, 9);
  EXPECT_EQ(given.image.sample_dir, "d");
  EXPECT_EQ(given.draws, 3);
  EXPECT_EQ(given.butterfly_decay, 0.5);
  EXPECT_THAT(TrainHelp(), HasSubstr("cifar10-permuted"));
  for (const char* wrong : {"--hidden=0", "--bits=0", "--draws=0", "--butterfly_decay=1.5",
                            "--window=64", "--signals=A", "--sample_dir=d"}) {
    std::vector<std::string> arguments = minimal;
    arguments.push_back(wrong);
    EXPECT_FALSE(ParseTrainOptions(arguments).ok()) << wrong;
  }
}

}  // namespace
}  // namespace bflow
