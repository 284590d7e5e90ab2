#include "client/row_codec.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace bflow::client {

namespace v1 = ::butterflyflow::v1;
static_assert(std::endian::native == std::endian::little, "tensors are little-endian raw bytes");

bool FitsInt16(std::span<const float> values) {
  for (const float v : values) {
    if (!(v >= -32768.0f && v <= 32767.0f) || v != std::trunc(v)) return false;
  }
  return true;
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
                      bool int16) {
  v1::Tensor tensor;
  int64_t row = 1;
  for (const int64_t n : event_shape) row *= n;
  tensor.add_shape(static_cast<int64_t>(values.size()) / row);
  for (const int64_t n : event_shape) tensor.add_shape(n);
  std::string* data = tensor.mutable_data();
  if (int16) {
    tensor.set_dtype(v1::DATA_TYPE_INT16);
    data->resize(values.size() * sizeof(int16_t));
    for (size_t i = 0; i < values.size(); ++i) {
      const int16_t code = static_cast<int16_t>(values[i]);
      std::memcpy(data->data() + i * sizeof(code), &code, sizeof(code));
    }
  } else {
    tensor.set_dtype(v1::DATA_TYPE_FP32);
    data->assign(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }
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
