#include "model/training/image_presets.h"

#include <algorithm>

namespace bflow {
namespace {

// Hidden channels of the coupling in a prior step: 8 C, at most 512.
constexpr int64_t kMaxHidden = 512;

int MaxFactors(int64_t size) {
  int factors = 0;
  for (; size > 0 && size % 2 == 0; size /= 2) ++factors;
  return factors;
}

// Adam's rate of all the authors' image flows: up to 1e-3 within 10 steps, then x 0.999997 a step.
Preset AuthorsPreset(const std::string& name, const std::string& summary) {
  Preset preset;
  preset.name = name;
  preset.summary = summary;
  preset.image.emplace();
  TrainingSettings& settings = preset.settings;
  settings.schedule = {.kind = ScheduleKind::kExponential,
                       .learning_rate = 1e-3,
                       .warmup_steps = 10,
                       .total_steps = 0,
                       .decay = 0.999997};
  settings.steps = 100'000;
  settings.validate_every = 1'000;
  settings.start = TrainingStart::kIdentityButterflies;
  return preset;
}

void AlternateWithAverage(TrainingSettings* settings, double butterfly_decay) {
  settings->ema_decay = 0.999;
  settings->ema_scheme = EmaScheme::kAlternating;
  settings->butterfly_decay = butterfly_decay;
}

}  // namespace

std::vector<Preset> ImagePresets() {
  Preset cifar10 = AuthorsPreset(
      "cifar10", "the paper's CIFAR-10 flow: 3 levels x 32 blocks, 1 factor, Adam 1e-3, batch 128");
  cifar10.image->levels = 3;
  cifar10.image->blocks = 32;
  cifar10.image->factors = 1;

  Preset imagenet32 = cifar10;
  imagenet32.name = "imagenet32";
  imagenet32.summary = "the same flow and settings for ImageNet 32x32 (the release has no others)";

  Preset permuted = cifar10;
  permuted.name = "cifar10-permuted";
  permuted.summary =
      "the paper's flow for CIFAR-10 whose values are permuted: 10, 9, 8 factors, averaged";
  permuted.image->factors = 10;
  permuted.image->permuted = true;
  permuted.settings.start = TrainingStart::kDrawn;
  AlternateWithAverage(&permuted.settings, 0.99);

  Preset galaxy = AuthorsPreset(
      "galaxy",
      "the paper's flow of galaxies: 2 levels x 8 blocks, 2, 1 factors, averaged, batch 64");
  galaxy.image->levels = 2;
  galaxy.image->blocks = 8;
  galaxy.image->factors = 2;
  galaxy.settings.batch = 64;
  AlternateWithAverage(&galaxy.settings, 0.996);

  Preset mnist = galaxy;
  mnist.name = "mnist";
  mnist.summary =
      "MNIST (the release has no configuration): the galaxies' with 4, 3 factors, no augmentation";
  mnist.image->factors = 4;
  mnist.image->augmentations = Augmentations::kNone;
  mnist.settings.steps = 20'000;
  mnist.settings.validate_every = 200;
  return {mnist, cifar10, permuted, imagenet32, galaxy};
}

FlowSpec ImageFlowSpec(const ImageArchitecture& architecture,
                       const std::vector<int64_t>& event_shape) {
  FlowSpec spec;
  spec.architecture = "image";
  spec.event_shape = event_shape;
  if (architecture.permuted) spec.pre.push_back(PermutationSpec{});
  LevelShape shape = EventLevelShape(spec);
  for (int l = 0; l < architecture.levels; ++l) {
    LevelSpec level;
    level.squeeze = 2;
    shape = Squeezed(shape, level.squeeze);
    ButterflySpec butterfly;
    butterfly.shared = false;
    butterfly.factors = static_cast<int>(
        std::clamp<int64_t>(architecture.factors - l, 0, MaxFactors(shape.size())));
    const auto block = [&](int64_t hidden) {
      std::vector<LayerSpec> layers = {ActNormSpec{}, Conv1x1Spec{}};
      if (butterfly.factors > 0) layers.push_back(butterfly);
      layers.push_back(Conv2dCouplingSpec{static_cast<int>(architecture.hidden.value_or(hidden))});
      return layers;
    };
    level.blocks.assign(static_cast<size_t>(architecture.blocks), block(kMaxHidden));
    level.split = l + 1 < architecture.levels;
    if (level.split) {
      level.prior = block(std::min(8 * shape.channels, kMaxHidden));
      shape.channels /= 2;
    }
    spec.levels.push_back(level);
  }
  return spec;
}

}  // namespace bflow
