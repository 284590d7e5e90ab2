#include "model/checkpoint/json_fields.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace bflow {
namespace {

constexpr size_t kMaxKeysPerObject = 1024;

// Counts keys per object and stops at the first object with too many.
class KeyCounter final : public nlohmann::json_sax<Json> {
 public:
  bool too_many() const { return too_many_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    counts_.push_back(0);
    // ParseJson says exactly what is wrong with the nesting; here it only has to end early.
    return counts_.size() <= 64;
  }
  bool key(string_t&) override {
    too_many_ = ++counts_.back() > kMaxKeysPerObject;
    return !too_many_;
  }
  bool end_object() override {
    counts_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  std::vector<size_t> counts_;
  bool too_many_ = false;
};

absl::Status Fault(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

bool Convert(const Json& value, std::string* out) {
  if (!value.is_string()) return false;
  *out = value.get_ref<const std::string&>();
  return true;
}

bool Convert(const Json& value, bool* out) {
  if (!value.is_boolean()) return false;
  *out = value.get<bool>();
  return true;
}

bool Convert(const Json& value, double* out) {
  if (!value.is_number()) return false;
  *out = value.get<double>();
  return std::isfinite(*out);
}

bool Convert(const Json& value, int64_t* out) {
  // Numbers with a fraction or an exponent are floats to the parser, whatever their value.
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return false;
  }
  *out = value.get<int64_t>();
  return true;
}

bool Convert(const Json& value, int* out) {
  int64_t wide;
  if (!Convert(value, &wide) || wide < std::numeric_limits<int>::min() ||
      wide > std::numeric_limits<int>::max()) {
    return false;
  }
  *out = static_cast<int>(wide);
  return true;
}

template <typename T>
bool Convert(const Json& value, std::vector<T>* out) {
  if (!value.is_array()) return false;
  out->clear();
  out->reserve(value.size());
  for (const Json& item : value) {
    T converted;
    if (!Convert(item, &converted)) return false;
    out->push_back(std::move(converted));
  }
  return true;
}

template <typename T>
const char* TypeName() {
  if constexpr (std::is_same_v<T, std::string>) return "a string";
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, double>) return "a finite number";
  if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, int>) return "an integer";
  return "an array of finite numbers";
}

}  // namespace

absl::StatusOr<Json> ParseBoundedJson(std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON of ", text.size(), " bytes, at most ", max_bytes, " are read"));
  }
  // The parser takes a NUL byte for the end of its input and would ignore what follows.
  if (text.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError("not valid JSON: holds a NUL byte");
  }
  KeyCounter counter;
  Json::sax_parse(text.begin(), text.end(), &counter);
  if (counter.too_many()) {
    return absl::InvalidArgumentError(
        absl::StrCat("an object with more than ", kMaxKeysPerObject, " keys"));
  }
  return ParseJson(text);
}

std::string PrintableKey(std::string_view key) {
  const bool plain =
      !key.empty() && key.size() <= 64 && std::all_of(key.begin(), key.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_';
      });
  return plain ? std::string(key) : "(a name that is not [A-Za-z0-9_]{1,64})";
}

ObjectReader::ObjectReader(const Json& value, std::string path)
    : value_(value), path_(std::move(path)) {
  if (!value_.is_object()) Fail(Fault(path_.empty() ? "document" : path_, "expected an object"));
}

std::string ObjectReader::Path(std::string_view key) const {
  return path_.empty() ? std::string(key) : absl::StrCat(path_, ".", std::string(key));
}

void ObjectReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

const Json* ObjectReader::Find(const char* key, Presence presence) {
  if (!ok()) return nullptr;
  known_.insert(key);
  auto found = value_.find(key);
  if (found != value_.end()) return &*found;
  if (presence == Presence::kRequired) Fail(Fault(Path(key), "missing"));
  return nullptr;
}

template <typename T>
void ObjectReader::ReadOne(const char* key, T* out, Presence presence) {
  const Json* value = Find(key, presence);
  if (value == nullptr) return;
  T converted;
  if (Convert(*value, &converted)) {
    *out = std::move(converted);
  } else {
    Fail(Fault(Path(key), absl::StrCat("expected ", TypeName<T>())));
  }
}

template <typename T>
void ObjectReader::ReadList(const char* key, std::vector<T>* out, Presence presence) {
  const Json* array = Array(key, presence);
  if (array == nullptr) return;
  std::vector<T> converted;
  for (size_t i = 0; i < array->size(); ++i) {
    T item;
    if (!Convert((*array)[i], &item)) {
      Fail(Fault(absl::StrCat(Path(key), "[", i, "]"), absl::StrCat("expected ", TypeName<T>())));
      return;
    }
    converted.push_back(std::move(item));
  }
  *out = std::move(converted);
}

void ObjectReader::Read(const char* key, std::string* out, Presence p) { ReadOne(key, out, p); }
void ObjectReader::Read(const char* key, bool* out, Presence p) { ReadOne(key, out, p); }
void ObjectReader::Read(const char* key, double* out, Presence p) { ReadOne(key, out, p); }
void ObjectReader::Read(const char* key, int64_t* out, Presence p) { ReadOne(key, out, p); }
void ObjectReader::Read(const char* key, int* out, Presence p) { ReadOne(key, out, p); }
void ObjectReader::Read(const char* key, std::vector<std::string>* out, Presence p) {
  ReadList(key, out, p);
}
void ObjectReader::Read(const char* key, std::vector<double>* out, Presence p) {
  ReadList(key, out, p);
}
void ObjectReader::Read(const char* key, std::vector<int64_t>* out, Presence p) {
  ReadList(key, out, p);
}
void ObjectReader::Read(const char* key, std::vector<int>* out, Presence p) {
  ReadList(key, out, p);
}
void ObjectReader::Read(const char* key, std::vector<std::vector<double>>* out, Presence p) {
  ReadList(key, out, p);
}

const Json* ObjectReader::Array(const char* key, Presence presence) {
  const Json* value = Find(key, presence);
  if (value == nullptr || value->is_array()) return value;
  Fail(Fault(Path(key), "expected an array"));
  return nullptr;
}

const Json* ObjectReader::Object(const char* key, Presence presence) {
  const Json* value = Find(key, presence);
  if (value == nullptr || value->is_object()) return value;
  Fail(Fault(Path(key), "expected an object"));
  return nullptr;
}

absl::Status ObjectReader::Finish() {
  if (!ok()) return status_;
  for (const auto& item : value_.items()) {
    if (!known_.contains(item.key())) return Fault(Path(PrintableKey(item.key())), "unknown field");
  }
  return absl::OkStatus();
}

}  // namespace bflow
