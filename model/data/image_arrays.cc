// Images in NumPy's files: .npy and .npz.
#include <zip.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "model/data/image_formats.h"
#include "model/data/npy.h"

namespace bflow {
namespace {

constexpr auto kDamage = absl::StatusCode::kDataLoss;
constexpr auto kUnsupported = absl::StatusCode::kInvalidArgument;
constexpr auto kTooLarge = absl::StatusCode::kResourceExhausted;
// Deflate makes at most 1032 bytes of one; a member that claims more is a lie.
constexpr uint64_t kMaxInflation = 1032;
constexpr uint64_t kDeflateSlack = 64;
constexpr zip_int64_t kMaxMembers = 64;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// The shape of the images in an array, what makes it none in `error`.
std::optional<ImageShape> ShapeOfArray(const std::vector<int64_t>& shape, bool rows,
                                       std::string* error) {
  if (rows && shape.size() == 2) {
    for (int64_t side : {8, 16, 32, 64}) {
      if (shape[1] == 3 * side * side) return ImageShape{3, side, side};
    }
  }
  // Nobody has images 3 pixels wide, or 1 pixel wide with more than 3 channels.
  if (shape.size() == 4 && ((shape[3] == 3 && shape[1] != 3) || (shape[3] == 1 && shape[1] > 3))) {
    *error = absl::StrCat("shape ", ShapeText(shape),
                          " has its channels last; expected [N, C, H, W]: save "
                          "np.ascontiguousarray(a.transpose(0, 3, 1, 2))");
    return std::nullopt;
  }
  if (shape.size() == 4) return ImageShape{shape[1], shape[2], shape[3]};
  *error = absl::StrCat("shape ", ShapeText(shape), ", expected [N, C, H, W]",
                        rows ? " or [N, 3 S S] with S 8, 16, 32 or 64" : "");
  return std::nullopt;
}

absl::StatusOr<ImageSet> ImagesOfArray(const ImageFile& file, bool rows) {
  const absl::StatusOr<NpyView> array = ParseNpyView(file.bytes, file.max_bytes);
  if (!array.ok()) return file.Error(array.status().code(), array.status().message());
  const auto header = static_cast<int64_t>(file.bytes.size() - array->data.size());
  if (array->dtype != "u1") {
    return file.ErrorAt(kUnsupported, 0,
                        absl::StrCat("npy header: descr: ", array->dtype,
                                     ", expected u1 (images are bytes 0 to 255)"));
  }
  std::string error;
  const std::optional<ImageShape> shape = ShapeOfArray(array->shape, rows, &error);
  if (!shape.has_value()) return file.ErrorAt(kUnsupported, 0, absl::StrCat("npy header: ", error));
  ImageSet set;
  set.shape = *shape;
  set.count = array->shape[0];
  const absl::StatusOr<int64_t> size = ImageBytes(set.shape, set.count, file.max_bytes);
  if (!size.ok()) return file.ErrorAt(size.status().code(), header, size.status().message());
  set.pixels.assign(array->data.begin(), array->data.end());
  return set;
}

template <typename T>
bool CopyLabels(std::string_view data, std::vector<int32_t>* labels) {
  for (size_t at = 0; at < data.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, data.data() + at, sizeof(T));
    if (!std::in_range<int32_t>(value)) return false;
    labels->push_back(static_cast<int32_t>(value));
  }
  return true;
}

absl::StatusOr<std::vector<int32_t>> LabelsOfArray(const ImageFile& file, int64_t count) {
  const absl::StatusOr<NpyView> array = ParseNpyView(file.bytes, file.MaxFileBytes());
  if (!array.ok()) return file.Error(array.status().code(), array.status().message());
  const std::vector<int64_t>& shape = array->shape;
  if (shape != std::vector<int64_t>{count} && shape != std::vector<int64_t>{count, 1}) {
    return file.ErrorAt(kUnsupported, 0,
                        absl::StrCat("npy header: shape ", ShapeText(shape), ", expected [", count,
                                     "], as many as images"));
  }
  std::vector<int32_t> labels;
  bool fit = false;
  if (array->dtype == "u1") fit = CopyLabels<uint8_t>(array->data, &labels);
  if (array->dtype == "i1") fit = CopyLabels<int8_t>(array->data, &labels);
  if (array->dtype == "u2") fit = CopyLabels<uint16_t>(array->data, &labels);
  if (array->dtype == "i2") fit = CopyLabels<int16_t>(array->data, &labels);
  if (array->dtype == "i4") fit = CopyLabels<int32_t>(array->data, &labels);
  if (array->dtype == "i8") fit = CopyLabels<int64_t>(array->data, &labels);
  if (!fit) {
    return file.ErrorAt(
        kUnsupported, 0,
        absl::StrCat("npy header: descr: ", array->dtype, ", expected integers that fit 32 bits"));
  }
  return labels;
}

struct CloseArchive {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct CloseMember {
  void operator()(zip_file_t* member) const { zip_fclose(member); }
};
using Archive = std::unique_ptr<zip_t, CloseArchive>;

std::string ErrorText(zip_error_t* error) {
  std::string text = zip_error_strerror(error);
  zip_error_fini(error);
  return text;
}

absl::StatusOr<Archive> OpenArchive(const ImageFile& file) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source =
      zip_source_buffer_create(file.bytes.data(), file.bytes.size(), /*freep=*/0, &error);
  if (source == nullptr) return file.Error(kTooLarge, "zip: " + ErrorText(&error));
  Archive archive(zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error));
  if (archive == nullptr) {
    zip_source_free(source);
    if (zip_error_code_zip(&error) == ZIP_ER_EXISTS) {
      zip_error_fini(&error);
      return file.Error(kDamage, "zip: a member is there twice");
    }
    return file.Error(kDamage, absl::StrCat("a damaged or truncated zip archive of ",
                                            file.bytes.size(), " bytes: ", ErrorText(&error)));
  }
  zip_error_fini(&error);
  return archive;
}

