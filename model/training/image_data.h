// The images of a run in memory: the four parts by index, random order and augmentation of the
// training part. Torch-free.
#ifndef BFLOW_MODEL_TRAINING_IMAGE_DATA_H_
#define BFLOW_MODEL_TRAINING_IMAGE_DATA_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/data/images.h"
#include "model/training/training_events.h"

namespace bflow {

// What is done to a training image before its noise (model/data/augment.h).
enum class Augmentations {
  kNone,
  kCrop,      // reflect-pad by 4, a random crop
  kCropFlip,  // and a mirror image half of the time: the paper's
};

// Of n images the first floor(f n) lie before the boundary of cumulated fraction f. An epoch is the
// training part in a random order, cut into batches; the incomplete last one is left out. The order
// follows from the seed and the number of the epoch, augmentation from the run's generator.
class ImageData : public TrainingEvents {
 public:
  struct Request {
    std::vector<std::string> names;  // of the files, for the model card
    // Of a pixel that are kept, 1 to 8: codes are rounded down to multiples of 2^(8 - bits).
    int bits = 8;
    SplitFractions fractions;
    Augmentations augmentations = Augmentations::kNone;
  };

  // Errors: InvalidArgument (a training part without images, images too small to be augmented, more
  // channels than a model has names for).
  static absl::StatusOr<ImageData> Create(ImageSet images, const Request& request);

  const std::vector<ChannelSpec>& channels() const override { return channels_; }
  std::vector<int64_t> event_shape() const override;
  double frames_per_second() const override { return 0; }
  std::string noun() const override { return "images"; }
  int64_t Count(DataPart part) const override;
  // No image is left out.
  std::vector<float> Gather(DataPart part, bool skip_constant, int64_t most,
                            int64_t* rows) const override;
  absl::StatusOr<std::unique_ptr<TrainingDraws>> Draws(uint64_t seed, int64_t batch) const override;
  int64_t InitialisationRows() const override;
  std::string Description() const override;
  std::map<std::string, std::string> CardFields() const override;

 private:
  class EpochDraws;

  ImageData() = default;
  // The pixels as codes.
  void ToCodes(std::span<const uint8_t> pixels, float* codes) const;

  Request request_;
  ImageSet images_;
  std::vector<ChannelSpec> channels_;
  std::array<int64_t, 5> bounds_{};  // part k is the images bounds_[k] .. bounds_[k + 1] - 1
};

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_IMAGE_DATA_H_
