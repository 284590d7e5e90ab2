#include "model/checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/json.h"
#include "base/status.h"
#include "model/checkpoint/safetensors_header.h"

namespace bflow {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor data is little-endian");

constexpr size_t kPrefix = 8;

uint64_t ReadLittleEndian64(const char* bytes) {
  uint64_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

absl::Status TensorFault(const std::string& name, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("tensor ", name, ": ", what));
}

// Begin at 0, contiguous, no overlap, no hole, the last end is the end of the data; each as long as
// its shape says. `tensors` in order of begin.
absl::Status CheckOffsets(const std::vector<HeaderTensor>& tensors, int64_t data_size) {
  int64_t expected = 0;
  for (const HeaderTensor& tensor : tensors) {
    if (tensor.begin != expected) {
      return TensorFault(tensor.name, tensor.begin < expected
                                          ? "its data overlaps the tensor before it"
                                          : "a hole in the data lies before it");
    }
    const auto count = CheckedProduct(tensor.shape);
    const auto bytes = count ? CheckedMultiply(*count, ItemSize(tensor.dtype)) : std::nullopt;
    if (!bytes) return TensorFault(tensor.name, "the size of its shape overflows");
    if (tensor.end < tensor.begin || tensor.end - tensor.begin != *bytes) {
      return TensorFault(tensor.name, absl::StrCat("data_offsets do not span the ", *bytes,
                                                   " bytes of its shape"));
    }
    if (tensor.end > data_size) return TensorFault(tensor.name, "its data ends behind the file");
    expected = tensor.end;
  }
  if (expected != data_size) {
    return absl::DataLossError(
        absl::StrCat("data: ", data_size - expected, " bytes behind the last tensor"));
  }
  return absl::OkStatus();
}

// A JSON string; InvalidArgument where `text` is not UTF-8.
absl::StatusOr<std::string> Quote(const std::string& text, absl::string_view what) {
  std::string quoted = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (Json::parse(quoted).get<std::string>() != text) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not UTF-8"));
  }
  return quoted;
}

