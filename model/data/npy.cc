#include "model/data/npy.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/file.h"
#include "base/status.h"

namespace bflow {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are copied as they lie");

constexpr int64_t kMaxBytes = int64_t{2} << 30;
constexpr size_t kMaxHeaderBytes = 65536;
constexpr size_t kMaxDimensions = 4;
constexpr float kMaxExactInteger = 16777216.0f;  // 2^24

absl::Status HeaderError(size_t offset, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("npy header, byte ", offset, ": ", what));
}

struct Header {
  std::string descr;
  std::vector<int64_t> shape;
};

// The Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, which ends at
// byte `end` of the file.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, size_t end) : text_(text), end_(end) {}

  absl::StatusOr<Header> Parse() {
    bool has_descr = false, has_order = false, has_shape = false;
    if (!Take('{')) return Error("expected a dictionary");
    while (!Take('}')) {
      std::string key;
      if (!TakeString(&key) || !Take(':')) return Error("expected 'key': value");
      bool* seen = key == "descr"           ? &has_descr
                   : key == "fortran_order" ? &has_order
                   : key == "shape"         ? &has_shape
                                            : nullptr;
      if (seen == nullptr) return Error("unknown key");
      if (*seen) return Error("a key stands twice");
      *seen = true;
      if (seen == &has_descr && !TakeString(&header_.descr)) {
        return Error("descr: expected a string (structured types are not supported)");
      }
      if (seen == &has_order && !TakeWord("False")) {
        return Error("fortran_order: must be False (save np.ascontiguousarray(a))");
      }
      if (seen == &has_shape && !TakeShape()) {
        return Error("shape: expected a tuple of at most 4 sizes");
      }
      if (!Take(',') && Peek() != '}') return Error("expected ',' or '}'");
    }
    if (Peek() != '\0') return Error("text after the dictionary");
    if (!has_descr || !has_order || !has_shape) {
      return Error("descr, fortran_order and shape must be there");
    }
    return header_;
  }

 private:
  absl::Status Error(const char* what) const { return HeaderError(end_ - text_.size(), what); }
  char Peek() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n')) text_.remove_prefix(1);
    return text_.empty() ? '\0' : text_[0];
  }
  bool Take(char c) {
    if (Peek() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool TakeWord(std::string_view word) {
    Peek();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  bool TakeString(std::string* value) {
    const char quote = Peek();
    if (quote != '\'' && quote != '"') return false;
    const size_t end = text_.find(quote, 1);
    if (end == std::string_view::npos) return false;
    *value = std::string(text_.substr(1, end - 1));
    text_.remove_prefix(end + 1);
    return true;
  }
  bool TakeShape() {
    if (!Take('(')) return false;
    while (!Take(')')) {
      int64_t size = 0;
      Peek();
      auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), size);
      if (error != std::errc() || size < 0 || header_.shape.size() == kMaxDimensions) return false;
      text_.remove_prefix(static_cast<size_t>(end - text_.data()));
      header_.shape.push_back(size);
      if (!Take(',') && Peek() != ')') return false;
    }
    return true;
  }

  std::string_view text_;
  size_t end_;
  Header header_;
};

// Size in bytes of a supported dtype, 0 if it is not supported.
int64_t ItemBytes(const std::string& descr) {
  if (descr == "|u1" || descr == "<u1" || descr == "|i1" || descr == "<i1") return 1;
  if (descr == "<u2" || descr == "<i2") return 2;
  if (descr == "<i4" || descr == "<f4") return 4;
  return descr == "<i8" || descr == "<f8" ? 8 : 0;
}

template <typename T>
void Widen(std::string_view data, std::vector<float>* values) {
  for (size_t i = 0; i < values->size(); ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    (*values)[i] = static_cast<float>(value);
  }
}

}  // namespace

absl::StatusOr<NpyView> ParseNpyView(std::string_view bytes, int64_t max_bytes) {
  if (bytes.size() < 12 || !bytes.starts_with("\x93NUMPY")) {
    return absl::InvalidArgumentError("npy: the file does not begin as a .npy file");
  }
  const int version = static_cast<unsigned char>(bytes[6]);
  if ((version != 1 && version != 2) || bytes[7] != 0) {
    return absl::InvalidArgumentError("npy, byte 6: only versions 1.0 and 2.0 are supported");
  }
  const size_t length_bytes = version == 1 ? 2 : 4;
  size_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(bytes[8 + i])) << (8 * i);
  }
  const size_t start = 8 + length_bytes;
  if (length > kMaxHeaderBytes || length > bytes.size() - start) {
    return HeaderError(8, "longer than the file or than 65536 bytes");
  }
  const size_t end = start + length;
  BFLOW_ASSIGN_OR_RETURN(Header header, HeaderParser(bytes.substr(start, length), end).Parse());
  const int64_t item = ItemBytes(header.descr);
  if (item == 0) {
    return HeaderError(start, "descr: expected u1, i1, <u2, <i2, <i4, <i8, <f4 or <f8");
  }
  const std::optional<int64_t> count = CheckedProduct(header.shape);
  if (!count.has_value() || *count > max_bytes / item) {
    return absl::ResourceExhaustedError(
        absl::StrCat("npy header: shape: more than ", max_bytes, " bytes"));
  }
  const std::string_view data = bytes.substr(end);
  if (static_cast<int64_t>(data.size()) != *count * item) {
    return absl::DataLossError(absl::StrCat("npy: ", data.size(), " bytes of data from byte ", end,
                                            ", shape and dtype say ", *count * item));
  }
  return NpyView{std::move(header.shape), header.descr.substr(1), data};
}

