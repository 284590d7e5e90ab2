#include "model/data/images.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/checked_math.h"
#include "base/file.h"
#include "base/status.h"
#include "model/data/image_formats.h"

namespace bflow {
namespace {

constexpr auto kUnsupported = absl::StatusCode::kInvalidArgument;
constexpr size_t kShownBytes = 4;

bool HasSuffix(std::string_view name, std::string_view suffix) {
  return name.size() >= suffix.size() &&
         std::equal(suffix.begin(), suffix.end(), name.end() - static_cast<int64_t>(suffix.size()),
                    [](char want, char got) {
                      return want == std::tolower(static_cast<unsigned char>(got));
                    });
}

bool IsGzip(std::string_view bytes) { return bytes.starts_with("\x1f\x8b"); }
bool IsNpy(std::string_view bytes) { return bytes.starts_with("\x93NUMPY"); }
bool IsZip(std::string_view bytes) { return bytes.starts_with("PK\x03\x04"); }
bool IsPng(std::string_view bytes) { return bytes.starts_with("\x89PNG"); }

// PROTO with the protocols that numpy's arrays have been pickled with.
bool IsPickle(std::string_view bytes) {
  return bytes.size() >= 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5;
}

bool IsCifar10(const ImageFile& file, std::string_view name) {
  const bool whole = file.bytes.size() % static_cast<size_t>(kCifarRecordBytes) == 0;
  return HasSuffix(name, ".bin") &&
         (whole || !(IsIdxImages(file.bytes) || IsIdxLabels(file.bytes)));
}

absl::Status UnknownFormat(const ImageFile& file) {
  if (file.bytes.empty()) return file.ErrorAt(absl::StatusCode::kDataLoss, 0, "the file is empty");
  if (IsPickle(file.bytes)) {
    return file.ErrorAt(kUnsupported, 0,
                        "a pickle, which is never run here: model/data/convert_imagenet_batch.py "
                        "makes an .npz of it");
  }
  std::string shown;
  for (char c : file.bytes.substr(0, kShownBytes)) {
    absl::StrAppendFormat(&shown, "%02x", static_cast<uint8_t>(c));
  }
  return file.ErrorAt(kUnsupported, 0,
                      absl::StrCat("begins with 0x", shown,
                                   ", expected IDX, .npy, .npz, PNG, gzip, or CIFAR-10 records in "
                                   "a file named *.bin"));
}

// Images of what is no gzip file; `name` decides about CIFAR-10.
absl::StatusOr<ImageSet> ParsePlain(const ImageFile& file, std::string_view name) {
  if (IsCifar10(file, name) && !file.bytes.empty()) return ParseCifar10(file);
  if (IsIdx(file.bytes)) return ParseIdxImages(file);
  if (IsNpy(file.bytes)) return ParseNpyImages(file);
  if (IsZip(file.bytes)) return ParseNpzImages(file);
  if (IsPng(file.bytes)) return ParsePng(file);
  return UnknownFormat(file);
}

// Collects what the paths hold.
class Collector {
 public:
  explicit Collector(const ImageReadOptions& options) : options_(options) {}

  absl::Status AddPath(const std::string& path) {
    // A folder may be named by a symbolic link.
    if (IsDirectory(JoinPath(path, "."))) return AddFolder(path);
    BFLOW_ASSIGN_OR_RETURN(const std::string bytes, ReadUserFile(path, FileAt("").MaxFileBytes()));
    return AddFile(FileAt(BaseName(path)), bytes);
  }

  absl::Status AddFile(ImageFile file, std::string_view bytes) {
    file.bytes = bytes;
    std::string_view name = file.name;
    std::string unpacked;
    if (IsGzip(bytes)) {
      BFLOW_ASSIGN_OR_RETURN(unpacked, Gunzip(file));
      file.bytes = unpacked;
      if (HasSuffix(name, ".gz")) name.remove_suffix(3);
    }
    if (IsIdxLabels(file.bytes) && !IsCifar10(file, name)) return AddLabels(file);
    BFLOW_ASSIGN_OR_RETURN(ImageSet images, ParsePlain(file, name));
    return AddImages(file, std::move(images));
  }

  absl::StatusOr<ImageSet> Finish() {
    if (set_.count == 0)
      return absl::InvalidArgumentError("images: no file, expected at least one");
    if (!labels_complete_ || labels_wanted_ != 0) set_.labels.clear();
    return std::move(set_);
  }

