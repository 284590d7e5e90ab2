// ReadCheckpoint: manifest, hashes, strict parse, tensor set, values, calibration, self-test, in
// this order.
#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status.h"
#include "model/checkpoint/checkpoint_files.h"
#include "model/checkpoint/repository.h"

namespace bflow {
namespace {

absl::Status Corrupt(absl::string_view file, const absl::Status& status) {
  return absl::DataLossError(absl::StrCat(file, ": ", status.message()));
}

// What goes wrong with a file that has to be there is a fault of the version.
absl::StatusOr<std::string> ReadListed(const std::string& folder, const ManifestFile& listed) {
  auto bytes = ReadFile(JoinPath(folder, listed.name), listed.size);
  if (!bytes.ok()) return absl::DataLossError(bytes.status().message());
  if (static_cast<int64_t>(bytes->size()) != listed.size) {
    return absl::DataLossError(absl::StrCat(listed.name, ": has ", bytes->size(),
                                            " bytes, the manifest says ", listed.size));
  }
  if (Sha256Hex(*bytes) != listed.sha256) {
    return absl::DataLossError(absl::StrCat(listed.name, ": its sha256 is not the manifest's"));
  }
  return bytes;
}

// The manifest, or why the version does not exist.
absl::StatusOr<std::string> ReadManifestBytes(const std::string& folder) {
  if (!FileExists(folder)) return absl::NotFoundError("version folder: does not exist");
  if (!IsDirectory(folder)) return absl::DataLossError("version folder: not a folder");
  if (!IsDirectory(DirName(folder))) return absl::DataLossError("model folder: not a folder");
  auto bytes = ReadFile(JoinPath(folder, kManifestFile), kMaxManifestBytes);
  if (bytes.ok() || absl::IsNotFound(bytes.status())) return bytes;
  return absl::DataLossError(bytes.status().message());
}

using Listed = std::map<std::string, ManifestFile>;

absl::StatusOr<Listed> CheckListed(const Manifest& manifest, const CheckpointLimits& limits) {
  const std::map<std::string, int64_t> bounds = {{kModelFile, limits.max_model_bytes},
                                                 {kCalibrationFile, kMaxCalibrationBytes},
                                                 {kSelfTestFile, kMaxSelfTestBytes}};
  Listed listed;
  for (const ManifestFile& file : manifest.files) {
    const int64_t bound = bounds.at(file.name);  // ParseManifest admits no other name
    if (file.size > bound) {
      return absl::ResourceExhaustedError(
          absl::StrCat(file.name, ": ", file.size, " bytes, at most ", bound));
    }
    listed.emplace(file.name, file);
  }
  for (const char* required : {kModelFile, kSelfTestFile}) {
    if (!listed.contains(required)) {
      return absl::DataLossError(absl::StrCat(kManifestFile, ": files: ", required, " is missing"));
    }
  }
  return listed;
}

// A float tensor of the self-test with `rows` as its first dimension.
absl::Status CheckSelfTestTensor(const SafetensorsFile& file, const char* name, DType dtype,
                                 const std::vector<int64_t>& shape) {
  const TensorView* tensor = file.Find(name);
  if (tensor != nullptr && tensor->dtype == dtype && tensor->shape == shape) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat(
      kSelfTestFile, ": tensor ", name,
      tensor == nullptr ? ": missing" : ": its dtype or shape is not what the model wants"));
}

absl::StatusOr<SelfTest> ParseSelfTest(std::string bytes, const FlowSpec& spec, bool calibrated) {
  auto file = SafetensorsFile::Parse(std::move(bytes));
  if (!file.ok()) return Corrupt(kSelfTestFile, file.status());
  for (const TensorView& tensor : file->tensors()) {
    if (tensor.name == "x" || tensor.name == "log_prob") continue;
    if (tensor.name == "score" && calibrated) continue;
    return absl::DataLossError(
        absl::StrCat(kSelfTestFile, ": tensor ", tensor.name, ": unexpected"));
  }
  SelfTest self_test;
  const TensorView* x = file->Find("x");
  if (x != nullptr && !x->shape.empty()) self_test.rows = x->shape.front();
  BFLOW_RETURN_IF_ERROR(
      CheckSelfTestTensor(*file, "x", DType::kF32, Batched(self_test.rows, spec.event_shape)));
  BFLOW_RETURN_IF_ERROR(CheckSelfTestTensor(*file, "log_prob", DType::kF64, {self_test.rows}));
  BFLOW_ASSIGN_OR_RETURN(std::vector<double> values, ToDoubles(*x));
  self_test.x.reserve(values.size());
  for (double value : values) self_test.x.push_back(static_cast<float>(value));
  BFLOW_ASSIGN_OR_RETURN(self_test.log_prob, ToDoubles(*file->Find("log_prob")));
  if (calibrated) {
    BFLOW_RETURN_IF_ERROR(CheckSelfTestTensor(*file, "score", DType::kF64, {self_test.rows}));
    BFLOW_ASSIGN_OR_RETURN(self_test.score, ToDoubles(*file->Find("score")));
  }
  const absl::Status status = CheckSelfTest(spec, calibrated, self_test);
  if (!status.ok()) return Corrupt(kSelfTestFile, status);
  return self_test;
}

template <typename T>
absl::Status CheckValues(const char* name, const std::vector<T>& values, int64_t expected) {
  if (static_cast<int64_t>(values.size()) != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": has ", values.size(), " values, expected ", expected));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, ": element ", i, " is not finite"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Calibration> ReadCalibration(const std::string& folder, const ManifestFile& listed,
                                            const FlowSpec& spec) {
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, ReadListed(folder, listed));
  auto calibration = ParseCalibration(bytes);
  if (!calibration.ok()) return Corrupt(kCalibrationFile, calibration.status());
  const absl::Status status = CheckCalibrationAgainst(spec, *calibration);
  if (!status.ok()) return Corrupt(kCalibrationFile, status);
  return calibration;
}

}  // namespace

