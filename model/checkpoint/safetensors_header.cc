#include "model/checkpoint/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json.h"

namespace bflow {
namespace {

constexpr size_t kMaxMetadataEntries = 256;

// Where in the header the parser stands.
enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  const std::string& error() const { return error_; }
  SafetensorsHeader Take() { return std::move(header_); }

  bool null() override { return Unexpected(); }
  bool boolean(bool) override { return Unexpected(); }
  bool binary(binary_t&) override { return Unexpected(); }
  // The parser calls these two for a sign, and for a fraction, an exponent or more than 64 bits.
  bool number_integer(number_integer_t) override { return Number("a number with a sign"); }
  bool number_float(number_float_t, const string_t&) override {
    return Number("a number that is not an integer of at most 63 bits in plain digits");
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return Unexpected();
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Number("a number of more than 63 bits");
    }
    if (place_ == Place::kOffsets) {
      if (offsets_ == 2) return Fail("data_offsets has more than two numbers");
      (offsets_++ == 0 ? tensor_.begin : tensor_.end) = static_cast<int64_t>(value);
      return true;
    }
    if (value == 0) return Fail("shape has a dimension of 0");
    if (tensor_.shape.size() == kMaxSafetensorsRank)
      return Fail("shape has more than 8 dimensions");
    tensor_.shape.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      header_.metadata.emplace(key_, std::move(value));
      return true;
    }
    if (place_ != Place::kTensor || key_ != "dtype") return Unexpected();
    for (DType dtype : {DType::kF32, DType::kF64, DType::kI64}) {
      if (value == DTypeName(dtype)) {
        tensor_.dtype = dtype;
        return true;
      }
    }
    return Fail("dtype is none of F32, F64, I64");
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return Unexpected();
    if (key_ == "__metadata__") {
      place_ = Place::kMetadata;
      return true;
    }
    if (header_.tensors.size() == kMaxSafetensorsTensors) return Fail("more than 65536 tensors");
    tensor_ = HeaderTensor{};
    tensor_.name = key_;
    fields_ = 0;
    place_ = Place::kTensor;
    return true;
  }

  bool key(string_t& name) override {
    switch (place_) {
      case Place::kTop:
        return TopKey(name);
      case Place::kMetadata:
        if (header_.metadata.contains(name)) return Fail("__metadata__ has a duplicate key");
        if (header_.metadata.size() == kMaxMetadataEntries) {
          return Fail("__metadata__ has more than 256 entries");
        }
        key_ = std::move(name);
        return true;
      default:
        return TensorKey(name);
    }
  }

  bool end_object() override {
    if (place_ == Place::kTop) {
      place_ = Place::kEnd;
      return true;
    }
    if (place_ == Place::kTensor) {
      if (fields_ != 7) return Fail("dtype, shape or data_offsets is missing");
      header_.tensors.push_back(std::move(tensor_));
      tensor_ = HeaderTensor{};
    }
    place_ = Place::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || key_ == "dtype") return Unexpected();
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    offsets_ = 0;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_ != 2) {
      return Fail("data_offsets has fewer than two numbers");
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("not valid JSON at byte ", position));
  }

 private:
  bool TopKey(std::string& name) {
    if (name != "__metadata__" && !IsValidTensorName(name)) {
      return Fail(absl::StrCat("tensor number ", header_.tensors.size(),
                               ": its name is not [A-Za-z0-9_.]{1,128}"));
    }
    if (!names_.insert(name).second) return Fail(absl::StrCat("duplicate key ", name));
    key_ = std::move(name);
    return true;
  }

  bool TensorKey(std::string& name) {
    const int bit = name == "dtype" ? 1 : name == "shape" ? 2 : name == "data_offsets" ? 4 : 0;
    if (bit == 0) return Fail("has a field besides dtype, shape and data_offsets");
    if ((fields_ & bit) != 0) return Fail(absl::StrCat("duplicate key ", name));
    fields_ |= bit;
    key_ = std::move(name);
    return true;
  }

  // Whatever the rules admit here, it is not this.
  bool Unexpected() {
    switch (place_) {
      case Place::kStart:
      case Place::kEnd:
        return Fail("the header is not an object");
      case Place::kTop:
        return Fail(absl::StrCat(key_, ": expected an object"));
      case Place::kMetadata:
        return Fail("__metadata__ has a value that is not a string");
      case Place::kTensor:
        return Fail(absl::StrCat(key_, key_ == "dtype" ? " is not a string" : " is not an array"));
      case Place::kShape:
        return Fail("shape has an entry that is not an integer");
      case Place::kOffsets:
        return Fail("data_offsets has an entry that is not an integer");
    }
    return false;
  }

  bool Number(const char* what) {
    if (place_ == Place::kShape) return Fail(absl::StrCat("shape has ", what));
    if (place_ == Place::kOffsets) return Fail(absl::StrCat("data_offsets has ", what));
    return Unexpected();
  }

  bool Fail(std::string what) {
    const bool in_tensor =
        place_ == Place::kTensor || place_ == Place::kShape || place_ == Place::kOffsets;
    if (error_.empty()) {
      error_ = in_tensor ? absl::StrCat("tensor ", tensor_.name, ": ", what) : std::move(what);
    }
    return false;
  }

  SafetensorsHeader header_;
  std::set<std::string> names_;
  std::string error_;
  Place place_ = Place::kStart;
  std::string key_;
  HeaderTensor tensor_;
  int fields_ = 0;  // bits: dtype, shape, data_offsets seen
  int offsets_ = 0;
};

}  // namespace

bool IsValidTensorName(std::string_view name) {
  return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.';
  });
}

const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF64:
      return "F64";
    case DType::kI64:
      return "I64";
  }
  return "";
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view header) {
  if (header.empty() || header.front() != '{') {
    return absl::DataLossError("header: does not start with '{'");
  }
  const size_t last = header.find_last_not_of(' ');
  if (header[last] != '}') {
    return absl::DataLossError("header: something other than spaces follows the closing brace");
  }
  // The parser takes a NUL byte for the end of its input and would ignore what follows.
  if (header.find('\0') != std::string_view::npos) {
    return absl::DataLossError("header: holds a NUL byte");
  }
  HeaderHandler handler;
  if (!Json::sax_parse(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(last) + 1,
                       &handler)) {
    return absl::DataLossError(absl::StrCat("header: ", handler.error()));
  }
  return handler.Take();
}

}  // namespace bflow
