#include "model/training/presets.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/training/image_presets.h"

namespace bflow {
namespace {

// How many butterfly factors a vector of `size` values can have: a factor at level i needs 2^(i+1)
// | size.
int MaxFactors(int64_t size) {
  int factors = 0;
  while (size > 0 && size % 2 == 0) {
    size /= 2;
    ++factors;
  }
  return factors;
}

std::vector<Preset> MakePresets() {
  Preset published;
  published.name = "waveform-published";
  published.summary = "the published waveform flow with our training: Adam 1e-2, cosine, batch 128";
  published.settings.schedule = {.kind = ScheduleKind::kCosine,
                                 .learning_rate = 1e-2,
                                 .warmup_steps = 20,
                                 .total_steps = 0,
                                 .decay = 1};

  Preset paper;
  paper.name = "waveform-paper";
  paper.summary =
      "the published waveform flow with the paper's schedule: Adam 1e-4, x 0.999995 per step, "
      "batch 1024";
  paper.settings.batch = 1024;
  paper.settings.schedule = {.kind = ScheduleKind::kExponential,
                             .learning_rate = 1e-4,
                             .warmup_steps = 1,
                             .total_steps = 0,
                             .decay = 0.999995};

  Preset waveform;
  waveform.name = std::string(kDefaultPreset);
  waveform.summary =
      "whitening, convolutional couplings (kernel 5, width 24), Student-t base: Adam 2e-3, cosine, "
      "batch 32 (the default)";
  waveform.settings.steps = 2700;
  waveform.settings.batch = 32;
  waveform.settings.start = TrainingStart::kNearIdentity;
  waveform.settings.first_batch = 64;
  waveform.settings.largest_gradient = 1e5;
  waveform.settings.schedule = {.kind = ScheduleKind::kCosine,
                                .learning_rate = 2e-3,
                                .warmup_steps = 20,
                                .total_steps = 0,
                                .decay = 1};
  waveform.convolutions = Conv1dCouplingSpec{.hidden = 24, .kernel = 5, .dilation = 2};

  Preset light = waveform;
  light.name = "waveform-light";
  light.summary = "the same with smaller couplings (kernel 3, width 16)";
  light.convolutions = Conv1dCouplingSpec{.hidden = 16, .kernel = 3, .dilation = 2};

  Preset exact;
  exact.name = "waveform-exact";
  exact.summary =
      "exact code lengths: lattice, adaptive box layer (width 32, dilations 1 to 81), logistic "
      "base: "
      "Adam 4e-3, cosine, batch 16";
  exact.settings.steps = 1400;
  exact.settings.batch = 16;
  exact.settings.first_batch = 1;          // nothing is initialised from it
  exact.settings.largest_gradient = 2048;  // 1 nat per value of a window of 1024 x 2
  exact.settings.schedule = {.kind = ScheduleKind::kCosine,
                             .learning_rate = 4e-3,
                             .warmup_steps = 20,
                             .total_steps = 0,
                             .decay = 1};
  exact.box = BoxSpec{.adaptive = true};

  std::vector<Preset> presets = {waveform, light, exact, published, paper};
  for (Preset& preset : ImagePresets()) presets.push_back(std::move(preset));
  return presets;
}

}  // namespace

const std::vector<Preset>& Presets() {
  static const std::vector<Preset> presets = MakePresets();
  return presets;
}

absl::StatusOr<Preset> FindPreset(const std::string& name) {
  std::string known;
  for (const Preset& preset : Presets()) {
    if (preset.name == name) return preset;
    absl::StrAppend(&known, known.empty() ? "" : ", ", preset.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--preset: unknown name; expected one of ", known));
}

std::vector<LevelSpec> PublishedWaveformLevels(int64_t window, int64_t channels) {
  constexpr int kLevels = 2;
  constexpr int kBlocks = 2;
  constexpr int kFactors = 10;
  std::vector<LevelSpec> levels;
  int64_t size = window * channels;
  for (int level = 0; level < kLevels; ++level) {
    ButterflySpec butterfly;
    butterfly.factors = std::min(kFactors - level, MaxFactors(size));
    std::vector<LayerSpec> block = {ActNormSpec{}, LuMatmulSpec{}, butterfly, AffineCouplingSpec{}};
    LevelSpec spec;
    spec.blocks.assign(kBlocks, block);
    spec.split = level + 1 < kLevels;
    levels.push_back(spec);
    size /= 2;
  }
  return levels;
}

void WriteArchitecture(const Preset& preset, int64_t window, int64_t channels, FlowSpec* spec) {
  constexpr int64_t kOrder = 16;
  const int order = static_cast<int>(std::clamp<int64_t>(window - 1, 1, kOrder));
  if (preset.box) {
    BoxSpec box = *preset.box;
    box.order = order;
    spec->pre = {LatticeSpec{}, box};
    spec->levels = {LevelSpec{.squeeze = 1, .blocks = {}, .prior = {}, .split = false}};
    spec->base = BaseKind::kLogistic;
    return;
  }
  spec->levels = PublishedWaveformLevels(window, channels);
  if (!preset.convolutions) return;
  spec->pre = {WhiteningSpec{.order = order}};
  spec->base = BaseKind::kStudentT;
  for (LevelSpec& level : spec->levels) {
    for (std::vector<LayerSpec>& block : level.blocks) block.back() = *preset.convolutions;
  }
}

}  // namespace bflow
