// The formats of images that are little more than their pixels: IDX and CIFAR-10; and gzip.
#include <zlib.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/checked_math.h"
#include "base/status.h"
#include "model/data/image_formats.h"

namespace bflow {
namespace {

constexpr auto kDamage = absl::StatusCode::kDataLoss;
constexpr auto kUnsupported = absl::StatusCode::kInvalidArgument;
constexpr size_t kIdxBytes = 0x08;  // the type "unsigned byte"
constexpr int64_t kMaxCifarLabel = 9;

int64_t BigEndian(std::string_view bytes, size_t offset) {
  int64_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[offset + i]);
  return value;
}

// Sizes of an IDX header whose number of dimensions must be `dimensions`; the data follow byte
// 4 + 4 dimensions and have exactly the size that the header says.
absl::StatusOr<std::vector<int64_t>> ParseIdxHeader(const ImageFile& file, size_t dimensions) {
  const std::string_view bytes = file.bytes;
  const size_t header = 4 + 4 * dimensions;
  if (bytes.size() < header) {
    return file.ErrorAt(kDamage, static_cast<int64_t>(bytes.size()),
                        absl::StrCat("the file ends in its IDX header of ", header, " bytes"));
  }
  const int64_t magic = BigEndian(bytes, 0);
  const int64_t expected = static_cast<int64_t>(kIdxBytes << 8 | dimensions);
  if (magic != expected) {
    return file.ErrorAt(kUnsupported, 0,
                        absl::StrFormat("IDX magic 0x%08x, expected 0x%08x", magic, expected));
  }
  std::vector<int64_t> sizes;
  for (size_t d = 0; d < dimensions; ++d) sizes.push_back(BigEndian(bytes, 4 + 4 * d));
  const std::optional<int64_t> data = CheckedProduct(sizes);
  const auto rest = static_cast<int64_t>(bytes.size() - header);
  if (data != rest) {
    std::string text = data.has_value() ? absl::StrCat(*data) : "more than 2^63";
    return file.ErrorAt(kDamage, static_cast<int64_t>(header),
                        absl::StrCat(rest, " bytes of data, the IDX header says ", text));
  }
  return sizes;
}

struct InflateEnd {
  void operator()(z_stream* stream) const { inflateEnd(stream); }
};

}  // namespace

int64_t ImageFile::MaxFileBytes() const {
  constexpr int64_t kSlack = 1 << 20;
  return 2 * std::min(max_bytes, std::numeric_limits<int64_t>::max() / 4) + kSlack;
}

absl::Status ImageFile::Error(absl::StatusCode code, absl::string_view what) const {
  return absl::Status(code, absl::StrCat(name, ": ", what));
}

absl::Status ImageFile::ErrorAt(absl::StatusCode code, int64_t offset,
                                absl::string_view what) const {
  return absl::Status(code, absl::StrCat(name, ": byte ", offset, ": ", what));
}

bool IsIdx(std::string_view bytes) {
  return bytes.starts_with(std::string_view("\0\0", 2)) && bytes.size() >= 4;
}

bool IsIdxImages(std::string_view bytes) {
  return bytes.starts_with(std::string_view("\0\0\x08\x03", 4));
}

bool IsIdxLabels(std::string_view bytes) {
  return bytes.starts_with(std::string_view("\0\0\x08\x01", 4));
}

absl::StatusOr<ImageSet> ParseIdxImages(const ImageFile& file) {
  BFLOW_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ParseIdxHeader(file, 3));
  ImageSet set;
  set.count = sizes[0];
  set.shape = {1, sizes[1], sizes[2]};
  const absl::StatusOr<int64_t> size = ImageBytes(set.shape, set.count, file.max_bytes);
  if (!size.ok()) return file.ErrorAt(size.status().code(), 4, size.status().message());
  set.pixels.assign(file.bytes.end() - *size, file.bytes.end());
  return set;
}