absl::StatusOr<NpyArray> ParseNpy(std::string_view bytes) {
  BFLOW_ASSIGN_OR_RETURN(NpyView view, ParseNpyView(bytes, kMaxBytes));
  const std::string& dtype = view.dtype;
  const std::string_view data = view.data;
  if (dtype == "u2" || dtype == "i8") {
    return absl::InvalidArgumentError("npy header: descr: expected u1, i1, <i2, <i4, <f4 or <f8");
  }
  NpyArray array;
  array.is_integer = dtype[0] != 'f';
  array.values.resize(data.size() / static_cast<size_t>(dtype[1] - '0'));
  array.shape = std::move(view.shape);
  if (dtype == "u1") Widen<uint8_t>(data, &array.values);
  if (dtype == "i1") Widen<int8_t>(data, &array.values);
  if (dtype == "i2") Widen<int16_t>(data, &array.values);
  if (dtype == "i4") Widen<int32_t>(data, &array.values);
  if (dtype == "f4") Widen<float>(data, &array.values);
  if (dtype == "f8") Widen<double>(data, &array.values);
  if (dtype == "i4" && std::any_of(array.values.begin(), array.values.end(),
                                   [](float v) { return std::abs(v) > kMaxExactInteger; })) {
    return absl::InvalidArgumentError("npy: an integer beyond 2^24 is no converter code");
  }
  return array;
}

absl::StatusOr<NpyArray> ReadNpy(const std::string& path) {
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, ReadUserFile(path, kMaxBytes));
  absl::StatusOr<NpyArray> array = ParseNpy(bytes);
  if (array.ok()) return array;
  return absl::Status(array.status().code(),
                      absl::StrCat(std::string(BaseName(path)), ": ", array.status().message()));
}

absl::StatusOr<NpyWindows> WindowsOfNpy(const NpyArray& array, int64_t window, int64_t channels,
                                        int64_t hop) {
  const std::vector<int64_t>& shape = array.shape;
  if (window <= 0 || channels <= 0 || hop <= 0) {
    return absl::InvalidArgumentError("window, channels and hop must be above 0");
  }
  NpyWindows windows;
  windows.is_integer = array.is_integer;
  if (shape.size() == 3 && shape[1] == window && shape[2] == channels) {
    windows.count = shape[0];
    windows.values = array.values;
    for (int64_t n = 0; n < shape[0]; ++n) windows.start_frame.push_back(n * window);
    return windows;
  }
  if (shape.size() != 2 || shape[1] != channels) {
    return absl::InvalidArgumentError(absl::StrCat("shape: expected [N, ", window, ", ", channels,
                                                   "] or [T, ", channels, "], got ", shape.size(),
                                                   " dimensions of other sizes"));
  }
  if (shape[0] < window) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape: ", shape[0], " frames, a window has ", window));
  }
  for (int64_t begin = 0; begin <= shape[0] - window; begin += std::min(hop, shape[0])) {
    const auto first = array.values.begin() + begin * channels;
    const auto last = first + window * channels;
    if (std::any_of(first, last, [](float v) { return std::isnan(v); })) continue;
    windows.values.insert(windows.values.end(), first, last);
    windows.start_frame.push_back(begin);
    ++windows.count;
  }
  return windows;
}

std::string NpyHeader(NpyType type, const std::vector<int64_t>& shape) {
  const char* descr = type == NpyType::kUint8 ? "|u1" : type == NpyType::kInt16 ? "<i2" : "<f4";
  std::string text = absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (");
  for (int64_t size : shape) absl::StrAppend(&text, size, ", ");
  absl::StrAppend(&text, "), }");
  // Magic, version, length and text fill whole blocks of 64 bytes; the text ends with a newline.
  text.append(63 - (10 + text.size()) % 64, ' ');
  text += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(text.size() & 0xFF);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

}  // namespace bflow
