#include "model/training/load_data.h"

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/data/images.h"
#include "model/data/wfdb.h"
#include "model/training/image_data.h"
#include "model/training/save_model.h"
#include "model/training/training_data.h"

namespace bflow {
namespace {

absl::Status CheckCalibrationPart(int64_t usable, const char* what) {
  if (usable >= kFewestCalibrationWindows) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--calibration_fraction: the part has ", usable, " ", what, ", ", kFewestCalibrationWindows,
      " are the least; use 0 to train without a calibration"));
}

// Of a path, a `/` at its end left aside.
std::string LastComponent(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainingEvents>> LoadWaveforms(const TrainOptions& options,
                                                              int64_t window, int* records_failed) {
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
    BFLOW_RETURN_IF_ERROR(CheckCalibrationPart(usable, "windows without a constant channel"));
  }
  return std::make_unique<TrainingData>(std::move(data));
}

absl::StatusOr<std::unique_ptr<TrainingEvents>> LoadImages(const TrainOptions& options,
                                                           const ImageArchitecture& preset) {
  absl::StatusOr<ImageSet> images = ReadImages(options.data);
  if (!images.ok()) {
    return absl::Status(images.status().code(),
                        absl::StrCat("--data: ", images.status().message()));
  }
  ImageData::Request request;
  for (const std::string& path : options.data) request.names.push_back(LastComponent(path));
  request.bits = static_cast<int>(options.image.bits.value_or(8));
  request.fractions = {options.train_fraction, options.validation_fraction,
                       options.calibration_fraction};
  request.augmentations = options.image.augmentations.value_or(preset.augmentations);
  BFLOW_ASSIGN_OR_RETURN(ImageData data, ImageData::Create(*std::move(images), request));
  if (options.calibration_fraction > 0) {
    BFLOW_RETURN_IF_ERROR(CheckCalibrationPart(data.Count(DataPart::kCalibration), "images"));
  }
  return std::make_unique<ImageData>(std::move(data));
}

}  // namespace bflow
