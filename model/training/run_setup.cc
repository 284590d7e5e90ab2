#include "model/training/run_setup.h"

#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status.h"
#include "base/version.h"
#include "model/data/wfdb.h"
#include "model/training/save_model.h"

namespace bflow {
namespace {

constexpr int64_t kMaxSpecBytes = int64_t{1} << 20;

}  // namespace

TrainingSettings MergeSettings(const Preset& preset, const TrainOptions& options) {
  TrainingSettings settings = preset.settings;
  settings.steps = options.steps.value_or(settings.steps);
  settings.batch = options.batch.value_or(settings.batch);
  settings.ema_decay = options.ema.value_or(settings.ema_decay);
  settings.ema_scheme = options.ema_scheme.value_or(settings.ema_scheme);
  settings.validate_every = options.validate_every.value_or(settings.validate_every);
  Schedule& schedule = settings.schedule;
  schedule.kind = options.schedule.value_or(schedule.kind);
  schedule.learning_rate = options.learning_rate.value_or(schedule.learning_rate);
  schedule.warmup_steps = options.warmup_steps.value_or(schedule.warmup_steps);
  schedule.decay = options.decay.value_or(schedule.decay);
  return settings;
}

absl::StatusOr<std::optional<FlowSpec>> ReadSpecFile(const TrainOptions& options) {
  if (options.spec_file.empty()) return std::optional<FlowSpec>();
  absl::StatusOr<std::string> text = ReadUserFile(options.spec_file, kMaxSpecBytes);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--spec: ", text.status().message()));
  }
  absl::StatusOr<FlowSpec> spec = ParseFlowSpec(*text);
  if (!spec.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--spec: ", spec.status().message()));
  }
  if (spec->architecture != "waveform") {
    return absl::InvalidArgumentError("--spec: architecture: expected waveform");
  }
  if (spec->channel_count() != static_cast<int64_t>(options.signals.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--spec: ", spec->channel_count(), " channels, --signals names ", options.signals.size()));
  }
  if (options.window && *options.window != spec->time_steps()) {
    return absl::InvalidArgumentError(absl::StrCat("--window: the spec's is ", spec->time_steps()));
  }
  return std::optional<FlowSpec>(*std::move(spec));
}

FlowSpec MakeSpec(const std::optional<FlowSpec>& from_file, const TrainOptions& options,
                  const TrainingData& data) {
  FlowSpec spec;
  const int64_t channels = static_cast<int64_t>(data.channels().size());
  if (from_file) {
    spec = *from_file;
  } else {
    WriteArchitecture(*FindPreset(options.preset), data.window(), channels, &spec);
  }
  spec.event_shape = {data.window(), channels};
  spec.sampling_rate_hz = data.frames_per_second();
  spec.sensitivity = options.sensitivity;
  spec.channels = data.channels();
  return spec;
}

absl::StatusOr<TrainingData> LoadData(const TrainOptions& options, int64_t window,
                                      int* records_failed) {
  std::vector<WaveformRecord> records;
  for (const std::string& path : options.data) {
    absl::StatusOr<WaveformRecord> record = ReadWfdbRecord(path);
    if (record.ok()) {
      records.push_back(*std::move(record));
      continue;
    }
    std::fprintf(stderr, "bflow-train: %s\n", std::string(record.status().message()).c_str());
    ++*records_failed;
  }
  if (records.empty()) return absl::InvalidArgumentError("--data: no record can be read");
  TrainingData::Request request;
  request.signals = options.signals;
  request.step = options.step;
  request.window = window;
  request.hop = options.hop.value_or(window);
  request.fractions = {options.train_fraction, options.validation_fraction,
                       options.calibration_fraction};
  BFLOW_ASSIGN_OR_RETURN(TrainingData data, TrainingData::Create(std::move(records), request));
  for (const std::string& rejected : data.rejected()) {
    std::fprintf(stderr, "bflow-train: %s\n", rejected.c_str());
    ++*records_failed;
  }
  for (const std::string& skipped : data.skipped()) {
    std::fprintf(stderr, "skipped %s\n", skipped.c_str());
  }
  if (options.calibration_fraction > 0) {
    int64_t usable = 0;
    for (const RecordWindow& w : data.windows(DataPart::kCalibration)) {
      if (!data.IsConstant(w)) ++usable;
    }
    if (usable < kFewestCalibrationWindows) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--calibration_fraction: the part has ", usable, " windows without a constant channel, ",
          kFewestCalibrationWindows, " are the least; use 0 to train without a calibration"));
    }
  }
  return data;
}

std::string Fingerprint(const TrainOptions& options, const TrainingSettings& settings,
                        const FlowSpec& spec, const TrainingData& data) {
  const Schedule& s = settings.schedule;
  std::string text = absl::StrCat(
      kVersion, "\n", FlowSpecToJson(spec), "\n", options.seed, " ", settings.steps, " ",
      settings.batch, " ", settings.ema_decay, " ", static_cast<int>(settings.ema_scheme), " ",
      settings.validate_every, " ", ScheduleName(s.kind), " ", s.learning_rate, " ", s.warmup_steps,
      " ", s.decay, " ", static_cast<int>(settings.start), " ", settings.first_batch, " ",
      settings.largest_gradient, " ", options.keep ? static_cast<int>(*options.keep) : -1);
  constexpr int64_t kSampled = 64;  // windows of each part whose codes go in
  for (DataPart part : {DataPart::kTrain, DataPart::kValidation}) {
    int64_t rows = 0;
    const std::vector<float> codes = data.Gather(part, false, kSampled, &rows);
    absl::StrAppend(&text, "\n", data.windows(part).size(), " ");
    text.append(reinterpret_cast<const char*>(codes.data()), codes.size() * sizeof(float));
  }
  return Sha256Hex(text);
}

}  // namespace bflow
