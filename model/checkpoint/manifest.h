// manifest.json, written last: a version folder without it does not exist yet.
#ifndef BFLOW_MODEL_CHECKPOINT_MANIFEST_H_
#define BFLOW_MODEL_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace bflow {

struct ManifestFile {
  std::string name;
  int64_t size = 0;
  std::string sha256;  // 64 lower-case hexadecimal digits
};

struct Manifest {
  std::vector<ManifestFile> files;
  std::map<std::string, std::string> card;  // the model card: trained_on, signals, hours, ...
};

// Strict. Errors: InvalidArgument naming the field.
absl::StatusOr<Manifest> ParseManifest(std::string_view json);
std::string ManifestToJson(const Manifest& manifest);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_MANIFEST_H_