absl::StatusOr<FlowSpec> ReadSpec(const SafetensorsFile& tensors) {
  const auto& metadata = tensors.metadata();
  for (const auto& [key, value] : metadata) {
    if (key != "format" && key != "flow_spec" && key != "producer") {
      return absl::DataLossError(
          absl::StrCat(kModelFile, ": __metadata__: a key besides format, flow_spec, producer"));
    }
  }
  for (const char* key : {"format", "flow_spec", "producer"}) {
    if (!metadata.contains(key)) {
      return absl::DataLossError(absl::StrCat(kModelFile, ": __metadata__.", key, ": missing"));
    }
  }
  if (metadata.at("format") != kModelFormat) {
    return absl::DataLossError(
        absl::StrCat(kModelFile, ": __metadata__.format: expected ", kModelFormat));
  }
  auto spec = ParseFlowSpec(metadata.at("flow_spec"));
  if (!spec.ok()) return Corrupt(absl::StrCat(kModelFile, ": flow_spec"), spec.status());
  return spec;
}

absl::Status CheckCalibrationAgainst(const FlowSpec& spec, const Calibration& calibration) {
  // Per level a latent norm, per coupling a log-determinant, per waveform channel of codes step,
  // flat run, range; behind whitening the energy of each channel's residuals.
  const bool codes = spec.quantised() && !spec.is_image();
  size_t features = spec.levels.size() + (codes ? 3 * spec.channels.size() : 0);
  for (const LevelSpec& level : spec.levels) {
    for (const NamedBlock& block : BlocksOf(level)) {
      features += static_cast<size_t>(
          std::count_if(block.layers->begin(), block.layers->end(), IsCoupling));
    }
  }
  if (ResidualIndex(spec)) features += spec.channels.size();
  if (calibration.score_definition != ScoreDefinition(spec)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "score_definition: expected \"", ScoreDefinition(spec), "\" with this flow_spec"));
  }
  if (calibration.feature_names.size() != features) {
    return absl::InvalidArgumentError(absl::StrCat("feature_names: has ",
                                                   calibration.feature_names.size(),
                                                   " entries, the flow_spec implies ", features));
  }
  const char* noise = spec.quantised() ? "center" : "none";
  if (calibration.noise != noise) {
    return absl::InvalidArgumentError(
        absl::StrCat("noise: expected \"", noise, "\" with this flow_spec"));
  }
  return absl::OkStatus();
}

absl::Status CheckSelfTest(const FlowSpec& spec, bool calibrated, const SelfTest& self_test) {
  if (self_test.rows < 1 || self_test.rows > kMaxSelfTestRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor x: has ", self_test.rows, " rows, expected 1 to ", kMaxSelfTestRows));
  }
  BFLOW_RETURN_IF_ERROR(CheckValues("x", self_test.x, self_test.rows * spec.event_size()));
  BFLOW_RETURN_IF_ERROR(CheckValues("log_prob", self_test.log_prob, self_test.rows));
  return CheckValues("score", self_test.score, calibrated ? self_test.rows : 0);
}

absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& version_directory,
                                          const CheckpointLimits& limits) {
  std::string folder = version_directory;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  BFLOW_ASSIGN_OR_RETURN(std::string manifest_bytes, ReadManifestBytes(folder));
  auto manifest = ParseManifest(manifest_bytes);
  if (!manifest.ok()) return Corrupt(kManifestFile, manifest.status());
  BFLOW_ASSIGN_OR_RETURN(Listed listed, CheckListed(*manifest, limits));

  BFLOW_ASSIGN_OR_RETURN(std::string model_bytes, ReadListed(folder, listed.at(kModelFile)));
  auto tensors = SafetensorsFile::Parse(std::move(model_bytes));
  if (!tensors.ok()) return Corrupt(kModelFile, tensors.status());
  BFLOW_ASSIGN_OR_RETURN(FlowSpec spec, ReadSpec(*tensors));
  const absl::Status status = CheckTensors(spec, *tensors);
  if (!status.ok()) return Corrupt(kModelFile, status);

  std::optional<Calibration> calibration;
  if (listed.contains(kCalibrationFile)) {
    BFLOW_ASSIGN_OR_RETURN(calibration, ReadCalibration(folder, listed.at(kCalibrationFile), spec));
  }
  BFLOW_ASSIGN_OR_RETURN(std::string self_test_bytes, ReadListed(folder, listed.at(kSelfTestFile)));
  BFLOW_ASSIGN_OR_RETURN(SelfTest self_test,
                         ParseSelfTest(std::move(self_test_bytes), spec, calibration.has_value()));
  return Checkpoint{std::move(spec),      *std::move(tensors),  std::move(calibration),
                    std::move(self_test), *std::move(manifest), Sha256Hex(manifest_bytes)};
}

}  // namespace bflow
