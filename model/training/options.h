// The command line of bflow-train as a checked struct. Torch-free.
#ifndef BFLOW_MODEL_TRAINING_OPTIONS_H_
#define BFLOW_MODEL_TRAINING_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/training/image_options.h"
#include "model/training/presets.h"
#include "model/training/schedule.h"

namespace bflow {

// Where in its code's cell the flow sees a value: uniform, or at a place that it learns.
enum class Dequantization { kUniform, kVariational };

// Which weights of a run are saved.
enum class KeepCheckpoint { kBest, kLast };

struct TrainOptions {
  bool help = false;  // --help or --version was given: nothing else is checked
  bool print_version = false;

  std::string preset = std::string(kDefaultPreset);
  // Records, without extension, in order of time; or files and folders of images.
  std::vector<std::string> data;
  std::vector<std::string> signals;  // channels of a waveform model
  std::string out;                   // repository
  std::string model;
  std::optional<int64_t> version;  // absent: the next free one
  std::string import_file;         // a model file to take over; nothing is trained then
  std::string spec_file;           // empty: the preset's architecture
  // Of both: kVariational puts that layer in front.
  Dequantization dequantization = Dequantization::kUniform;

  std::optional<int64_t> window;  // 1024
  std::optional<int64_t> hop;     // the window
  std::vector<double> step;  // codes between neighbouring values: one for all channels or one each

  // Absent: the preset's.
  std::optional<int64_t> steps, batch, warmup_steps, validate_every;
  std::optional<double> learning_rate, decay, ema, butterfly_decay;
  std::optional<ScheduleKind> schedule;
  std::optional<EmaScheme> ema_scheme;

  uint64_t seed = 0;
  std::string device = "auto";
  double train_fraction = 0.64;
  double validation_fraction = 0.08;
  double calibration_fraction = 0.08;
  bool resume = false;
  int64_t checkpoint_every = 0;        // 0: never
  std::optional<KeepCheckpoint> keep;  // absent: best where there is a validation part, else last
  std::optional<Sensitivity> sensitivity;  // absent: patient of waveforms, none of images
  std::optional<int64_t> draws;            // at the test; absent: 1 of waveforms, 8 of images
  ImageOptions image;
  std::string metrics_csv;
  std::string licence, notes;
};

// `arguments` without the program's name. --name=value and --name value are the same, and so are
// `_` and
// `-` in a name. Errors: InvalidArgument naming the flag.
absl::StatusOr<TrainOptions> ParseTrainOptions(const std::vector<std::string>& arguments);

std::string TrainHelp();

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_OPTIONS_H_
