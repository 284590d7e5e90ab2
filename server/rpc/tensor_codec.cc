#include "server/rpc/tensor_codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked_math.h"
#include "server/exec/reason.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

static_assert(std::endian::native == std::endian::little, "the wire is copied as it is");

// At most the first 8 dimensions, so that a message stays short.
std::string ShapeText(const google::protobuf::RepeatedField<int64_t>& shape) {
  const std::vector<int64_t> head(shape.begin(), shape.begin() + std::min(shape.size(), 8));
  return absl::StrCat("[", absl::StrJoin(head, ","), shape.size() > 8 ? ",..." : "", "]");
}

std::string EventText(const ModelSignature& signature) {
  return absl::StrCat("[-1,", absl::StrJoin(signature.event_shape, ","), "]");
}

// Limits of a channel's values under a noise convention.
struct Range {
  double low, high;
  bool high_open;
};

std::vector<Range> Ranges(const ModelSignature& signature, NoiseKind noise) {
  std::vector<Range> ranges;
  for (const ChannelSignature& channel : signature.channels) {
    Range range{channel.input_min, channel.input_max, false};
    if (signature.quantised && noise == NoiseKind::kNone) {
      // Up to the value after the last one of the grid: 256 of pixels, whatever their bits.
      const double steps = std::floor((channel.input_max - channel.input_min) / channel.step);
      range = {channel.input_min, channel.input_min + channel.step * (steps + 1), true};
    }
    if (range.low > range.high || (range.low == 0 && range.high == 0)) {  // not declared
      range = {std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max(), false};
    }
    ranges.push_back(range);
  }
  if (ranges.empty()) {
    ranges.push_back(
        {std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max(), false});
  }
  return ranges;
}

// How the values of a row lie: `run` of one channel, then as many of the next, and around again.
struct RowLayout {
  int64_t size, run;
};

