// imported_check VERSION_FOLDER EXPECTED: a model that import_reference.py wrote beside what the
// reference computes with the same weights (in.x, out.z, out.logdet, out.logp), in float64 to 1e-9
// and in float32 to 1e-4 relative, frozen (as served) and not. Exit status 0 if all agree.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "ATen/Parallel.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/checkpoint/repository.h"
#include "model/flow/flow.h"
#include "model/flow/materialize.h"

namespace bflow {
namespace {

constexpr int64_t kExpectedBytesMax = int64_t{64} << 20;

absl::StatusOr<at::Tensor> Require(const SafetensorsFile& file, const char* name) {
  const TensorView* view = file.Find(name);
  if (view == nullptr) return absl::InvalidArgumentError(std::string(name) + " is missing");
  return ToTensor(*view).to(at::kDouble);
}

// Prints the largest relative error; whether it is within `tolerance` (NaN is not).
bool Compare(const char* mode, const char* name, const at::Tensor& got, const at::Tensor& expected,
             double tolerance) {
  if (got.sizes() != expected.sizes()) {
    std::printf("FAIL %s %s: another shape\n", mode, name);
    return false;
  }
  const at::Tensor error = (got.to(at::kDouble) - expected).abs() / expected.abs().clamp_min(1.0);
  const bool good = (error <= tolerance).all().item<bool>();
  std::printf("%-4s %s %-8s %.1e\n", good ? "ok" : "FAIL", mode, name, error.max().item<double>());
  return good;
}

absl::StatusOr<bool> Check(const std::string& version_folder, const std::string& expected_path) {
  BFLOW_ASSIGN_OR_RETURN(const Checkpoint checkpoint, ReadCheckpoint(version_folder));
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, ReadUserFile(expected_path, kExpectedBytesMax));
  BFLOW_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Parse(std::move(bytes)));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor z, Require(file, "out.z"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor log_det, Require(file, "out.logdet"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor log_p, Require(file, "out.logp"));
  bool good = true;
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const double tolerance = dtype == at::kDouble ? 1e-9 : 1e-4;
    const char* mode = dtype == at::kDouble ? "float64" : "float32";
    for (const bool frozen : {false, true}) {
      BFLOW_ASSIGN_OR_RETURN(const std::shared_ptr<Flow> flow,
                             Flow::Load(checkpoint.spec, checkpoint.tensors, dtype));
      if (frozen) flow->Freeze();
      const c10::NoGradGuard no_grad;
      const Encoded encoded = flow->Encode(x.to(dtype));
      const Transformed decoded = flow->Decode(z.to(dtype));
      good &= Compare(mode, "z", encoded.latent, z, tolerance);
      good &= Compare(mode, "log_det", encoded.log_det, log_det, tolerance);
      good &= Compare(mode, "log_p", flow->LogProb(x.to(dtype)), log_p, tolerance);
      good &= Compare(mode, "decoded", decoded.value, x, tolerance);
      good &= Compare(mode, "-log_det", decoded.log_det, -log_det, tolerance);
    }
  }
  return good;
}

}  // namespace
}  // namespace bflow

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: imported_check VERSION_FOLDER EXPECTED\n");
    return bflow::kExitUsage;
  }
  at::set_num_threads(1);
  const absl::StatusOr<bool> good = bflow::Check(argv[1], argv[2]);
  if (!good.ok()) {
    std::fprintf(stderr, "imported_check: %s\n", std::string(good.status().message()).c_str());
    return bflow::kExitBadInput;
  }
  return *good ? bflow::kExitOk : bflow::kExitPartial;
}
