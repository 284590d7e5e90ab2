// The formats behind ReadImages, each from a file's bytes. Callers want images.h.
#ifndef BFLOW_MODEL_DATA_IMAGE_FORMATS_H_
#define BFLOW_MODEL_DATA_IMAGE_FORMATS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/data/images.h"

namespace bflow {

// The content of a file.
struct ImageFile {
  std::string name;        // last component of its path
  std::string_view bytes;  // outlives the call
  int64_t max_bytes = 0;   // most bytes of pixels

  // Most bytes of the file itself and of any part of it when unpacked.
  int64_t MaxFileBytes() const;
  absl::Status Error(absl::StatusCode code, absl::string_view what) const;  // "NAME: what"
  absl::Status ErrorAt(absl::StatusCode code, int64_t offset, absl::string_view what) const;
};

// IDX: 0x00, 0x00, 0x08 (bytes), number of dimensions, big-endian sizes, data. Three dimensions are
// images [N, H, W], one is labels [N].
bool IsIdx(std::string_view bytes);  // of any type and number of dimensions
bool IsIdxImages(std::string_view bytes);
bool IsIdxLabels(std::string_view bytes);
absl::StatusOr<ImageSet> ParseIdxImages(const ImageFile& file);
absl::StatusOr<std::vector<int32_t>> ParseIdxLabels(const ImageFile& file);

inline constexpr int64_t kCifarRecordBytes = 1 + 3 * 32 * 32;

// CIFAR-10, binary version: records of a label 0..9 and 3x32x32 pixels.
absl::StatusOr<ImageSet> ParseCifar10(const ImageFile& file);

// A uint8 array [N, C, H, W].
absl::StatusOr<ImageSet> ParseNpyImages(const ImageFile& file);

// An archive of numpy.savez: `data`, uint8 [N, 3 S S] of S in {8, 16, 32, 64} as downsampled
// ImageNet has it or [N, C, H, W], and, if it is there, `labels`, integers [N] or [N, 1]. Other
// members are not looked at.
absl::StatusOr<ImageSet> ParseNpzImages(const ImageFile& file);

// One image: grey (1, 2, 4, 8 bits), RGB (8 bits) or palette, the latter as RGB. Refused with
// InvalidArgument: 16 bits and transparency, which eight bits cannot hold.
absl::StatusOr<ImageSet> ParsePng(const ImageFile& file);

// The content of a gzip file, all its members, at most file.MaxFileBytes().
absl::StatusOr<std::string> Gunzip(const ImageFile& file);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_IMAGE_FORMATS_H_
