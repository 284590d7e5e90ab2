#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/data/image_formats.h"

namespace bflow {
namespace {

constexpr auto kDamage = absl::StatusCode::kDataLoss;
constexpr int64_t kSignatureBytes = 8;
constexpr int64_t kMaxInflation = 1032;  // deflate's
constexpr int64_t kDeflateSlack = 4096;

// Metadata, which would only be a way to be attacked: checked for damage and left out.
constexpr png_byte kIgnoredChunks[] =
    "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0sTER\0tEXt"
    "\0"
    "tIME\0zTXt";
constexpr int kIgnoredCount = 18;

// libpng leaves its functions by longjmp, over which no destructor runs: whatever needs one lives
// here, outside the frames that are left.
struct Decoder {
  explicit Decoder(const ImageFile& from) : file(from) {}
  ~Decoder() { png_destroy_read_struct(&png, &info, nullptr); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const ImageFile& file;
  png_structp png = nullptr;
  png_infop info = nullptr;
  size_t position = 0;
  absl::Status status;               // why the decoding ended
  std::vector<uint8_t> interleaved;  // [height, width, channels]
  std::vector<png_bytep> rows;
  ImageShape shape;
};

Decoder& Of(png_structp png) { return *static_cast<Decoder*>(png_get_io_ptr(png)); }

[[noreturn]] void Fail(png_structp png, png_const_charp what) {
  Decoder& decoder = *static_cast<Decoder*>(png_get_error_ptr(png));
  if (decoder.status.ok()) {
    decoder.status = decoder.file.ErrorAt(kDamage, static_cast<int64_t>(decoder.position),
                                          absl::StrCat("png: ", what));
  }
  png_longjmp(png, 1);
}

// What libpng lets pass with a word is damage here.
void Warn(png_structp png, png_const_charp what) { Fail(png, what); }

void Read(png_structp png, png_bytep out, size_t size) {
  Decoder& decoder = Of(png);
  const std::string_view bytes = decoder.file.bytes;
  if (size > bytes.size() - decoder.position) {
    decoder.position = bytes.size();
    png_error(png, "the file ends too early");
  }
  std::memcpy(out, bytes.data() + decoder.position, size);
  decoder.position += size;
}

// The status that IHDR, PLTE and tRNS deserve; sets the shape.
absl::Status CheckHeader(Decoder& decoder) {
  const ImageFile& file = decoder.file;
  constexpr auto kUnsupported = absl::StatusCode::kInvalidArgument;
  const int type = png_get_color_type(decoder.png, decoder.info);
  if (png_get_bit_depth(decoder.png, decoder.info) == 16) {
    return file.ErrorAt(kUnsupported, kSignatureBytes,
                        "png: 16 bits per sample, expected 8 (convert it first)");
  }
  if ((type & PNG_COLOR_MASK_ALPHA) != 0 ||
      png_get_valid(decoder.png, decoder.info, PNG_INFO_tRNS) != 0) {
    return file.ErrorAt(kUnsupported, kSignatureBytes,
                        "png: transparency, expected grey or RGB without (flatten it first)");
  }
  decoder.shape = {(type & PNG_COLOR_MASK_COLOR) != 0 ? 3 : 1,
                   png_get_image_height(decoder.png, decoder.info),
                   png_get_image_width(decoder.png, decoder.info)};
  const absl::StatusOr<int64_t> size = ImageBytes(decoder.shape, 1, file.max_bytes);
  if (!size.ok()) {
    return file.ErrorAt(size.status().code(), kSignatureBytes,
                        absl::StrCat("png: ", size.status().message()));
  }
  const auto packed =
      static_cast<int64_t>(png_get_rowbytes(decoder.png, decoder.info)) * decoder.shape.height;
  const auto given = static_cast<int64_t>(file.bytes.size());
  if (packed / kMaxInflation > given + kDeflateSlack) {
    return file.ErrorAt(kDamage, kSignatureBytes,
                        absl::StrCat("png: ", packed, " bytes of pixels cannot come from ", given));
  }
  return absl::OkStatus();
}

// True if the image was decoded. Only trivial objects may live in this frame.
bool Decode(Decoder& decoder) {
  if (setjmp(png_jmpbuf(decoder.png)) != 0) return false;
  png_set_read_fn(decoder.png, &decoder, Read);
  png_set_user_limits(decoder.png, kMaxImageSide, kMaxImageSide);
  png_set_crc_action(decoder.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_set_benign_errors(decoder.png, 0);
  png_set_keep_unknown_chunks(decoder.png, PNG_HANDLE_CHUNK_NEVER, kIgnoredChunks, kIgnoredCount);
  png_set_keep_unknown_chunks(decoder.png, PNG_HANDLE_CHUNK_NEVER, nullptr, 0);
  png_read_info(decoder.png, decoder.info);
  decoder.status = CheckHeader(decoder);
  if (!decoder.status.ok()) return false;
  png_set_expand(decoder.png);  // palettes become RGB, 1, 2 and 4 bits become 8
  png_set_interlace_handling(decoder.png);
  png_read_update_info(decoder.png, decoder.info);
  const size_t row_bytes = png_get_rowbytes(decoder.png, decoder.info);
  if (row_bytes != static_cast<size_t>(decoder.shape.width * decoder.shape.channels)) {
    png_error(decoder.png, "rows of another size than the header says");
  }
  decoder.interleaved.resize(row_bytes * static_cast<size_t>(decoder.shape.height));
  decoder.rows.resize(static_cast<size_t>(decoder.shape.height));
  for (size_t y = 0; y < decoder.rows.size(); ++y) {
    decoder.rows[y] = decoder.interleaved.data() + y * row_bytes;
  }
  png_read_image(decoder.png, decoder.rows.data());
  png_read_end(decoder.png, nullptr);
  if (decoder.position != decoder.file.bytes.size()) png_error(decoder.png, "data after its end");
  return true;
}

}  // namespace

absl::StatusOr<ImageSet> ParsePng(const ImageFile& file) {
  Decoder decoder(file);
  decoder.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &decoder, Fail, Warn);
  if (decoder.png != nullptr) decoder.info = png_create_info_struct(decoder.png);
  if (decoder.info == nullptr) {
    return file.Error(absl::StatusCode::kResourceExhausted, "png: not enough memory");
  }
  if (!Decode(decoder)) return std::move(decoder.status);
  ImageSet set;
  set.shape = decoder.shape;
  set.count = 1;
  set.pixels.resize(decoder.interleaved.size());
  const auto channels = static_cast<size_t>(set.shape.channels);
  const size_t plane = set.pixels.size() / channels;
  for (size_t c = 0; c < channels; ++c) {
    for (size_t i = 0; i < plane; ++i) {
      set.pixels[c * plane + i] = decoder.interleaved[i * channels + c];
    }
  }
  return set;
}

}  // namespace bflow
