// Pictures for people: grids of images, written as PNG.
#ifndef BFLOW_MODEL_DATA_PICTURE_H_
#define BFLOW_MODEL_DATA_PICTURE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/data/images.h"

namespace bflow {

struct Picture {
  ImageShape shape;             // 1 channel is grey, 3 are RGB
  std::vector<uint8_t> pixels;  // [channels, height, width]
};

inline constexpr int64_t kGridBorder = 2;  // pixels, white
inline constexpr int64_t kMaxPictureBytes = int64_t{1} << 30;

// `images` (whole images of `shape`, one after the other) as tiles, row by row, `columns` in a row,
// each with a border on all sides; places that are left over are white. Images of other than 1 or
// 3 channels become one grey tile per channel. Errors: InvalidArgument (no image, no column, not
// whole images), ResourceExhausted (a side above kMaxImageSide, more than
// kMaxPictureBytes).
absl::StatusOr<Picture> ImageGrid(const ImageShape& shape, std::span<const uint8_t> images,
                                  int64_t columns);

// A PNG file of 8 bits per sample. The samples come back as they were; the file says sRGB. Errors:
// InvalidArgument (channels other than 1 and 3, sizes that do not fit each other),
// ResourceExhausted (more than kMaxPictureBytes), Internal.
absl::StatusOr<std::string> EncodePng(const Picture& picture);

// Errors also those of WriteUserFile.
absl::Status WritePng(const std::string& path, const Picture& picture);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_PICTURE_H_
