// The layout <repository>/<model>/<version>/ and the checkpoint inside one version folder.
#ifndef BFLOW_MODEL_CHECKPOINT_REPOSITORY_H_
#define BFLOW_MODEL_CHECKPOINT_REPOSITORY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_system.h"
#include "model/checkpoint/calibration.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/manifest.h"
#include "model/checkpoint/safetensors.h"

namespace bflow {

// Decimal in 1 .. 2^63-1 without leading zero.
std::optional<int64_t> ParseVersion(std::string_view text);

struct RepositoryModel {
  std::string name;
  std::vector<int64_t> versions;  // complete ones (with a manifest), ascending, at least one
};

// All models with at least one complete version, by name. Symbolic links and anything that is
// neither a model nor a version are left out and counted in `ignored` (may be null). Errors:
// NotFound (no such folder), PermissionDenied.
absl::StatusOr<std::vector<RepositoryModel>> ListRepository(const std::string& repository,
                                                            int* ignored);

std::string VersionDirectory(std::string_view repository, std::string_view model, int64_t version);

// selftest.safetensors: rows the loader must reproduce before the version serves.
struct SelfTest {
  int64_t rows = 0;
  std::vector<float> x;          // [rows, event...]: codes if quantised (CENTER noise), else scaled
  std::vector<double> log_prob;  // [rows]
  std::vector<double> score;     // [rows], empty without a calibration
};

// |value - expected| <= rtol max(1, |expected|). kSelfTestRtol is what a server allows unless told.
inline constexpr double kSelfTestRtol = 2e-4;
bool Reproduces(double value, double expected, double rtol);

// A checkpoint as read and checked: hashes equal the manifest's, the tensor set equals exactly what
// the spec implies, every value finite, butterflies and LU matrices invertible, permutations
// permutations.
struct Checkpoint {
  FlowSpec spec;
  SafetensorsFile tensors;
  std::optional<Calibration> calibration;
  SelfTest self_test;
  Manifest manifest;
  std::string manifest_sha256;
};

struct CheckpointLimits {
  int64_t max_model_bytes = int64_t{4} << 30;
};

// Errors: NotFound (no manifest: the version does not exist), DataLoss (anything else wrong with
// it, naming file, tensor or field), ResourceExhausted (limits).
absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& version_directory,
                                          const CheckpointLimits& limits = {});

// The checks of ReadCheckpoint on values that are already in memory: `tensors` against `spec`.
absl::Status CheckTensors(const FlowSpec& spec, const SafetensorsFile& tensors);

struct CheckpointToWrite {
  FlowSpec spec;
  std::vector<TensorToWrite> tensors;  // exactly ExpectedTensors(spec)
  std::optional<Calibration> calibration;
  SelfTest self_test;
  std::map<std::string, std::string> card;
  std::string producer;  // program and version
};

// Writes every file atomically into `version_directory` (made if missing; 0700 and files 0600 when
// the spec is patient-sensitive), the manifest last. Once it returns OK the version outlives a
// power failure; before, and after any error, the version is whole or absent. Errors: AlreadyExists
// (a complete version is there), ResourceExhausted (disk full: what was there before is intact),
// PermissionDenied, Internal, InvalidArgument.
absl::Status WriteCheckpoint(FileSystem& files, const std::string& version_directory,
                             const CheckpointToWrite& checkpoint);
absl::Status WriteCheckpoint(const std::string& version_directory,
                             const CheckpointToWrite& checkpoint);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_REPOSITORY_H_
