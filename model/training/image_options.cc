#include "model/training/image_options.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace bflow {
namespace {

// A value that is one of a few words.
template <typename Enum, typename Target>
FlagHandler Word(const std::string& flag, const std::map<std::string, Enum>& words, Target* out) {
  return [=](const std::string& value) {
    const auto found = words.find(value);
    if (found != words.end()) {
      *out = found->second;
      return absl::OkStatus();
    }
    std::string known;
    for (const auto& [word, meaning] : words)
      absl::StrAppend(&known, known.empty() ? "" : ", ", word);
    return Bad(flag, absl::StrCat("one of ", known));
  };
}

}  // namespace

std::map<std::string, FlagHandler> ImageFlagHandlers(ImageOptions* o) {
  const auto integer = [](const char* flag, std::optional<int64_t>* out) -> FlagHandler {
    return [=](const std::string& value) { return ParseInteger(flag, value, 1, out); };
  };
  std::map<std::string, FlagHandler> handlers;
  handlers["hidden"] = integer("hidden", &o->hidden);
  handlers["blocks"] = integer("blocks", &o->blocks);
  handlers["bits"] = integer("bits", &o->bits);
  handlers["sample_every"] = integer("sample_every", &o->sample_every);
  handlers["sample_dir"] = [o](const std::string& value) {
    o->sample_dir = value;
    return absl::OkStatus();
  };
  handlers["augmentation"] = Word<Augmentations>("augmentation",
                                                 {{"none", Augmentations::kNone},
                                                  {"crop", Augmentations::kCrop},
                                                  {"crop_flip", Augmentations::kCropFlip}},
                                                 &o->augmentations);
  handlers["convolution_precision"] =
      Word<ConvolutionPrecision>("convolution_precision",
                                 {{"float32", ConvolutionPrecision::kFloat32},
                                  {"tf32", ConvolutionPrecision::kTf32},
                                  {"bf16", ConvolutionPrecision::kBf16}},
                                 &o->precision);
  return handlers;
}

std::set<std::string> ImageFlags() {
  ImageOptions unused;
  std::set<std::string> names;
  for (const auto& [name, handler] : ImageFlagHandlers(&unused)) names.insert(name);
  return names;
}

absl::Status CheckImageOptions(const ImageOptions& o) {
  if (o.bits.value_or(8) > 8) return Bad("bits", "an integer from 1 to 8");
  if (o.sample_every.has_value() != !o.sample_dir.empty()) {
    return Bad(o.sample_every ? "sample_dir" : "sample_every",
               "--sample_every and --sample_dir, both or neither");
  }
  return absl::OkStatus();
}

std::string ImageFlagsHelp() {
  return "  Of images only:\n"
         "  --hidden=N --blocks=N    a smaller model than the preset's: width of the couplings' "
         "nets,\n"
         "                           blocks per level\n"
         "  --bits=8                 bits of a pixel that are kept\n"
         "  --augmentation=none|crop|crop_flip   of training images: reflect-pad by 4 and crop at "
         "random,\n"
         "                           mirror half of them\n"
         "  --sample_every=N --sample_dir=DIR   a picture of samples, DIR/step-STEP.png, every N "
         "steps\n"
         "  --convolution_precision=float32|tf32|bf16   of the couplings' convolutions in "
         "training; "
         "tf32\n"
         "                           needs a GPU\n";
}

}  // namespace bflow