absl::StatusOr<std::vector<int32_t>> ParseIdxLabels(const ImageFile& file) {
  BFLOW_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ParseIdxHeader(file, 1));
  std::vector<int32_t> labels;
  for (char c : file.bytes.substr(file.bytes.size() - static_cast<size_t>(sizes[0]))) {
    labels.push_back(static_cast<uint8_t>(c));
  }
  return labels;
}

absl::StatusOr<ImageSet> ParseCifar10(const ImageFile& file) {
  const auto size = static_cast<int64_t>(file.bytes.size());
  if (size == 0 || size % kCifarRecordBytes != 0) {
    return file.ErrorAt(kDamage, size / kCifarRecordBytes * kCifarRecordBytes,
                        absl::StrCat("a CIFAR-10 record of ", size % kCifarRecordBytes,
                                     " bytes, expected ", kCifarRecordBytes));
  }
  ImageSet set;
  set.shape = {3, 32, 32};
  set.count = size / kCifarRecordBytes;
  const absl::StatusOr<int64_t> pixels = ImageBytes(set.shape, set.count, file.max_bytes);
  if (!pixels.ok()) return file.Error(pixels.status().code(), pixels.status().message());
  set.pixels.reserve(static_cast<size_t>(*pixels));
  for (int64_t n = 0; n < set.count; ++n) {
    const auto record = file.bytes.begin() + n * kCifarRecordBytes;
    const int label = static_cast<uint8_t>(*record);
    if (label > kMaxCifarLabel) {
      return file.ErrorAt(kDamage, n * kCifarRecordBytes,
                          absl::StrCat("a CIFAR-10 label ", label, ", expected 0 to 9"));
    }
    set.labels.push_back(label);
    set.pixels.insert(set.pixels.end(), record + 1, record + kCifarRecordBytes);
  }
  return set;
}

absl::StatusOr<std::string> Gunzip(const ImageFile& file) {
  z_stream stream = {};
  constexpr int kGzipOnly = 15 + 16;  // the largest window, a gzip header
  if (inflateInit2(&stream, kGzipOnly) != Z_OK) {
    return file.Error(absl::StatusCode::kResourceExhausted, "gzip: not enough memory");
  }
  const std::unique_ptr<z_stream, InflateEnd> end(&stream);
  std::string content;
  std::string block(size_t{1} << 18, '\0');
  std::string_view rest = file.bytes;
  for (;;) {
    const auto taken =
        static_cast<uInt>(std::min<size_t>(rest.size(), std::numeric_limits<uInt>::max()));
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(rest.data()));  // only read
    stream.avail_in = taken;
    stream.next_out = reinterpret_cast<Bytef*>(block.data());
    stream.avail_out = static_cast<uInt>(block.size());
    const int code = inflate(&stream, Z_NO_FLUSH);
    rest.remove_prefix(taken - stream.avail_in);
    const auto offset = static_cast<int64_t>(file.bytes.size() - rest.size());
    if (code != Z_OK && code != Z_STREAM_END) {
      return file.ErrorAt(
          kDamage, offset,
          absl::StrCat("gzip: ", stream.msg != nullptr ? stream.msg : "the file ends too early"));
    }
    content.append(block, 0, block.size() - stream.avail_out);
    if (static_cast<int64_t>(content.size()) > file.MaxFileBytes()) {
      return file.ErrorAt(absl::StatusCode::kResourceExhausted, offset,
                          absl::StrCat("gzip: unpacks to more than ", file.MaxFileBytes(),
                                       " bytes, the most that is read"));
    }
    if (code == Z_STREAM_END) {
      if (rest.empty()) return content;
      if (inflateReset(&stream) != Z_OK) return file.ErrorAt(kDamage, offset, "gzip: damaged");
    } else if (rest.empty() && stream.avail_out != 0) {
      return file.ErrorAt(kDamage, offset, "gzip: the file ends inside the compressed data");
    }
  }
}

}  // namespace bflow
