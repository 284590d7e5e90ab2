#include "model/checkpoint/manifest.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/checkpoint/json_fields.h"

namespace bflow {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxCardEntries = 64;
constexpr std::string_view kFileNames[] = {"model.safetensors", "calibration.json",
                                           "selftest.safetensors"};

absl::Status Fault(const std::string& field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
}

absl::StatusOr<ManifestFile> ReadFileEntry(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  ManifestFile file;
  reader.Read("name", &file.name);
  reader.Read("size", &file.size);
  reader.Read("sha256", &file.sha256);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  // A closed list: what a manifest names is opened, so it never names a path.
  if (std::find(std::begin(kFileNames), std::end(kFileNames), file.name) == std::end(kFileNames)) {
    return Fault(path + ".name",
                 "expected model.safetensors, calibration.json or selftest.safetensors");
  }
  if (file.size < 0) return Fault(path + ".size", "is negative");
  const bool hex = std::all_of(file.sha256.begin(), file.sha256.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  if (file.sha256.size() != 64 || !hex) {
    return Fault(path + ".sha256", "expected 64 lower-case hexadecimal digits");
  }
  return file;
}

// Numbers, booleans and arrays are kept as their JSON text.
absl::Status ReadCard(const Json& json, std::map<std::string, std::string>* card) {
  if (json.size() > kMaxCardEntries) {
    return Fault("card", absl::StrCat("has ", json.size(), " entries, at most ", kMaxCardEntries));
  }
  for (const auto& item : json.items()) {
    const std::string printable = PrintableKey(item.key());
    if (printable != item.key()) return Fault("card", "has a key that is not [A-Za-z0-9_]{1,64}");
    const Json& value = item.value();
    if (value.is_object() || value.is_null()) {
      return Fault("card." + printable, "expected a string, a number, a boolean or an array");
    }
    (*card)[item.key()] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Manifest> ParseManifest(std::string_view text) {
  BFLOW_ASSIGN_OR_RETURN(Json json, ParseBoundedJson(text, kMaxBytes));
  ObjectReader reader(json, "");
  int64_t format = 0;
  reader.Read("format", &format);
  if (reader.ok() && format != 1) reader.Fail(Fault("format", "expected 1"));
  const Json* files = reader.Array("files");
  const Json* card = reader.Object("card", Presence::kOptional);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  Manifest manifest;
  std::set<std::string> names;
  for (size_t i = 0; i < files->size(); ++i) {
    const std::string path = absl::StrCat("files[", i, "]");
    BFLOW_ASSIGN_OR_RETURN(ManifestFile file, ReadFileEntry((*files)[i], path));
    if (!names.insert(file.name).second) return Fault(path + ".name", "appears twice");
    manifest.files.push_back(std::move(file));
  }
  if (card != nullptr) BFLOW_RETURN_IF_ERROR(ReadCard(*card, &manifest.card));
  return manifest;
}

std::string ManifestToJson(const Manifest& manifest) {
  Json json;
  json["format"] = 1;
  json["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) {
    Json item;
    item["name"] = file.name;
    item["size"] = file.size;
    item["sha256"] = file.sha256;
    json["files"].push_back(std::move(item));
  }
  json["card"] = Json::object();
  for (const auto& [key, value] : manifest.card) json["card"][key] = value;
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace bflow
