// What the reader and the writer of a version folder share: file names, bounds and the checks
// across files.
#ifndef BFLOW_MODEL_CHECKPOINT_CHECKPOINT_FILES_H_
#define BFLOW_MODEL_CHECKPOINT_CHECKPOINT_FILES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/calibration.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/repository.h"
#include "model/checkpoint/safetensors.h"

namespace bflow {

inline constexpr char kModelFile[] = "model.safetensors";
inline constexpr char kCalibrationFile[] = "calibration.json";
inline constexpr char kSelfTestFile[] = "selftest.safetensors";
inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr char kModelFormat[] = "butterflyflow/1";

inline constexpr int64_t kMaxManifestBytes = int64_t{1} << 20;
inline constexpr int64_t kMaxCalibrationBytes = int64_t{4} << 20;
inline constexpr int64_t kMaxSelfTestBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxSelfTestRows = 256;

// The flow_spec in the metadata of a model file, whose format is checked. Errors: DataLoss.
absl::StatusOr<FlowSpec> ReadSpec(const SafetensorsFile& tensors);

// Feature count and noise convention follow from the spec. Errors: InvalidArgument naming the
// field.
absl::Status CheckCalibrationAgainst(const FlowSpec& spec, const Calibration& calibration);

// Row count, lengths and finiteness. Errors: InvalidArgument naming the tensor.
absl::Status CheckSelfTest(const FlowSpec& spec, bool calibrated, const SelfTest& self_test);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_CHECKPOINT_FILES_H_
