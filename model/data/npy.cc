#include "model/data/npy.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked_math.h"
#include "base/file.h"
#include "base/status.h"

namespace bflow {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr int64_t kMaxFileBytes = int64_t{2} << 30;
constexpr size_t kMaxHeaderBytes = 64 << 10;

absl::Status Bad(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("npy: ", what));
}

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

// The header is the text of a Python dict with exactly the keys descr, fortran_order and shape.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  absl::StatusOr<Header> Parse() {
    int seen = 0;
    if (!Take('{')) return Bad("header is not a dict");
    while (!Take('}')) {
      std::optional<std::string> key = Quoted();
      if (!key || !Take(':')) return Bad("header is not a dict of quoted keys");
      if (*key == "descr") {
        std::optional<std::string> descr = Quoted();
        if (!descr) return Bad("descr: takes a simple dtype");
        header_.descr = *descr;
        seen |= 1;
      } else if (*key == "fortran_order") {
        if (TakeWord("True")) {
          header_.fortran_order = true;
        } else if (!TakeWord("False")) {
          return Bad("fortran_order: takes True or False");
        }
        seen |= 2;
      } else if (*key == "shape") {
        if (!Shape()) return Bad("shape: takes a tuple of up to 8 sizes");
        seen |= 4;
      } else {
        return Bad("header has an unknown key");
      }
      Take(',');
    }
    if (seen != 7) return Bad("header needs descr, fortran_order and shape");
    return std::move(header_);
  }

 private:
  void SkipSpace() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n')) text_.remove_prefix(1);
  }
  bool Take(char c) {
    SkipSpace();
    if (text_.empty() || text_[0] != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool TakeWord(std::string_view word) {
    SkipSpace();
    if (text_.substr(0, word.size()) != word) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  std::optional<std::string> Quoted() {
    SkipSpace();
    if (text_.empty() || (text_[0] != '\'' && text_[0] != '"')) return std::nullopt;
    const size_t end = text_.find(text_[0], 1);
    if (end == std::string_view::npos) return std::nullopt;
    std::string inside(text_.substr(1, end - 1));
    text_.remove_prefix(end + 1);
    return inside;
  }
  bool Shape() {
    if (!Take('(')) return false;
    while (!Take(')')) {
      SkipSpace();
      const size_t end = text_.find_first_not_of("0123456789");
      int64_t size;
      if (end == std::string_view::npos ||
          !absl::SimpleAtoi(absl::string_view(text_.data(), end), &size) ||
          header_.shape.size() == 8) {
        return false;
      }
      text_.remove_prefix(end);
      header_.shape.push_back(size);
      Take(',');
    }
    return true;
  }

  std::string_view text_;
  Header header_;
};

// Widens `n` values of T from unaligned bytes.
template <typename T>
std::vector<float> Values(std::string_view data, int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    values[i] = static_cast<float>(value);
  }
  return values;
}

struct DType {
  const char* descr;
  int64_t size;
  bool is_integer;
  std::vector<float> (*values)(std::string_view, int64_t);
};

constexpr DType kDTypes[] = {
    {"|u1", 1, true, Values<uint8_t>}, {"|i1", 1, true, Values<int8_t>},
    {"<i2", 2, true, Values<int16_t>}, {"<i4", 4, true, Values<int32_t>},
    {"<f4", 4, false, Values<float>},  {"<f8", 8, false, Values<double>},
};

template <typename T>
std::string Serialize(const char* descr, std::span<const int64_t> shape,
                      std::span<const T> values) {
  std::string header =
      absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (",
                   absl::StrJoin(shape, ", "), shape.size() == 1 ? ",)" : ")", ", }");
  // The data begin at a multiple of 64 bytes; the header ends in a newline.
  header.append(63 - (kMagic.size() + 4 + header.size()) % 64, ' ').append("\n");
  std::string bytes(kMagic);
  bytes.append(
      {1, 0, static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)});
  bytes.append(header);
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return bytes;
}

}  // namespace

absl::StatusOr<NpyArray> ParseNpy(std::string_view bytes) {
  if (bytes.substr(0, kMagic.size()) != kMagic || bytes.size() < 12) return Bad("not an npy file");
  const int version = bytes[6];
  if (version != 1 && version != 2) return Bad("format version: takes 1 or 2");
  const size_t start = version == 1 ? 10 : 12;
  size_t length = 0;
  for (size_t i = start; i-- > 8;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  if (length > kMaxHeaderBytes || start + length > bytes.size()) return Bad("header is cut off");
  BFLOW_ASSIGN_OR_RETURN(Header header, HeaderParser(bytes.substr(start, length)).Parse());
  if (header.fortran_order) return Bad("fortran_order: takes False");
  const std::string_view data = bytes.substr(start + length);
  const std::optional<int64_t> count = CheckedProduct(header.shape);
  for (const DType& dtype : kDTypes) {
    if (header.descr != dtype.descr) continue;
    const std::optional<int64_t> size = count ? CheckedMultiply(*count, dtype.size) : std::nullopt;
    if (!size || *size != static_cast<int64_t>(data.size())) {
      return Bad(absl::StrCat("shape and dtype do not fit the ", data.size(), " bytes of data"));
    }
    NpyArray array{std::move(header.shape), dtype.is_integer, dtype.values(data, *count)};
    for (float value : array.values) {
      if (dtype.is_integer && std::abs(value) > 0x1p24f) return Bad("an integer beyond 2^24");
    }
    return array;
  }
  return Bad("descr: takes u1, i1, i2, i4, f4 or f8, little-endian");
}

absl::StatusOr<NpyArray> ReadNpy(const std::string& path) {
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, ReadUserFile(path, kMaxFileBytes));
  absl::StatusOr<NpyArray> array = ParseNpy(bytes);
  if (array.ok()) return array;
  return absl::Status(array.status().code(),
                      absl::StrCat(std::string(BaseName(path)), ": ", array.status().message()));
}

std::string SerializeNpy(std::span<const int64_t> shape, std::span<const float> values) {
  return Serialize("<f4", shape, values);
}

std::string SerializeNpy(std::span<const int64_t> shape, std::span<const int16_t> values) {
  return Serialize("<i2", shape, values);
}

}  // namespace bflow
