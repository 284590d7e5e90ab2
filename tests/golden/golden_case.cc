#include "tests/golden/golden_case.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace bflow::golden {
namespace {

constexpr int64_t kIndexBytesMax = int64_t{64} << 20;
constexpr int64_t kTensorBytesMax = int64_t{1} << 30;
constexpr int kIndexDepthMax = 32;

absl::StatusOr<std::string> StringField(const Json& object, const char* field, size_t index) {
  if (!object.is_object() || !object.contains(field) || !object[field].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat("index.json: cases[", index, "].", field, ": a string is expected"));
  }
  return object[field].get<std::string>();
}

}  // namespace

absl::StatusOr<std::vector<GoldenCase>> ReadIndex(const std::string& directory) {
  BFLOW_ASSIGN_OR_RETURN(const std::string text,
                         ReadUserFile(JoinPath(directory, "index.json"), kIndexBytesMax));
  const absl::StatusOr<Json> parsed = ParseJson(text, kIndexDepthMax);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("index.json: ", parsed.status().message()));
  }
  if (!parsed->is_object() || !parsed->contains("cases") || !(*parsed)["cases"].is_array()) {
    return absl::InvalidArgumentError("index.json: cases: an array is expected");
  }
  std::vector<GoldenCase> cases;
  for (const Json& entry : (*parsed)["cases"]) {
    GoldenCase golden;
    BFLOW_ASSIGN_OR_RETURN(golden.name, StringField(entry, "name", cases.size()));
    BFLOW_ASSIGN_OR_RETURN(golden.kind, StringField(entry, "kind", cases.size()));
    BFLOW_ASSIGN_OR_RETURN(golden.file, StringField(entry, "file", cases.size()));
    golden.config = entry.contains("config") ? entry["config"] : Json::object();
    if (!golden.config.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("index.json: cases[", cases.size(), "].config: an object is expected"));
    }
    cases.push_back(std::move(golden));
  }
  return cases;
}

absl::StatusOr<SafetensorsFile> ReadTensors(const std::string& directory,
                                            const GoldenCase& golden) {
  BFLOW_ASSIGN_OR_RETURN(std::string bytes,
                         ReadUserFile(JoinPath(directory, golden.file), kTensorBytesMax));
  return SafetensorsFile::Parse(std::move(bytes));
}

}  // namespace bflow::golden
