#include "model/training/run_setup.h"

#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status.h"
#include "base/version.h"
#include "model/training/fit_fixed_layers.h"
#include "model/training/image_presets.h"
#include "model/training/training_data.h"

namespace bflow {
namespace {

constexpr int64_t kMaxSpecBytes = int64_t{1} << 20;

absl::Status AddVariationalDequantization(FlowSpec* spec) {
  for (const LayerSpec& layer : spec->pre) {
    if (std::holds_alternative<VariationalDequantizationSpec>(layer)) {
      return absl::InvalidArgumentError("--dequantisation: the flow of --spec has this layer");
    }
    if (std::holds_alternative<BoxSpec>(layer)) {
      return absl::InvalidArgumentError(
          "--dequantisation: expected uniform: the code lengths of a box layer are exact already");
    }
  }
  VariationalDequantizationSpec layer;
  if (spec->is_image()) {
    layer.hidden = 32;
    layer.kernel = 3;
    layer.dilations = {1, 1, 1};
  }
  spec->pre.insert(std::find_if_not(spec->pre.begin(), spec->pre.end(), IsOnCodes), layer);
  return absl::OkStatus();
}

}  // namespace

TrainingSettings MergeSettings(const Preset& preset, const TrainOptions& options) {
  TrainingSettings settings = preset.settings;
  settings.steps = options.steps.value_or(settings.steps);
  settings.batch = options.batch.value_or(settings.batch);
  settings.ema_decay = options.ema.value_or(settings.ema_decay);
  settings.ema_scheme = options.ema_scheme.value_or(settings.ema_scheme);
  settings.validate_every = options.validate_every.value_or(settings.validate_every);
  if (options.butterfly_decay) settings.butterfly_decay = options.butterfly_decay;
  settings.precision = options.image.precision;
  Schedule& schedule = settings.schedule;
  schedule.kind = options.schedule.value_or(schedule.kind);
  schedule.learning_rate = options.learning_rate.value_or(schedule.learning_rate);
  schedule.warmup_steps = options.warmup_steps.value_or(schedule.warmup_steps);
  schedule.decay = options.decay.value_or(schedule.decay);
  return settings;
}

absl::StatusOr<std::optional<FlowSpec>> ReadSpecFile(const Preset& preset,
                                                     const TrainOptions& options) {
  if (options.spec_file.empty()) return std::optional<FlowSpec>();
  absl::StatusOr<std::string> text = ReadUserFile(options.spec_file, kMaxSpecBytes);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--spec: ", text.status().message()));
  }
  absl::StatusOr<FlowSpec> spec = ParseFlowSpec(*text);
  if (!spec.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--spec: ", spec.status().message()));
  }
  if (spec->is_image() != preset.image.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("--spec: architecture: expected ",
                                                   preset.image ? "image" : "waveform",
                                                   ", as --preset=", preset.name, " is one"));
  }
  if (spec->is_image()) return std::optional<FlowSpec>(*std::move(spec));
  if (spec->channel_count() != static_cast<int64_t>(options.signals.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--spec: ", spec->channel_count(), " channels, --signals names ", options.signals.size()));
  }
  if (options.window && *options.window != spec->time_steps()) {
    return absl::InvalidArgumentError(absl::StrCat("--window: the spec's is ", spec->time_steps()));
  }
  return std::optional<FlowSpec>(*std::move(spec));
}

absl::StatusOr<FlowSpec> MakeSpec(const Preset& preset, const std::optional<FlowSpec>& from_file,
                                  const TrainOptions& options, const TrainingEvents& data) {
  const std::vector<int64_t> shape = data.event_shape();
  FlowSpec spec;
  if (from_file) {
    spec = *from_file;
    if (!spec.quantised()) {
      return absl::InvalidArgumentError(
          "--spec: dequantisation: expected \"uniform\", records and images are codes");
    }
    if (spec.is_image() && spec.event_shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat("--spec: event_shape: [", absl::StrJoin(spec.event_shape, ", "),
                       "], the images are [", absl::StrJoin(shape, ", "), "]"));
    }
  } else if (preset.image) {
    ImageArchitecture architecture = *preset.image;
    architecture.blocks = options.image.blocks.value_or(architecture.blocks);
    if (options.image.hidden) architecture.hidden = options.image.hidden;
    spec = ImageFlowSpec(architecture, shape);
  } else {
    WriteArchitecture(preset, shape[0], shape[1], &spec);
  }
  if (options.dequantization == Dequantization::kVariational) {
    BFLOW_RETURN_IF_ERROR(AddVariationalDequantization(&spec));
  }
  spec.event_shape = shape;
  spec.sampling_rate_hz = data.frames_per_second();
  spec.sensitivity =
      options.sensitivity.value_or(spec.is_image() ? Sensitivity::kNone : Sensitivity::kPatient);
  spec.channels = data.channels();
  if (HasLattice(spec)) {
    std::vector<int64_t>& sizes = std::get<LatticeSpec>(spec.pre.front()).sizes;
    sizes.clear();
    for (const std::vector<int64_t>& seen : LatticeCodes(data)) {
      sizes.push_back(static_cast<int64_t>(seen.size()));
    }
  }
  BFLOW_RETURN_IF_ERROR(ValidateFlowSpec(spec));
  return spec;
}

std::string Fingerprint(const TrainOptions& options, const TrainingSettings& settings,
                        const FlowSpec& spec, const TrainingEvents& data) {
  const Schedule& s = settings.schedule;
  std::string text = absl::StrCat(
      kVersion, "\n", FlowSpecToJson(spec), "\n", options.seed, " ", settings.steps, " ",
      settings.batch, " ", settings.ema_decay, " ", static_cast<int>(settings.ema_scheme), " ",
      settings.validate_every, " ", ScheduleName(s.kind), " ", s.learning_rate, " ", s.warmup_steps,
      " ", s.decay, " ", static_cast<int>(settings.start), " ", settings.first_batch, " ",
      settings.largest_gradient, " ", options.keep ? static_cast<int>(*options.keep) : -1, " ",
      settings.butterfly_decay.value_or(-1), " ", static_cast<int>(settings.precision), " ",
      data.Description());
  constexpr int64_t kSampled = 64;  // windows of each part whose codes go in
  for (DataPart part : {DataPart::kTrain, DataPart::kValidation}) {
    int64_t rows = 0;
    const std::vector<float> codes = data.Gather(part, false, kSampled, &rows);
    absl::StrAppend(&text, "\n", data.Count(part), " ");
    text.append(reinterpret_cast<const char*>(codes.data()), codes.size() * sizeof(float));
  }
  return Sha256Hex(text);
}

}  // namespace bflow
