// Reads the fields of a JSON object strictly: every field of the file must be asked for, have the
// right type and, unless optional, be there. The first fault is kept and later reads do nothing, so
// that a parser is a list of reads with one check at the end. Faults name the JSON path and never
// quote a value.
#ifndef BFLOW_MODEL_CHECKPOINT_JSON_FIELDS_H_
#define BFLOW_MODEL_CHECKPOINT_JSON_FIELDS_H_

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"

namespace bflow {

// ParseJson with what a reader of outside files needs besides: at most `max_bytes`, no NUL byte,
// and at most 1,024 keys per object (Json looks keys up one by one, so more would take quadratic
// time).
absl::StatusOr<Json> ParseBoundedJson(std::string_view text, size_t max_bytes);

// `key` for messages: as it is where it looks like a field name, else a description of it.
std::string PrintableKey(std::string_view key);

enum class Presence { kRequired, kOptional };

class ObjectReader {
 public:
  // `path` is empty for the document itself. `value` must outlive the reader.
  ObjectReader(const Json& value, std::string path);

  // Each leaves *out as it is where an optional field is absent.
  void Read(const char* key, std::string* out, Presence presence = Presence::kRequired);
  void Read(const char* key, bool* out, Presence presence = Presence::kRequired);
  void Read(const char* key, double* out, Presence presence = Presence::kRequired);
  void Read(const char* key, int64_t* out, Presence presence = Presence::kRequired);
  void Read(const char* key, int* out, Presence presence = Presence::kRequired);
  void Read(const char* key, std::vector<std::string>* out, Presence = Presence::kRequired);
  void Read(const char* key, std::vector<double>* out, Presence = Presence::kRequired);
  void Read(const char* key, std::vector<int64_t>* out, Presence = Presence::kRequired);
  void Read(const char* key, std::vector<int>* out, Presence = Presence::kRequired);
  void Read(const char* key, std::vector<std::vector<double>>* out, Presence = Presence::kRequired);

  // An array or object that the caller walks itself; nullptr where absent or after a fault.
  const Json* Array(const char* key, Presence presence = Presence::kRequired);
  const Json* Object(const char* key, Presence presence = Presence::kRequired);
  // A field that may hold anything and is not used.
  void Ignore(const char* key) { known_.insert(key); }

  std::string Path(std::string_view key) const;
  bool ok() const { return status_.ok(); }
  void Fail(absl::Status status);
  // The first fault, or the first field that nobody asked for.
  absl::Status Finish();

 private:
  const Json* Find(const char* key, Presence presence);
  template <typename T>
  void ReadOne(const char* key, T* out, Presence presence);
  template <typename T>
  void ReadList(const char* key, std::vector<T>* out, Presence presence);

  const Json& value_;
  std::string path_;
  std::set<std::string, std::less<>> known_;
  absl::Status status_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_JSON_FIELDS_H_