absl::Status CheckToWrite(const TensorToWrite& tensor, std::set<std::string>* names) {
  if (!IsValidTensorName(tensor.name)) {
    return absl::InvalidArgumentError("tensor name: expected [A-Za-z0-9_.]{1,128}");
  }
  auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, ": ", what));
  };
  if (!names->insert(tensor.name).second) return fault("appears twice");
  if (tensor.shape.size() > kMaxSafetensorsRank) return fault("more than 8 dimensions");
  for (int64_t d : tensor.shape) {
    if (d < 1) return fault("a dimension below 1");
  }
  const auto count = CheckedProduct(tensor.shape);
  const auto bytes = count ? CheckedMultiply(*count, ItemSize(tensor.dtype)) : std::nullopt;
  if (!bytes || static_cast<uint64_t>(*bytes) != tensor.data.size()) {
    return fault(
        absl::StrCat("has ", tensor.data.size(), " bytes, its shape wants ", bytes.value_or(-1)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(std::string bytes) {
  if (bytes.size() < kPrefix + 2) {
    return absl::DataLossError(absl::StrCat("file: ", bytes.size(), " bytes, no header fits"));
  }
  const uint64_t header_size = ReadLittleEndian64(bytes.data());
  if (header_size < 2 || header_size > kMaxSafetensorsHeader ||
      header_size > bytes.size() - kPrefix) {
    return absl::DataLossError(absl::StrCat("header length: is ", header_size, " in a file of ",
                                            bytes.size(), " bytes, expected 2 to ",
                                            kMaxSafetensorsHeader, " inside the file"));
  }
  const size_t data_begin = kPrefix + static_cast<size_t>(header_size);
  BFLOW_ASSIGN_OR_RETURN(SafetensorsHeader header,
                         ParseSafetensorsHeader(std::string_view(bytes).substr(
                             kPrefix, static_cast<size_t>(header_size))));
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const HeaderTensor& a, const HeaderTensor& b) { return a.begin < b.begin; });
  BFLOW_RETURN_IF_ERROR(
      CheckOffsets(header.tensors, static_cast<int64_t>(bytes.size() - data_begin)));

  SafetensorsFile file;
  file.bytes_ = std::make_unique<const std::string>(std::move(bytes));
  file.metadata_ = std::move(header.metadata);
  file.tensors_.reserve(header.tensors.size());
  const auto* data = reinterpret_cast<const std::byte*>(file.bytes_->data()) + data_begin;
  for (HeaderTensor& tensor : header.tensors) {
    file.tensors_.push_back(
        {std::move(tensor.name),
         tensor.dtype,
         std::move(tensor.shape),
         {data + tensor.begin, static_cast<size_t>(tensor.end - tensor.begin)}});
    file.by_name_.emplace(file.tensors_.back().name, file.tensors_.size() - 1);
  }
  return file;
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

absl::StatusOr<std::string> SerializeSafetensors(
    const std::vector<TensorToWrite>& tensors, const std::map<std::string, std::string>& metadata) {
  if (tensors.size() > kMaxSafetensorsTensors) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensors.size(), " tensors, at most ", kMaxSafetensorsTensors));
  }
  std::string header = "{\"__metadata__\":{";
  for (const auto& [key, value] : metadata) {
    BFLOW_ASSIGN_OR_RETURN(std::string quoted_key, Quote(key, "metadata key"));
    BFLOW_ASSIGN_OR_RETURN(std::string quoted_value, Quote(value, "metadata value"));
    absl::StrAppend(&header, header.back() == '{' ? "" : ",", quoted_key, ":", quoted_value);
  }
  header += '}';
  std::set<std::string> names;
  int64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    BFLOW_RETURN_IF_ERROR(CheckToWrite(tensor, &names));
    const auto end = CheckedAdd(offset, static_cast<int64_t>(tensor.data.size()));
    if (!end) return absl::InvalidArgumentError("tensors: their total size overflows");
    absl::StrAppend(&header, ",\"", tensor.name, "\":{\"dtype\":\"", DTypeName(tensor.dtype),
                    "\",\"shape\":", Json(tensor.shape).dump(), ",\"data_offsets\":[", offset, ",",
                    *end, "]}");
    offset = *end;
  }
  header += '}';
  // The data begins at a multiple of 8.
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > kMaxSafetensorsHeader) {
    return absl::InvalidArgumentError(
        absl::StrCat("header: ", header.size(), " bytes, at most ", kMaxSafetensorsHeader));
  }
  std::string bytes;
  bytes.reserve(kPrefix + header.size() + static_cast<size_t>(offset));
  const uint64_t size = header.size();
  bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
  bytes += header;
  for (const TensorToWrite& tensor : tensors) {
    bytes.append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
  }
  return bytes;
}

absl::StatusOr<std::vector<double>> ToDoubles(const TensorView& tensor) {
  std::vector<double> values(tensor.data.size() / static_cast<size_t>(ItemSize(tensor.dtype)));
  if (tensor.dtype == DType::kF64) {
    if (!values.empty()) std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
    return values;
  }
  if (tensor.dtype != DType::kF32) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", tensor.name, ": is ", DTypeName(tensor.dtype), ", expected F32 or F64"));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    float value;
    std::memcpy(&value, tensor.data.data() + i * sizeof(value), sizeof(value));
    values[i] = value;
  }
  return values;
}

absl::StatusOr<std::vector<int64_t>> ToIndices(const TensorView& tensor) {
  if (tensor.dtype != DType::kI64) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor.name, ": is ", DTypeName(tensor.dtype), ", expected I64"));
  }
  std::vector<int64_t> values(tensor.data.size() / sizeof(int64_t));
  if (!values.empty()) std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

}  // namespace bflow
