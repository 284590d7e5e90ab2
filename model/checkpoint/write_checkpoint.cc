// WriteCheckpoint: everything is checked in memory first, with the reader's own checks; then the
// files are written, the manifest last.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status.h"
#include "model/checkpoint/checkpoint_files.h"
#include "model/checkpoint/repository.h"

namespace bflow {
namespace {

struct NamedContent {
  const char* name;
  std::string content;
};

absl::Status Invalid(absl::string_view file, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", status.message()));
}

template <typename T>
std::span<const std::byte> BytesOf(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

absl::StatusOr<std::string> ModelBytes(const CheckpointToWrite& checkpoint) {
  BFLOW_RETURN_IF_ERROR(ValidateFlowSpec(checkpoint.spec));
  auto bytes =
      SerializeSafetensors(checkpoint.tensors, {{"format", kModelFormat},
                                                {"flow_spec", FlowSpecToJson(checkpoint.spec)},
                                                {"producer", checkpoint.producer}});
  if (!bytes.ok()) return Invalid(kModelFile, bytes.status());
  auto parsed = SafetensorsFile::Parse(*bytes);
  if (!parsed.ok()) return Invalid(kModelFile, parsed.status());
  const absl::Status status = CheckTensors(checkpoint.spec, *parsed);
  if (!status.ok()) return Invalid(kModelFile, status);
  return bytes;
}

absl::StatusOr<std::string> SelfTestBytes(const CheckpointToWrite& checkpoint) {
  const SelfTest& test = checkpoint.self_test;
  absl::Status status = CheckSelfTest(checkpoint.spec, checkpoint.calibration.has_value(), test);
  if (!status.ok()) return Invalid(kSelfTestFile, status);
  std::vector<TensorToWrite> tensors = {
      {"x", DType::kF32, Batched(test.rows, checkpoint.spec.event_shape), BytesOf(test.x)},
      {"log_prob", DType::kF64, {test.rows}, BytesOf(test.log_prob)}};
  if (checkpoint.calibration) {
    tensors.push_back({"score", DType::kF64, {test.rows}, BytesOf(test.score)});
  }
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, SerializeSafetensors(tensors, {}));
  if (static_cast<int64_t>(bytes.size()) > kMaxSelfTestBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(kSelfTestFile, ": ", bytes.size(), " bytes, at most ", kMaxSelfTestBytes));
  }
  return bytes;
}

absl::StatusOr<std::vector<NamedContent>> AllFiles(const CheckpointToWrite& checkpoint) {
  std::vector<NamedContent> files;
  BFLOW_ASSIGN_OR_RETURN(std::string model, ModelBytes(checkpoint));
  files.push_back({kModelFile, std::move(model)});
  if (checkpoint.calibration) {
    std::string json = CalibrationToJson(*checkpoint.calibration);
    auto parsed = ParseCalibration(json);
    if (!parsed.ok()) return Invalid(kCalibrationFile, parsed.status());
    const absl::Status status = CheckCalibrationAgainst(checkpoint.spec, *parsed);
    if (!status.ok()) return Invalid(kCalibrationFile, status);
    files.push_back({kCalibrationFile, std::move(json)});
  }
  BFLOW_ASSIGN_OR_RETURN(std::string self_test, SelfTestBytes(checkpoint));
  files.push_back({kSelfTestFile, std::move(self_test)});

  Manifest manifest;
  for (const NamedContent& file : files) {
    manifest.files.push_back(
        {file.name, static_cast<int64_t>(file.content.size()), Sha256Hex(file.content)});
  }
  manifest.card = checkpoint.card;
  std::string json = ManifestToJson(manifest);
  auto parsed = ParseManifest(json);
  if (!parsed.ok()) return Invalid(kManifestFile, parsed.status());
  files.push_back({kManifestFile, std::move(json)});
  return files;
}

// Names that were there before count as much as new ones: a process that was killed between making
// a folder and flushing its name left one that a power failure takes away, with all in it.
absl::Status MakeVersionFolder(FileSystem& files, const std::string& version_directory, int mode) {
  BFLOW_RETURN_IF_ERROR(MakeDirectories(files, version_directory, mode));
  const std::string model_directory = DirName(version_directory);
  BFLOW_RETURN_IF_ERROR(files.SyncFolder(model_directory));
  return files.SyncFolder(DirName(model_directory));
}

// Gives back the space of a version that could not be completed. The manifest, which may have been
// renamed before the folder could not be flushed, goes first and for good: a manifest without its
// files would be a damaged version, all of them without a manifest are none.
void Discard(FileSystem& files, const std::string& version_directory,
             const std::vector<NamedContent>& written, bool remove_folder) {
  const std::string manifest = JoinPath(version_directory, kManifestFile);
  if (FileExists(manifest)) {
    if (!files.RemoveFile(manifest).ok() || !files.SyncFolder(version_directory).ok()) return;
  }
  for (const NamedContent& file : written) {
    files.RemoveFile(JoinPath(version_directory, file.name)).IgnoreError();
  }
  if (remove_folder) files.RemoveFolder(version_directory).IgnoreError();
}

}  // namespace

absl::Status WriteCheckpoint(FileSystem& files, const std::string& version_directory,
                             const CheckpointToWrite& checkpoint) {
  const std::string manifest_path = JoinPath(version_directory, kManifestFile);
  if (FileExists(manifest_path)) {
    return absl::AlreadyExistsError("version folder: a complete version is there");
  }
  BFLOW_ASSIGN_OR_RETURN(const std::vector<NamedContent> contents, AllFiles(checkpoint));
  const bool patient = checkpoint.spec.sensitivity == Sensitivity::kPatient;
  const bool folder_existed = FileExists(version_directory);
  BFLOW_FAULT_POINT("checkpoint.before_folder");
  absl::Status status = MakeVersionFolder(files, version_directory, patient ? 0700 : 0755);
  for (size_t i = 0; i < contents.size() && status.ok(); ++i) {
    if (i + 1 == contents.size()) BFLOW_FAULT_POINT("checkpoint.before_manifest");
    status = WriteFileAtomically(files, JoinPath(version_directory, contents[i].name),
                                 contents[i].content, patient ? 0600 : 0644);
  }
  BFLOW_FAULT_POINT("checkpoint.after_manifest");
  if (!status.ok()) Discard(files, version_directory, contents, !folder_existed);
  return status;
}

absl::Status WriteCheckpoint(const std::string& version_directory,
                             const CheckpointToWrite& checkpoint) {
  return WriteCheckpoint(*FileSystem::Real(), version_directory, checkpoint);
}

}  // namespace bflow