template <typename T>
RowStatus DecodeRow(const char* bytes, const RowLayout& row, const std::vector<Range>& ranges,
                    bool quantised, NoiseKind noise, float* out) {
  bool finite = true, in_range = true, whole = true;
  size_t channel = 0;
  for (int64_t begin = 0; begin < row.size; begin += row.run) {
    const Range& range = ranges[channel];
    for (int64_t i = begin; i < begin + row.run; ++i) {
      T element;
      std::memcpy(&element, bytes + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
      const double value = static_cast<double>(element);
      finite = finite && std::isfinite(value);
      in_range = in_range && value >= range.low &&
                 (range.high_open ? value < range.high : value <= range.high);
      if constexpr (std::is_floating_point_v<T>) whole = whole && value == std::floor(value);
      out[i] = static_cast<float>(element);
    }
    if (++channel == ranges.size()) channel = 0;
  }
  if (!finite) return RowStatus::kNonFiniteInput;
  if (!in_range) return RowStatus::kOutOfRange;
  if (quantised && whole == (noise == NoiseKind::kNone)) return RowStatus::kOutOfRange;
  return RowStatus::kOk;
}

template <typename T>
void Decode(const pb::Tensor& x, const ModelSignature& signature, NoiseKind noise,
            DecodedRows& rows) {
  const int64_t size = signature.event_size();
  const RowLayout layout{size, signature.channel_run()};
  const std::vector<Range> ranges = Ranges(signature, noise);
  for (int64_t row = 0; row < rows.batch.rows; ++row) {
    rows.status[static_cast<size_t>(row)] =
        DecodeRow<T>(x.data().data() + row * size * static_cast<int64_t>(sizeof(T)), layout, ranges,
                     signature.quantised, noise, rows.batch.values.data() + row * size);
  }
}

template <typename T, typename From>
std::string Bytes(const std::vector<From>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const T element = static_cast<T>(values[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &element, sizeof(T));
  }
  return bytes;
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t word = i;
      for (int bit = 0; bit < 8; ++bit) word = (word >> 1) ^ (word & 1 ? 0x82F63B78u : 0u);
      made[i] = word;
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

int64_t ElementSize(pb::DataType dtype) {
  switch (dtype) {
    case pb::DATA_TYPE_FP32:
      return 4;
    case pb::DATA_TYPE_FP64:
      return 8;
    case pb::DATA_TYPE_UINT8:
      return 1;
    case pb::DATA_TYPE_INT16:
      return 2;
    default:
      return 0;
  }
}

const char* DataTypeName(pb::DataType dtype) {
  switch (dtype) {
    case pb::DATA_TYPE_FP32:
      return "FP32";
    case pb::DATA_TYPE_FP64:
      return "FP64";
    case pb::DATA_TYPE_UINT8:
      return "UINT8";
    case pb::DATA_TYPE_INT16:
      return "INT16";
    default:
      return "unknown";
  }
}

std::vector<pb::DataType> InputTypes(const ModelSignature& signature) {
  if (!signature.quantised) return {pb::DATA_TYPE_FP32, pb::DATA_TYPE_FP64};
  if (signature.is_image()) {
    return {pb::DATA_TYPE_UINT8, pb::DATA_TYPE_INT16, pb::DATA_TYPE_FP32, pb::DATA_TYPE_FP64};
  }
  return {pb::DATA_TYPE_INT16, pb::DATA_TYPE_UINT8, pb::DATA_TYPE_FP32, pb::DATA_TYPE_FP64};
}

absl::StatusOr<int64_t> CheckTensor(const pb::Tensor& x, const ModelSignature& signature) {
  const std::vector<pb::DataType> accepted = InputTypes(signature);
  if (std::find(accepted.begin(), accepted.end(), x.dtype()) == accepted.end()) {
    std::vector<std::string> names;
    for (pb::DataType dtype : accepted) names.push_back(DataTypeName(dtype));
    return MakeError(Reason::kBadDtype,
                     absl::StrCat("x.dtype: ", DataTypeName(x.dtype()), ", model takes ",
                                  absl::StrJoin(names, ", ")),
                     "x.dtype");
  }
  const std::vector<int64_t>& event = signature.event_shape;
  const bool fits = x.shape_size() == static_cast<int>(event.size()) + 1 && x.shape(0) >= 1 &&
                    std::equal(event.begin(), event.end(), x.shape().begin() + 1);
  const std::vector<int64_t> shape(x.shape().begin(), x.shape().end());
  const std::optional<int64_t> count = CheckedProduct(shape);
  const std::optional<int64_t> bytes =
      count ? CheckedMultiply(*count, ElementSize(x.dtype())) : std::nullopt;
  if (!fits || !bytes) {
    return MakeError(Reason::kShapeMismatch,
                     absl::StrCat("x: shape ", ShapeText(x.shape()), ", model takes ",
                                  EventText(signature), " with at least one row"),
                     "x.shape");
  }
  if (static_cast<int64_t>(x.data().size()) != *bytes) {
    return MakeError(
        Reason::kByteCountMismatch,
        absl::StrCat("x.data: ", x.data().size(), " bytes, shape and dtype say ", *bytes),
        "x.data");
  }
  if (x.has_crc32c() && Crc32c(x.data()) != x.crc32c()) {
    return MakeError(Reason::kChecksumMismatch,
                     "x.crc32c: is not the CRC-32C of x.data; the bytes changed on the way",
                     "x.crc32c");
  }
  return x.shape(0);
}

DecodedRows DecodeRows(const pb::Tensor& x, int64_t rows, const ModelSignature& signature,
                       NoiseKind noise) {
  DecodedRows decoded;
  decoded.batch.rows = rows;
  decoded.batch.values.resize(static_cast<size_t>(rows * signature.event_size()));
  decoded.status.resize(static_cast<size_t>(rows));
  switch (x.dtype()) {
    case pb::DATA_TYPE_FP32:
      Decode<float>(x, signature, noise, decoded);
      break;
    case pb::DATA_TYPE_FP64:
      Decode<double>(x, signature, noise, decoded);
      break;
    case pb::DATA_TYPE_UINT8:
      Decode<uint8_t>(x, signature, noise, decoded);
      break;
    default:
      Decode<int16_t>(x, signature, noise, decoded);
      break;
  }
  return decoded;
}

void EncodeScores(const std::vector<double>& values, pb::DataType dtype, int64_t columns,
                  pb::Tensor* tensor) {
  tensor->set_dtype(dtype);
  tensor->add_shape(static_cast<int64_t>(values.size()) / std::max<int64_t>(columns, 1));
  if (columns > 0) tensor->add_shape(columns);
  tensor->set_data(dtype == pb::DATA_TYPE_FP64 ? Bytes<double>(values) : Bytes<float>(values));
}

void EncodeFloats(const std::vector<float>& values, const std::vector<int64_t>& shape,
                  pb::Tensor* tensor) {
  tensor->set_dtype(pb::DATA_TYPE_FP32);
  for (int64_t dimension : shape) tensor->add_shape(dimension);
  tensor->set_data(Bytes<float>(values));
}

void EncodeEvents(const std::vector<float>& values, const ModelSignature& signature,
                  pb::DataType dtype, pb::Tensor* tensor) {
  tensor->set_dtype(dtype);
  tensor->add_shape(static_cast<int64_t>(values.size()) / signature.event_size());
  for (int64_t dimension : signature.event_shape) tensor->add_shape(dimension);
  if (dtype == pb::DATA_TYPE_INT16) {
    tensor->set_data(Bytes<int16_t>(values));
  } else if (dtype == pb::DATA_TYPE_UINT8) {
    tensor->set_data(Bytes<uint8_t>(values));
  } else {
    tensor->set_data(Bytes<float>(values));
  }
}

}  // namespace bflow
