// Images in memory and the one entry point that reads them: MNIST's IDX, CIFAR-10's binary files,
// the .npz of downsampled ImageNet, .npy and PNG (docs/data.md).
#ifndef BFLOW_MODEL_DATA_IMAGES_H_
#define BFLOW_MODEL_DATA_IMAGES_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace bflow {

inline constexpr int64_t kMaxImageSide = 65535;
inline constexpr int64_t kMaxImageChannels = 4096;

struct ImageShape {
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;

  // Below 2^44 for a shape that a reader returned.
  int64_t size() const { return channels * height * width; }
  // "3x32x32"
  std::string Text() const;
  bool operator==(const ImageShape&) const = default;
};

// Images of one shape.
struct ImageSet {
  ImageShape shape;
  int64_t count = 0;
  std::vector<uint8_t> pixels;  // [count, channels, height, width]
  std::vector<int32_t> labels;  // [count], or empty: as the files have them

  // Pixels [channels, height, width] of one image.
  std::span<const uint8_t> Image(int64_t index) const {
    const auto size = static_cast<size_t>(shape.size());
    return std::span(pixels).subspan(static_cast<size_t>(index) * size, size);
  }
};

// Bytes of `count` images. Errors: InvalidArgument (nothing, or a dimension beyond the limits
// above), ResourceExhausted (more than `max_bytes`; no product overflows).
absl::StatusOr<int64_t> ImageBytes(const ImageShape& shape, int64_t count, int64_t max_bytes);

struct ImageReadOptions {
  // Most bytes of pixels in all. A file, as it lies and unpacked, may have twice as many and 1 MiB.
  // Reading takes up to three times as much memory.
  int64_t max_bytes = int64_t{8} << 30;
};

// Reads files and folders of PNG files one after the other; the format follows from the content,
// CIFAR-10, which has no magic number, from the name *.bin. A file of IDX labels belongs to the
// images just before it. `labels` are kept if every path has some. Errors name the file (not its
// folder), the byte offset, what came and what was expected: InvalidArgument (no image format that
// is read here, shapes that do not fit each other), DataLoss (truncated or damaged),
// ResourceExhausted (limits), those of ReadUserFile.
absl::StatusOr<ImageSet> ReadImages(const std::vector<std::string>& paths,
                                    const ImageReadOptions& options = {});

// The images of one file whose content is `bytes`; `name` is for the format and for errors.
absl::StatusOr<ImageSet> ParseImages(const std::string& name, std::string_view bytes,
                                     const ImageReadOptions& options = {});

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_IMAGES_H_
