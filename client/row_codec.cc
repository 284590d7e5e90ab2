#include "client/row_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace bflow::client {

namespace v1 = ::butterflyflow::v1;
static_assert(std::endian::native == std::endian::little, "tensors are little-endian raw bytes");

namespace {

bool Fits(std::span<const float> values, float low, float high) {
  return std::all_of(values.begin(), values.end(),
                     [&](float v) { return v >= low && v <= high && v == std::trunc(v); });
}

template <typename T>
std::string Bytes(std::span<const float> values) {
  std::string data(values.size() * sizeof(T), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const T code = static_cast<T>(values[i]);
    std::memcpy(data.data() + i * sizeof(code), &code, sizeof(code));
  }
  return data;
}

}  // namespace

v1::DataType SmallestType(std::span<const float> values, std::span<const v1::DataType> allowed) {
  const auto may_be = [&](v1::DataType type) {
    return std::find(allowed.begin(), allowed.end(), type) != allowed.end();
  };
  if (may_be(v1::DATA_TYPE_UINT8) && Fits(values, 0, 255)) return v1::DATA_TYPE_UINT8;
  if (may_be(v1::DATA_TYPE_INT16) && Fits(values, -32768, 32767)) return v1::DATA_TYPE_INT16;
  return v1::DATA_TYPE_FP32;
}

int64_t ValueBytes(v1::DataType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FP32:
      return 4;
    case v1::DATA_TYPE_FP64:
      return 8;
    case v1::DATA_TYPE_UINT8:
      return 1;
    case v1::DATA_TYPE_INT16:
      return 2;
    default:
      return 0;
  }
}

v1::Tensor EncodeRows(std::span<const float> values, std::span<const int64_t> event_shape,
                      v1::DataType dtype) {
  v1::Tensor tensor;
  int64_t row = 1;
  for (const int64_t n : event_shape) row *= n;
  tensor.add_shape(static_cast<int64_t>(values.size()) / row);
  for (const int64_t n : event_shape) tensor.add_shape(n);
  tensor.set_dtype(dtype);
  tensor.set_data(dtype == v1::DATA_TYPE_UINT8   ? Bytes<uint8_t>(values)
                  : dtype == v1::DATA_TYPE_INT16 ? Bytes<int16_t>(values)
                                                 : Bytes<float>(values));
  return tensor;
}

absl::StatusOr<std::vector<double>> DecodeScores(const v1::Tensor& tensor, int64_t count,
                                                 const std::string& field) {
  const bool is_float = tensor.dtype() == v1::DATA_TYPE_FP32;
  if (!is_float && tensor.dtype() != v1::DATA_TYPE_FP64) {
    return absl::InternalError(absl::StrCat(field, ": the reply's data type is not FP32 or FP64"));
  }
  const size_t expected = static_cast<size_t>(count) * (is_float ? 4 : 8);
  if (tensor.data().size() != expected) {
    return absl::InternalError(absl::StrCat(field, ": the reply has ", tensor.data().size(),
                                            " bytes, expected ", expected));
  }
  std::vector<double> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) {
    if (is_float) {
      float v;
      std::memcpy(&v, tensor.data().data() + i * sizeof(v), sizeof(v));
      out[i] = v;
    } else {
      std::memcpy(&out[i], tensor.data().data() + i * sizeof(double), sizeof(double));
    }
  }
  return out;
}

absl::Status CheckByteColumn(const std::string& bytes, int64_t count, const std::string& field) {
  if (bytes.size() == static_cast<size_t>(count)) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(field, ": the reply has ", bytes.size(), " bytes, expected ", count));
}

}  // namespace bflow::client
