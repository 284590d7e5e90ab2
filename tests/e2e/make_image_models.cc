// Writes a repository of small models of images, freshly drawn, for image_test.py:
// make_image_models REPOSITORY.
//   pixels  [3, 8, 8], calibrated     grey  [1, 8, 8]     large  [3, 32, 32], fast to sample
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/file.h"
#include "base/status.h"
#include "model/checkpoint/repository.h"
#include "model/scoring/flow_tensors.h"
#include "tests/support/tiny_checkpoint.h"

namespace bflow {
namespace {

absl::Status Write(const std::string& folder, const FlowSpec& spec, int64_t calibration_rows) {
  const std::shared_ptr<Flow> flow = TinyFlow(spec);
  BFLOW_ASSIGN_OR_RETURN(Checkpoint checkpoint, CheckpointOf(*flow, calibration_rows));
  BFLOW_ASSIGN_OR_RETURN(FlowTensors tensors, CopyFlowTensors(*flow));
  return WriteCheckpoint(
      folder, {spec, tensors.tensors, checkpoint.calibration, checkpoint.self_test, {}, "test"});
}

absl::Status WriteAll(const std::string& repository) {
  BFLOW_RETURN_IF_ERROR(MakeDirectories(repository));
  BFLOW_RETURN_IF_ERROR(Write(repository + "/pixels/1", TinyImageSpec(), 60));
  BFLOW_RETURN_IF_ERROR(Write(repository + "/grey/1", TinyImageSpec(1), 0));
  FlowSpec large = TinyImageSpec();
  large.event_shape = {3, 32, 32};
  large.pre.clear();
  large.levels.resize(1);
  large.levels[0].split = false;
  large.levels[0].prior.clear();
  large.levels[0].blocks = {{ActNormSpec{}}};
  return Write(repository + "/large/1", large, 0);
}

}  // namespace
}  // namespace bflow

int main(int argc, char** argv) {
  if (argc != 2) return 64;
  const absl::Status status = bflow::WriteAll(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
