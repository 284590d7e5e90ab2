#include "model/training/import_model.h"

#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/philox.h"
#include "base/status.h"
#include "base/version.h"
#include "model/checkpoint/checkpoint_files.h"
#include "model/checkpoint/repository.h"
#include "model/data/scaling.h"
#include "model/flow/flow.h"
#include "model/scoring/draw_samples.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/torch_guard.h"
#include "model/training/save_model.h"

namespace bflow {
namespace {

constexpr uint64_t kRowsSeed = 1;

// Noise over the whole scaled range.
HostBatch NoiseRows(const FlowSpec& spec, int64_t rows) {
  const int64_t size = spec.event_size();
  HostBatch noise = {rows, std::vector<float>(static_cast<size_t>(rows * size))};
  for (int64_t row = 0; row < rows; ++row) {
    const std::span<float> x(noise.values.data() + row * size, static_cast<size_t>(size));
    FillUniform(kRowsSeed, static_cast<uint64_t>(row), /*draw=*/0, size, x.data());
    for (float& value : x) value = 2 * value - 1;
    if (spec.quantised()) CodesFromScaled(spec, std::vector<float>(x.begin(), x.end()), x);
  }
  return noise;
}

// Samples of the model itself: for rows unlike its data log p may be anything. Noise where weights
// are so steep that float32 has no digits left for samples, but has for what lies in the range.
absl::StatusOr<SelfTest> DrawSelfTest(FlowSpec spec, const SafetensorsFile& tensors) {
  spec.allow_sampling = true;  // of whom it serves, not of us
  BFLOW_ASSIGN_OR_RETURN(const std::shared_ptr<Flow> flow,
                         Flow::Load(spec, tensors, /*dtype=*/at::kDouble));
  SampleOptions options;
  options.rows = SelfTestRowCount(spec);
  options.seed = kRowsSeed;
  options.codes = spec.quantised();
  BFLOW_ASSIGN_OR_RETURN(SampleResult drawn,
                         DrawSamples(*flow, options, /*slice_rows=*/options.rows));
  absl::StatusOr<SelfTest> of_samples =
      MakeSelfTest(*flow, /*calibration=*/nullptr, {options.rows, std::move(drawn.samples)});
  if (!absl::IsInvalidArgument(of_samples.status())) return of_samples;
  absl::StatusOr<SelfTest> of_noise =
      MakeSelfTest(*flow, /*calibration=*/nullptr, NoiseRows(spec, options.rows));
  return of_noise.ok() ? std::move(of_noise) : std::move(of_samples);
}

std::map<std::string, std::string> Card(const TrainOptions& options, const FlowSpec& spec,
                                        const std::string& producer) {
  std::string signals;
  for (const ChannelSpec& channel : spec.channels) {
    absl::StrAppend(&signals, signals.empty() ? "" : ", ", channel.name);
  }
  return {{"signals", signals},         {"preset", "imported"},       {"imported_with", producer},
          {"source_version", kVersion}, {"licence", options.licence}, {"notes", options.notes},
          {"calibration_windows", "0"}};
}

absl::StatusOr<CheckpointToWrite> Read(const TrainOptions& options, const SafetensorsFile& file) {
  CheckpointToWrite checkpoint;
  BFLOW_ASSIGN_OR_RETURN(checkpoint.spec, ReadSpec(file));
  BFLOW_RETURN_IF_ERROR(CheckTensors(checkpoint.spec, file));
  BFLOW_ASSIGN_OR_RETURN(checkpoint.self_test, DrawSelfTest(checkpoint.spec, file));
  for (const TensorView& view : file.tensors()) {
    checkpoint.tensors.push_back({view.name, view.dtype, view.shape, view.data});
  }
  checkpoint.card = Card(options, checkpoint.spec, file.metadata().at("producer"));
  checkpoint.producer = absl::StrCat("bflow-train ", kVersion);
  return checkpoint;
}

int Fail(int exit_code, const absl::Status& status) {
  std::fprintf(stderr, "bflow-train: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

int ReadFailed(const absl::Status& status) {
  const bool ours = absl::IsInternal(status) || absl::IsResourceExhausted(status);
  return Fail(ours ? kExitInternal : kExitBadInput,
              absl::Status(status.code(), absl::StrCat("--import: ", status.message())));
}

}  // namespace

int ImportModel(const TrainOptions& options, FileSystem& files) {
  absl::StatusOr<std::string> bytes =
      ReadUserFile(options.import_file, CheckpointLimits().max_model_bytes);
  if (!bytes.ok()) return Fail(kExitBadInput, bytes.status());
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Parse(*std::move(bytes));
  if (!file.ok()) return ReadFailed(file.status());
  const auto checkpoint = GuardTorchOr("reading the model", [&] { return Read(options, *file); });
  if (!checkpoint.ok()) return ReadFailed(checkpoint.status());

  const int64_t version = options.version.value_or(NextFreeVersion(options.out, options.model));
  absl::Status written = MakeDirectories(files, options.out);  // not private, as the version is
  if (written.ok()) {
    written =
        WriteCheckpoint(files, VersionDirectory(options.out, options.model, version), *checkpoint);
  }
  if (absl::IsAlreadyExists(written)) {
    return Fail(kExitCannotWrite,
                absl::AlreadyExistsError(absl::StrCat("--version: version ", version,
                                                      " exists and is never overwritten")));
  }
  if (!written.ok()) {
    return Fail(kExitCannotWrite,
                absl::Status(written.code(), absl::StrCat("--out: ", written.message())));
  }
  std::printf("%-12s %s version %d, imported\n", "model", options.model.c_str(),
              static_cast<int>(version));
  std::printf("%-12s %d rows\n", "self-test", static_cast<int>(checkpoint->self_test.rows));
  return kExitOk;
}

}  // namespace bflow
