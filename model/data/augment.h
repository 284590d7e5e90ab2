// Augmentation of training images as in the paper's program: reflect-pad by 4, a random crop back
// to the size of the image, a random horizontal flip.
#ifndef BFLOW_MODEL_DATA_AUGMENT_H_
#define BFLOW_MODEL_DATA_AUGMENT_H_

#include <cstdint>
#include <random>
#include <span>

#include "absl/status/status.h"
#include "model/data/images.h"

namespace bflow {

inline constexpr int64_t kAugmentPadding = 4;

// Where the crop lies in the padded image, 0 to 2 kAugmentPadding each; then, mirrored or not.
struct Augmentation {
  int64_t top = kAugmentPadding;
  int64_t left = kAugmentPadding;
  bool flip = false;
};

// Uniform over the offsets, `flip` with probability 1/2 if asked for. Always takes three numbers of
// `random`, and makes the same of them on every platform.
Augmentation DrawAugmentation(bool flip, std::mt19937_64& random);

// out[c, y, x] = image[c, r(y + top - 4), r(x' + left - 4)] with r the reflection at the first and
// at the last row or column, which is not repeated; x' = width - 1 - x if flipped, else x. `image`
// and `out` have shape.size() bytes and do not overlap. Error: InvalidArgument if a side of the
// image is below kAugmentPadding + 1, or sizes do not fit.
absl::Status Augment(const ImageShape& shape, std::span<const uint8_t> image,
                     const Augmentation& augmentation, std::span<uint8_t> out);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_AUGMENT_H_
