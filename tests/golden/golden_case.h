// Golden vectors on disk: index.json lists cases; each has a safetensors file with inputs, weights
// and results under the names that the authors' code uses. Torch-free: this is parsing and naming
// only.
#ifndef BFLOW_TESTS_GOLDEN_GOLDEN_CASE_H_
#define BFLOW_TESTS_GOLDEN_GOLDEN_CASE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/checkpoint/safetensors.h"

namespace bflow::golden {

struct GoldenCase {
  std::string name;
  std::string kind;
  std::string file;  // relative to the folder of the index
  Json config;       // an object
};

// The cases of DIR/index.json in order. Errors: DataLoss or InvalidArgument naming field and case.
absl::StatusOr<std::vector<GoldenCase>> ReadIndex(const std::string& directory);

// The tensors of a case. Errors: those of the file and of SafetensorsFile::Parse.
absl::StatusOr<SafetensorsFile> ReadTensors(const std::string& directory, const GoldenCase& golden);

}  // namespace bflow::golden

#endif  // BFLOW_TESTS_GOLDEN_GOLDEN_CASE_H_