 private:
  ImageFile FileAt(std::string_view name) const {
    return {std::string(name), {}, options_.max_bytes - static_cast<int64_t>(set_.pixels.size())};
  }

  absl::Status AddFolder(const std::string& path) {
    BFLOW_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(path));
    bool any = false;
    for (const std::string& name : names) {
      if (!HasSuffix(name, ".png")) continue;
      any = true;
      ImageFile file = FileAt(name);
      BFLOW_ASSIGN_OR_RETURN(const std::string bytes,
                             ReadUserFile(JoinPath(path, name), file.MaxFileBytes()));
      file.bytes = bytes;
      if (!IsPng(bytes)) {
        return file.ErrorAt(absl::StatusCode::kDataLoss, 0, "not a PNG file, as its name says");
      }
      BFLOW_ASSIGN_OR_RETURN(ImageSet image, ParsePng(file));
      BFLOW_RETURN_IF_ERROR(AddImages(file, std::move(image)));
    }
    if (any) return absl::OkStatus();
    const size_t end = path.find_last_not_of('/');
    return FileAt(BaseName(path.substr(0, end + 1)))
        .Error(kUnsupported, "a folder without files named *.png");
  }

  absl::Status AddImages(const ImageFile& file, ImageSet images) {
    labels_complete_ = labels_complete_ && labels_wanted_ == 0;
    labels_wanted_ = images.labels.empty() ? images.count : 0;
    if (set_.count == 0) {
      set_ = std::move(images);
      first_ = file.name;
      return absl::OkStatus();
    }
    if (images.shape != set_.shape) {
      return file.Error(kUnsupported, absl::StrCat("images of ", images.shape.Text(), ", ", first_,
                                                   " has ", set_.shape.Text()));
    }
    set_.count += images.count;
    set_.pixels.insert(set_.pixels.end(), images.pixels.begin(), images.pixels.end());
    set_.labels.insert(set_.labels.end(), images.labels.begin(), images.labels.end());
    return absl::OkStatus();
  }

  absl::Status AddLabels(const ImageFile& file) {
    BFLOW_ASSIGN_OR_RETURN(const std::vector<int32_t> labels, ParseIdxLabels(file));
    const auto count = static_cast<int64_t>(labels.size());
    if (count == 0 || count != labels_wanted_) {
      return file.ErrorAt(
          kUnsupported, 4,
          absl::StrCat(count, " IDX labels, the images before them need ", labels_wanted_));
    }
    labels_wanted_ = 0;
    set_.labels.insert(set_.labels.end(), labels.begin(), labels.end());
    return absl::OkStatus();
  }

  ImageReadOptions options_;
  ImageSet set_;
  std::string first_;            // the file that decided about the shape
  int64_t labels_wanted_ = 0;    // by the images that came last
  bool labels_complete_ = true;  // of all images before those
};

}  // namespace

std::string ImageShape::Text() const { return absl::StrCat(channels, "x", height, "x", width); }

absl::StatusOr<int64_t> ImageBytes(const ImageShape& shape, int64_t count, int64_t max_bytes) {
  if (count < 1 || shape.channels < 1 || shape.height < 1 || shape.width < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(count, " images of ", shape.Text(), ", expected sizes from 1"));
  }
  if (shape.channels > kMaxImageChannels || std::max(shape.height, shape.width) > kMaxImageSide) {
    return absl::InvalidArgumentError(absl::StrCat("images of ", shape.Text(), ", at most ",
                                                   kMaxImageChannels, " channels and ",
                                                   kMaxImageSide, " pixels a side are supported"));
  }
  const std::optional<int64_t> bytes = CheckedMultiply(count, shape.size());
  if (!bytes.has_value() || *bytes > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(count, " images of ", shape.Text(),
                                                     " take more than the ", max_bytes,
                                                     " bytes that are left of the limit"));
  }
  return *bytes;
}

absl::StatusOr<ImageSet> ReadImages(const std::vector<std::string>& paths,
                                    const ImageReadOptions& options) {
  Collector collector(options);
  for (const std::string& path : paths) BFLOW_RETURN_IF_ERROR(collector.AddPath(path));
  return collector.Finish();
}

absl::StatusOr<ImageSet> ParseImages(const std::string& name, std::string_view bytes,
                                     const ImageReadOptions& options) {
  Collector collector(options);
  BFLOW_RETURN_IF_ERROR(
      collector.AddFile({std::string(BaseName(name)), {}, options.max_bytes}, bytes));
  return collector.Finish();
}

}  // namespace bflow
