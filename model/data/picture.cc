#include "model/data/picture.h"

#include <png.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace bflow {

absl::StatusOr<Picture> ImageGrid(const ImageShape& shape, std::span<const uint8_t> images,
                                  int64_t columns) {
  BFLOW_ASSIGN_OR_RETURN(const int64_t size, ImageBytes(shape, 1, kMaxPictureBytes));
  const auto given = static_cast<int64_t>(images.size());
  if (columns < 1 || given == 0 || given % size != 0) {
    return absl::InvalidArgumentError(absl::StrCat("grid: ", given, " bytes in ", columns,
                                                   " columns, expected whole images of ", size,
                                                   " bytes and at least one column"));
  }
  const int64_t channels = shape.channels == 3 ? 3 : 1;
  const int64_t tile = channels * shape.height * shape.width;
  const int64_t tiles = given / tile;
  const int64_t rows = (tiles - 1) / columns + 1;
  const int64_t step_y = shape.height + kGridBorder, step_x = shape.width + kGridBorder;
  if (rows > (kMaxImageSide - kGridBorder) / step_y ||
      columns > (kMaxImageSide - kGridBorder) / step_x) {
    return absl::ResourceExhaustedError(
        absl::StrCat("grid: ", rows, " rows and ", columns, " columns of ", shape.Text(),
                     " need more than ", kMaxImageSide, " pixels a side"));
  }
  Picture picture;
  picture.shape = {channels, rows * step_y + kGridBorder, columns * step_x + kGridBorder};
  BFLOW_ASSIGN_OR_RETURN(const int64_t bytes, ImageBytes(picture.shape, 1, kMaxPictureBytes));
  picture.pixels.assign(static_cast<size_t>(bytes), 255);
  const uint8_t* from = images.data();
  for (int64_t n = 0; n < tiles; ++n) {
    const int64_t top = n / columns * step_y + kGridBorder;
    const int64_t left = n % columns * step_x + kGridBorder;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < shape.height; ++y, from += shape.width) {
        const int64_t row = c * picture.shape.height + top + y;
        std::copy_n(from, shape.width, picture.pixels.begin() + row * picture.shape.width + left);
      }
    }
  }
  return picture;
}

absl::StatusOr<std::string> EncodePng(const Picture& picture) {
  const ImageShape& shape = picture.shape;
  BFLOW_ASSIGN_OR_RETURN(const int64_t size, ImageBytes(shape, 1, kMaxPictureBytes));
  if ((shape.channels != 1 && shape.channels != 3) ||
      size != static_cast<int64_t>(picture.pixels.size())) {
    return absl::InvalidArgumentError(absl::StrCat("png: ", picture.pixels.size(), " bytes of ",
                                                   shape.Text(), ", expected 1 or 3 channels"));
  }
  const auto channels = static_cast<size_t>(shape.channels);
  const size_t plane = picture.pixels.size() / channels;
  std::vector<uint8_t> interleaved(picture.pixels.size());
  for (size_t c = 0; c < channels; ++c) {
    for (size_t i = 0; i < plane; ++i) {
      interleaved[i * channels + c] = picture.pixels[c * plane + i];
    }
  }
  png_image image;
  std::memset(&image, 0, sizeof(image));
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(shape.width);
  image.height = static_cast<png_uint_32>(shape.height);
  image.format = shape.channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string content(bytes, '\0');
  if (png_image_write_to_memory(&image, content.data(), &bytes, /*convert_to_8bit=*/0,
                                interleaved.data(), /*row_stride=*/0, /*colormap=*/nullptr) == 0) {
    return absl::InternalError(absl::StrCat("png: ", image.message));
  }
  content.resize(bytes);
  return content;
}

absl::Status WritePng(const std::string& path, const Picture& picture) {
  BFLOW_ASSIGN_OR_RETURN(const std::string content, EncodePng(picture));
  return WriteUserFile(path, content);
}

}  // namespace bflow
