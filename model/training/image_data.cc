#include "model/training/image_data.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "model/data/augment.h"

namespace bflow {
namespace {

// As the authors' program has it.
constexpr int64_t kInitialisationImages = 2048;

std::string ChannelName(int64_t channel, int64_t count) {
  if (count == 1) return "grey";
  if (count == 3) return std::array{"red", "green", "blue"}[static_cast<size_t>(channel)];
  return absl::StrCat("channel", channel);
}

}  // namespace

class ImageData::EpochDraws : public TrainingDraws {
 public:
  EpochDraws(const ImageData& data, uint64_t seed, int64_t batch)
      : data_(data),
        seed_(seed),
        batch_(static_cast<uint64_t>(batch)),
        batches_(static_cast<uint64_t>(data.Count(DataPart::kTrain)) / batch_) {}

  absl::Status Draw(uint64_t row, std::mt19937_64& generator, float* codes) override {
    const uint64_t per_epoch = batches_ * batch_;
    if (epoch_ != row / per_epoch) Shuffle(row / per_epoch);
    const std::span<const uint8_t> image = data_.images_.Image(order_[row % per_epoch]);
    const Augmentations kind = data_.request_.augmentations;
    if (kind == Augmentations::kNone) {
      data_.ToCodes(image, codes);
      return absl::OkStatus();
    }
    const Augmentation augmentation = DrawAugmentation(kind == Augmentations::kCropFlip, generator);
    pixels_.resize(image.size());
    BFLOW_RETURN_IF_ERROR(Augment(data_.images_.shape, image, augmentation, pixels_));
    data_.ToCodes(pixels_, codes);
    return absl::OkStatus();
  }

 private:
  // Fisher and Yates, the same on every platform. The bias of the remainder is below n / 2^64.
  void Shuffle(uint64_t epoch) {
    epoch_ = epoch;
    order_.resize(static_cast<size_t>(data_.Count(DataPart::kTrain)));
    std::iota(order_.begin(), order_.end(), int64_t{0});
    // Streams of neighbouring seeds and epochs must not be alike: the odd constant spreads them.
    std::mt19937_64 random(seed_ + (epoch + 1) * 0x9E3779B97F4A7C15u);
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random() % i]);
  }

  const ImageData& data_;
  uint64_t seed_, batch_, batches_;
  std::optional<uint64_t> epoch_;  // whose order this is
  std::vector<int64_t> order_;
  std::vector<uint8_t> pixels_;
};

absl::StatusOr<ImageData> ImageData::Create(ImageSet images, const Request& request) {
  ImageData data;
  data.request_ = request;
  const SplitFractions& f = request.fractions;
  const double ends[] = {f.train, f.train + f.validation, f.train + f.validation + f.calibration};
  for (size_t k = 0; k < 3; ++k) {
    // 1e-9: 0.64 + 0.08 + 0.08 must count as 0.8 whatever its last bit.
    const auto end = static_cast<int64_t>(ends[k] * static_cast<double>(images.count) + 1e-9);
    data.bounds_[k + 1] = std::min(end, images.count);
  }
  data.bounds_[4] = images.count;
  if (data.bounds_[1] == 0) {
    return absl::InvalidArgumentError(absl::StrCat("data: no training image among ", images.count));
  }
  const int64_t least = kAugmentPadding + 1;
  if (request.augmentations != Augmentations::kNone &&
      std::min(images.shape.height, images.shape.width) < least) {
    return absl::InvalidArgumentError(absl::StrCat("data: images of ", images.shape.Text(),
                                                   "; to be augmented they need sides of at least ",
                                                   least));
  }
  for (int64_t c = 0; c < images.shape.channels; ++c) {
    ChannelSpec channel;
    channel.name = ChannelName(c, images.shape.channels);
    channel.step = 1 << (8 - request.bits);
    channel.input_max = 255;
    channel.lo = 0;
    channel.hi = 256;
    data.channels_.push_back(channel);
  }
  data.images_ = std::move(images);
  return data;
}

std::vector<int64_t> ImageData::event_shape() const {
  return {images_.shape.channels, images_.shape.height, images_.shape.width};
}

int64_t ImageData::Count(DataPart part) const {
  const auto k = static_cast<size_t>(part);
  return bounds_[k + 1] - bounds_[k];
}

void ImageData::ToCodes(std::span<const uint8_t> pixels, float* codes) const {
  const int mask = 0xFF << (8 - request_.bits);
  std::transform(pixels.begin(), pixels.end(), codes,
                 [mask](uint8_t pixel) { return static_cast<float>(pixel & mask); });
}

std::vector<float> ImageData::Gather(DataPart part, bool /*skip_constant*/, int64_t most,
                                     int64_t* rows) const {
  const int64_t available = Count(part), size = images_.shape.size();
  *rows = std::min(available, most);
  std::vector<float> codes(static_cast<size_t>(*rows * size));
  for (int64_t i = 0; i < *rows; ++i) {
    const int64_t index = bounds_[static_cast<size_t>(part)] + i * available / *rows;
    ToCodes(images_.Image(index), codes.data() + i * size);
  }
  return codes;
}

absl::StatusOr<std::unique_ptr<TrainingDraws>> ImageData::Draws(uint64_t seed,
                                                                int64_t batch) const {
  if (batch > Count(DataPart::kTrain)) {
    return absl::InvalidArgumentError(absl::StrCat("--batch: ", batch, ", the training part has ",
                                                   Count(DataPart::kTrain), " images"));
  }
  return std::make_unique<EpochDraws>(*this, seed, batch);
}

int64_t ImageData::InitialisationRows() const {
  return std::min(Count(DataPart::kTrain), kInitialisationImages);
}

std::string ImageData::Description() const {
  return absl::StrCat("augmentations ", static_cast<int>(request_.augmentations));
}

std::map<std::string, std::string> ImageData::CardFields() const {
  return {{"trained_on", absl::StrJoin(request_.names, ", ")},
          {"images", absl::StrCat(Count(DataPart::kTrain))},
          {"image_shape", images_.shape.Text()},
          {"bits", absl::StrCat(request_.bits)}};
}

}  // namespace bflow
