#include "client/cli/sample_output.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "client/row_codec.h"
#include "model/data/npy.h"
#include "model/data/picture.h"

namespace bflow::client {
namespace {

namespace v1 = ::butterflyflow::v1;

template <typename T>
std::vector<float> Widened(const std::string& data) {
  std::vector<float> values(data.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(value), sizeof(value));
    values[i] = static_cast<float>(value);
  }
  return values;
}

std::vector<float> Values(const v1::Tensor& tensor) {
  if (tensor.dtype() == v1::DATA_TYPE_UINT8) return Widened<uint8_t>(tensor.data());
  if (tensor.dtype() == v1::DATA_TYPE_INT16) return Widened<int16_t>(tensor.data());
  return Widened<float>(tensor.data());
}

// As wide as high, about.
int64_t Columns(int64_t tiles) {
  return static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(tiles))));
}

}  // namespace

absl::Status SampleOutput::WriteFailed(const char* flag, const absl::Status& status) {
  write_failed_ = true;
  return absl::Status(status.code(), absl::StrCat(flag, ": ", std::string(status.message())));
}

absl::Status SampleOutput::Begin(v1::DataType dtype) {
  dtype_ = dtype;
  if (!target_.png.empty() && dtype != v1::DATA_TYPE_UINT8) {
    return absl::InvalidArgumentError("--png: takes pixels of 8 bits, the samples are others");
  }
  if (target_.npy.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<FileWriter>> file = FileWriter::CreateUserFile(target_.npy);
  if (!file.ok()) return WriteFailed("--out", file.status());
  npy_ = *std::move(file);
  std::vector<int64_t> shape = {static_cast<int64_t>(target_.samples)};
  shape.insert(shape.end(), model_.info.event_shape().begin(), model_.info.event_shape().end());
  const NpyType type = dtype == v1::DATA_TYPE_UINT8   ? NpyType::kUint8
                       : dtype == v1::DATA_TYPE_INT16 ? NpyType::kInt16
                                                      : NpyType::kFloat32;
  const absl::Status written = npy_->Append(NpyHeader(type, shape));
  return written.ok() ? written : WriteFailed("--out", written);
}

absl::Status SampleOutput::Add(const v1::Tensor& samples) {
  const v1::DataType dtype = samples.dtype();
  const bool first = dtype_ == v1::DATA_TYPE_UNSPECIFIED;
  if ((!first && dtype != dtype_) || dtype == v1::DATA_TYPE_FP64 || ValueBytes(dtype) == 0) {
    return absl::InternalError("samples: the reply is not UINT8, INT16 or FP32 all along");
  }
  if (first) BFLOW_RETURN_IF_ERROR(Begin(dtype));
  const std::string& data = samples.data();
  if (npy_ != nullptr) {
    const absl::Status written = npy_->Append(data);
    if (!written.ok()) return WriteFailed("--out", written);
  }
  if (!target_.png.empty()) {
    const size_t wanted = static_cast<size_t>(std::min(target_.samples, kPictureSamples)) *
                          static_cast<size_t>(model_.EventValues());
    pixels_.append(data, 0, wanted - std::min(pixels_.size(), wanted));
  }
  if (target_.keep) {
    const std::vector<float> values = Values(samples);
    kept_.insert(kept_.end(), values.begin(), values.end());
  } else if (target_.npy.empty() && target_.png.empty()) {
    PrintCsv(Values(samples));
  }
  return absl::OkStatus();
}

// One line per time step of each sample.
void SampleOutput::PrintCsv(const std::vector<float>& values) {
  if (csv_rows_ == 0) {
    std::string header = "sample,step";
    for (const auto& channel : model_.info.channels()) {
      absl::StrAppend(&header, ",", channel.name());
    }
    std::printf("%s\n", header.c_str());
  }
  const int64_t steps = model_.info.event_shape(0);
  const int64_t per_step = model_.EventValues() / steps;
  const int64_t rows = static_cast<int64_t>(values.size()) / per_step;
  for (int64_t r = 0; r < rows; ++r, ++csv_rows_) {
    std::string line = absl::StrCat(csv_rows_ / steps, ",", csv_rows_ % steps);
    for (int64_t c = 0; c < per_step; ++c) {
      absl::StrAppendFormat(&line, ",%.7g", values[static_cast<size_t>(r * per_step + c)]);
    }
    std::printf("%s\n", line.c_str());
  }
}

absl::Status SampleOutput::Finish() {
  if (npy_ != nullptr) {
    const absl::Status written = npy_->Commit();
    if (!written.ok()) return WriteFailed("--out", written);
  }
  if (target_.png.empty()) return absl::OkStatus();
  const ImageShape shape{model_.info.event_shape(0), model_.info.event_shape(1),
                         model_.info.event_shape(2)};
  // Channels other than grey and colour are tiles of their own: an image's side by side.
  const int64_t images = static_cast<int64_t>(pixels_.size()) / shape.size();
  const bool picture = shape.channels == 1 || shape.channels == 3;
  const int64_t columns = picture ? Columns(images) : Columns(images) * shape.channels;
  const std::span<const uint8_t> pixels(reinterpret_cast<const uint8_t*>(pixels_.data()),
                                        pixels_.size());
  BFLOW_ASSIGN_OR_RETURN(const Picture grid, ImageGrid(shape, pixels, columns));
  const absl::Status written = WritePng(target_.png, grid);
  return written.ok() ? written : WriteFailed("--png", written);
}

}  // namespace bflow::client
