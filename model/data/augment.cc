#include "model/data/augment.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace bflow {
namespace {

constexpr uint64_t kOffsets = 2 * kAugmentPadding + 1;

// Modulo is not quite uniform: by less than one part in 2^60. std::uniform_int_distribution would
// give other numbers with every standard library.
int64_t DrawOffset(std::mt19937_64& random) { return static_cast<int64_t>(random() % kOffsets); }

int64_t Reflect(int64_t index, int64_t size) {
  return size - 1 - std::abs(size - 1 - std::abs(index));
}

}  // namespace

Augmentation DrawAugmentation(bool flip, std::mt19937_64& random) {
  Augmentation augmentation;
  augmentation.top = DrawOffset(random);
  augmentation.left = DrawOffset(random);
  augmentation.flip = (random() >> 63) != 0 && flip;
  return augmentation;
}

absl::Status Augment(const ImageShape& shape, std::span<const uint8_t> image,
                     const Augmentation& augmentation, std::span<uint8_t> out) {
  const auto [top, left, flip] = augmentation;
  const auto size = static_cast<size_t>(shape.size());
  if (std::min(shape.height, shape.width) <= kAugmentPadding) {
    return absl::InvalidArgumentError(absl::StrCat("augmentation: images of ", shape.Text(),
                                                   ", expected sides of at least ",
                                                   kAugmentPadding + 1));
  }
  if (image.size() != size || out.size() != size || std::min(top, left) < 0 ||
      std::max(top, left) > 2 * kAugmentPadding) {
    return absl::InvalidArgumentError(
        absl::StrCat("augmentation: crop at ", top, ", ", left, " from ", image.size(), " to ",
                     out.size(), " bytes, expected 0 to ", 2 * kAugmentPadding, " and ", size));
  }
  auto to = out.begin();
  for (int64_t c = 0; c < shape.channels; ++c) {
    for (int64_t y = 0; y < shape.height; ++y) {
      const int64_t row = c * shape.height + Reflect(y + top - kAugmentPadding, shape.height);
      const uint8_t* from = image.data() + row * shape.width;
      for (int64_t x = 0; x < shape.width; ++x) {
        const int64_t column = flip ? shape.width - 1 - x : x;
        *to++ = from[Reflect(column + left - kAugmentPadding, shape.width)];
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace bflow