// The members that numpy.savez wrote: each a plain name and ".npy".
absl::Status CheckMembers(const ImageFile& file, zip_t* archive) {
  const zip_int64_t count = zip_get_num_entries(archive, 0);
  if (count < 0 || count > kMaxMembers) {
    return file.Error(kTooLarge,
                      absl::StrCat("zip: ", count, " members, at most ", kMaxMembers, " are read"));
  }
  for (zip_int64_t i = 0; i < count; ++i) {
    const char* raw = zip_get_name(archive, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
    const std::string name = raw == nullptr ? "" : raw;
    const bool plain = name.size() <= 64 && name.size() > 4 && name.ends_with(".npy") &&
                       std::all_of(name.begin(), name.end() - 4, [](unsigned char c) {
                         return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                (c >= '0' && c <= '9') || c == '_';
                       });
    if (!plain) {
      return file.Error(kUnsupported,
                        absl::StrCat("zip: the name of member ", i + 1, " of ", count,
                                     " is none of numpy.savez (letters, digits, _ and .npy)"));
    }
  }
  return absl::OkStatus();
}

// The member, unpacked and its checksum compared; nullopt if it is not there. `member` is for its
// errors.
absl::StatusOr<std::optional<std::string>> ReadMember(const ImageFile& file,
                                                      const ImageFile& member, zip_t* archive,
                                                      const char* name) {
  const zip_int64_t index = zip_name_locate(archive, name, ZIP_FL_ENC_RAW);
  if (index < 0) return std::nullopt;
  zip_stat_t stat;
  zip_stat_init(&stat);
  constexpr zip_uint64_t kNeeded =
      ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
  if (zip_stat_index(archive, static_cast<zip_uint64_t>(index), 0, &stat) != 0 ||
      (stat.valid & kNeeded) != kNeeded) {
    return member.Error(kDamage, "zip: its directory entry is damaged");
  }
  if (stat.encryption_method != ZIP_EM_NONE) return member.Error(kUnsupported, "zip: encrypted");
  if (stat.comp_method != ZIP_CM_STORE && stat.comp_method != ZIP_CM_DEFLATE) {
    return member.Error(kUnsupported, absl::StrCat("zip: compression method ", stat.comp_method,
                                                   ", expected 0 (stored) or 8 (deflated)"));
  }
  if (stat.size > static_cast<uint64_t>(file.MaxFileBytes())) {
    return member.Error(kTooLarge, absl::StrCat("zip: ", stat.size, " bytes, at most ",
                                                file.MaxFileBytes(), " are read"));
  }
  if (stat.comp_size > file.bytes.size() ||
      stat.size > stat.comp_size * kMaxInflation + kDeflateSlack) {
    return member.Error(
        kDamage, absl::StrCat("zip: ", stat.size, " bytes cannot come from ", stat.comp_size));
  }
  const std::unique_ptr<zip_file_t, CloseMember> open(
      zip_fopen_index(archive, static_cast<zip_uint64_t>(index), 0));
  if (open == nullptr) {
    return member.Error(kDamage, absl::StrCat("zip: ", zip_strerror(archive)));
  }
  std::string content(static_cast<size_t>(stat.size), '\0');
  size_t done = 0;
  char beyond = 0;  // the checksum is compared where the end is read
  for (;;) {
    const bool whole = done == content.size();
    const zip_int64_t got = zip_fread(open.get(), whole ? &beyond : content.data() + done,
                                      whole ? 1 : std::min(content.size() - done, size_t{1} << 30));
    if (got == 0 && whole) return content;
    if (got <= 0 || whole) {
      const char* what = got < 0 ? zip_file_strerror(open.get()) : "of another size";
      return member.ErrorAt(
          kDamage, static_cast<int64_t>(done),
          absl::StrCat("zip: ", what, ", the directory says ", stat.size, " bytes"));
    }
    done += static_cast<size_t>(got);
  }
}

}  // namespace

absl::StatusOr<ImageSet> ParseNpyImages(const ImageFile& file) {
  return ImagesOfArray(file, /*rows=*/false);
}

absl::StatusOr<ImageSet> ParseNpzImages(const ImageFile& file) {
  BFLOW_ASSIGN_OR_RETURN(const Archive archive, OpenArchive(file));
  BFLOW_RETURN_IF_ERROR(CheckMembers(file, archive.get()));
  ImageFile data{file.name + ": data.npy", {}, file.max_bytes};
  BFLOW_ASSIGN_OR_RETURN(std::optional<std::string> pixels,
                         ReadMember(file, data, archive.get(), "data.npy"));
  if (!pixels.has_value()) {
    return file.Error(kUnsupported, "zip: no member data.npy, expected the pixels there");
  }
  data.bytes = *pixels;
  BFLOW_ASSIGN_OR_RETURN(ImageSet set, ImagesOfArray(data, /*rows=*/true));
  pixels.reset();
  ImageFile labels{file.name + ": labels.npy", {}, file.max_bytes};
  BFLOW_ASSIGN_OR_RETURN(const std::optional<std::string> numbers,
                         ReadMember(file, labels, archive.get(), "labels.npy"));
  if (numbers.has_value()) {
    labels.bytes = *numbers;
    BFLOW_ASSIGN_OR_RETURN(set.labels, LabelsOfArray(labels, set.count));
  }
  return set;
}

}  // namespace bflow
