// A small complete checkpoint (two levels, every layer kind) and temporary folders, for these
// tests.
#ifndef BFLOW_TESTS_MODEL_CHECKPOINT_SMALL_CHECKPOINT_H_
#define BFLOW_TESTS_MODEL_CHECKPOINT_SMALL_CHECKPOINT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "model/checkpoint/repository.h"

namespace bflow {

// event [8, 2], quantised; level 0 splits. `calibrated` decides about calibration and scores.
class SmallCheckpoint {
 public:
  explicit SmallCheckpoint(bool calibrated = true);

  CheckpointToWrite ToWrite() const;
  // The bytes of a model file; `metadata_spec` replaces the flow_spec text where not empty.
  std::string ModelBytes(const std::string& metadata_spec = "") const;
  // Sets a value of a float tensor.
  void Set(const std::string& name, size_t element, float value);

  FlowSpec spec;
  bool calibrated;

 private:
  struct Owned {
    TensorSpec spec;
    std::vector<float> floats;
    std::vector<int64_t> indices;
  };
  std::vector<TensorToWrite> Tensors() const;
  std::vector<Owned> owned_;
};

FlowSpec SmallSpec();
Calibration SmallCalibration(size_t features);

class CheckpointFolderTest : public testing::Test {
 protected:
  void SetUp() override;
  std::string Version(int version) const;
  static std::string Slurp(const std::string& path);
  // Overwrites without ceremony.
  static void Put(const std::string& path, std::string_view bytes);
  // Writes `bytes` as a file of the version; with `rehash` the manifest is made to fit.
  void Replace(const std::string& folder, const std::string& file, const std::string& bytes,
               bool rehash);

  std::string root_;
};

}  // namespace bflow

#endif  // BFLOW_TESTS_MODEL_CHECKPOINT_SMALL_CHECKPOINT_H_
