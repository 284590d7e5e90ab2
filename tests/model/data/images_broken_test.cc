// Truncated, damaged and hostile files of images: each ends with an error that names the place.
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/data/images.h"
#include "tests/model/data/image_test_util.h"

namespace bflow {
namespace {

constexpr auto kDamage = absl::StatusCode::kDataLoss;
constexpr auto kUnsupported = absl::StatusCode::kInvalidArgument;
constexpr auto kTooLarge = absl::StatusCode::kResourceExhausted;

struct Case {
  std::string bytes;
  absl::StatusCode code;
  std::vector<std::string> parts;
};

void ExpectRefused(const std::string& name, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    SCOPED_TRACE(absl::StrJoin(c.parts, " | "));
    const auto set = ParseImages("/somewhere/" + name, c.bytes);
    ASSERT_FALSE(set.ok());
    ExpectImageError(set.status(), c.code, c.parts);
    EXPECT_THAT(std::string(set.status().message()), ::testing::StartsWith(name + ": "));
  }
}

const std::vector<std::string> kSmallFiles = {
    "small-idx3-ubyte", "small-idx3-ubyte.gz", "nchw.npy",     "rows8.npz", "grey.png",
    "rgb_metadata.png", "interlaced.png",      "palette2.png", "grey1.png"};

TEST(BrokenImagesTest, EveryPrefixIsRefused) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const std::string& name : kSmallFiles) files.emplace_back(name, ImageFixture(name));
  files.emplace_back("one.bin", ImageFixture("cifar10_batch.bin").substr(0, 3073));
  for (const auto& [name, whole] : files) {
    ASSERT_TRUE(ParseImages(name, whole).ok()) << name;
    for (size_t size = 0; size < whole.size(); ++size) {
      const auto set = ParseImages(name, whole.substr(0, size));
      ASSERT_FALSE(set.ok()) << name << " cut at " << size;
      const auto code = set.status().code();
      ASSERT_TRUE(code == kDamage || code == kUnsupported) << set.status();
    }
    EXPECT_FALSE(ParseImages(name, whole + '\0').ok()) << name;
  }
}

// A changed byte is seen, or it stands where it means nothing, or the format has no checksum: then
// the images may be others, of as many bytes as the file has.
TEST(BrokenImagesTest, EveryChangedByte) {
  for (const std::string& name : kSmallFiles) {
    const std::string whole = ImageFixture(name);
    const ImageSet good = *ParseImages(name, whole);
    const bool checked = name.ends_with(".png") || name.ends_with(".gz") || name.ends_with(".npz");
    for (size_t at = 0; at < whole.size(); ++at) {
      for (int flip : {0x01, 0x80, 0xFF}) {
        std::string changed = whole;
        changed[at] = static_cast<char>(changed[at] ^ flip);
        const auto set = ParseImages(name, changed);
        if (!set.ok()) continue;
        EXPECT_LE(set->pixels.size(), whole.size() * 2) << name << " byte " << at;
        if (checked) {
          EXPECT_EQ(set->pixels, good.pixels) << name << " byte " << at;
        }
      }
    }
  }
}

TEST(BrokenImagesTest, Idx) {
  const std::string start("\0\0\x08\x03", 4);
  const std::string four = "abcd";
  ExpectRefused(
      "x",
      {{std::string("\0\0\x08\x04", 4) + Big32(1) + Big32(1) + Big32(2) + Big32(2) + four,
        kUnsupported,
        {"x: byte 0: IDX magic 0x00000804, expected 0x00000803"}},
       {std::string("\0\0\x0d\x03", 4) + Big32(1) + Big32(1) + Big32(1) + four,
        kUnsupported,
        {"IDX magic 0x00000d03"}},
       {start + Big32(1) + Big32(2), kDamage, {"byte 12: the file ends in its IDX header of 16"}},
       {start + Big32(1) + Big32(2) + Big32(3) + four,
        kDamage,
        {"x: byte 16: 4 bytes of data, the IDX header says 6"}},
       {start + Big32(1) + Big32(2) + Big32(1) + four, kDamage, {"the IDX header says 2"}},
       {start + Big32(~0u) + Big32(~0u) + Big32(~0u) + four, kDamage, {"says more than 2^63"}},
       {start + Big32(0) + Big32(28) + Big32(28), kUnsupported, {"byte 4: 0 images of 1x28x28"}},
       {start + Big32(4) + Big32(0) + Big32(0), kUnsupported, {"4 images of 1x0x0"}},
       {start + Big32(1) + Big32(65536) + Big32(1) + std::string(65536, 'x'),
        kUnsupported,
        {"1x65536x1", "at most"}}});
}

TEST(BrokenImagesTest, Cifar10) {
  std::string batch = ImageFixture("cifar10_batch.bin");
  ExpectRefused("c.bin", {{batch.substr(0, 3 * 3073 - 1),
                           kDamage,
                           {"c.bin: byte 6146: a CIFAR-10 record of 3072 bytes, expected 3073"}},
                          {"", kDamage, {"byte 0: the file is empty"}}});
  std::string black = batch.substr(0, 3072);
  black.replace(0, 2, std::string(2, '\0'));  // no IDX file yet
  ExpectRefused("c.bin", {{black, kDamage, {"byte 0: a CIFAR-10 record of 3072 bytes"}}});
  batch[2 * 3073] = 10;
  ExpectRefused("c.bin", {{batch, kDamage, {"byte 6146: a CIFAR-10 label 10, expected 0 to 9"}}});
}

TEST(BrokenImagesTest, Npy) {
  const std::string four = "abcd";
  ExpectRefused(
      "x.npy",
      {{ImageFixture("refused_nhwc.npy"),
        kUnsupported,
        {"shape [2, 5, 4, 3] has its channels last; expected [N, C, H, W]"}},
       {NpyFile("|u1", "(1, 28, 4, 1)", std::string(112, 'x')), kUnsupported, {"channels last"}},
       {ImageFixture("refused_float.npy"), kUnsupported, {"descr: f4, expected u1"}},
       {ImageFixture("refused_fortran.npy"), kUnsupported, {"fortran_order"}},
       {NpyFile("|u1", "(2, 2)", four), kUnsupported, {"shape [2, 2], expected [N, C, H, W]"}},
       {NpyFile("|u1", "(1, 1, 2, 3)", four), kDamage, {"4 bytes of data from byte", "say 6"}},
       {NpyFile("|u1", "(0, 1, 2, 2)", ""), kUnsupported, {"0 images of 1x2x2"}},
       {NpyFile("|u1", "(1, 1, 0, 2)", ""), kUnsupported, {"1 images of 1x0x2"}},
       {NpyFile("|u1", "(1, 5000, 1, 4)", std::string(20000, 'x')), kUnsupported, {"5000x1x4"}},
       {NpyFile("|u1", "(9000000000, 9000000000, 9, 9)", four), kTooLarge, {"npy header: shape"}},
       {NpyFile("|O", "(1, 1, 2, 2)", four), kUnsupported, {"npy header, byte 10: descr"}}});
}

TEST(BrokenImagesTest, GzipBombsStopAtTheLimit) {
  const std::string bomb = Gzip(std::string(64 << 20, '\0'));
  ASSERT_LT(bomb.size(), size_t{100'000});
  const int64_t limit = 1 << 20;
  ExpectImageError(ParseImages("b.gz", bomb, {.max_bytes = limit}).status(), kTooLarge,
                   {"b.gz: byte ", "gzip: unpacks to more than 3145728 bytes"});
  // An IDX file of zeros that fits is read whatever its ratio is.
  const std::string zeros = std::string("\0\0\x08\x03", 4) + Big32(16) + Big32(256) + Big32(256) +
                            std::string(limit, '\0');
  EXPECT_TRUE(ParseImages("z.gz", Gzip(zeros), {.max_bytes = limit}).ok());
  ExpectImageError(ParseImages("z.gz", Gzip(zeros), {.max_bytes = limit - 1}).status(), kTooLarge,
                   {"z.gz: byte 4: 16 images of 1x256x256"});
  const std::string whole = ImageFixture("small-idx3-ubyte.gz");
  ExpectRefused("g.gz", {{Gzip(whole), kUnsupported, {"byte 0: begins with 0x1f8b"}},
                         {Gzip(""), kDamage, {"byte 0: the file is empty"}},
                         {whole + "junk", kDamage, {"g.gz: byte ", "gzip: "}},
                         {whole.substr(0, whole.size() - 8) + std::string(8, '\0'),
                          kDamage,
                          {"gzip: incorrect data check"}}});
}

TEST(BrokenImagesTest, Npz) {
  const std::string data = NpyFile("|u1", "(2, 192)", std::string(384, 'x'));
  const std::string labels = NpyFile("<i8", "(2,)", std::string(16, '\0'));
  ASSERT_TRUE(ParseImages("x", Zip({{"data.npy", data}, {"labels.npy", labels}})).ok());
  ASSERT_TRUE(ParseImages("x", Zip({DeflatedMember("data.npy", data)})).ok());
  ZipMember encrypted("data.npy", data), method("data.npy", data),
      crc = DeflatedMember("data.npy", data), small = crc, large = crc, absurd = crc,
      not_deflate("data.npy", data);
  encrypted.flags = 1;
  method.method = 12;
  crc.crc ^= 1;
  small.size -= 1;
  large.size += 1;
  absurd.size = 0xFFFFFF00;
  not_deflate.method = 8;
  std::vector<ZipMember> many;
  for (int i = 0; i < 65; ++i) many.emplace_back(absl::StrCat("m", i, ".npy"), "");
  const std::string out_of_range = NpyFile("<i8", "(2,)", std::string(16, '\x7f'));
  ExpectRefused(
      "x.npz",
      {{Zip({{"labels.npy", labels}}), kUnsupported, {"no member data.npy"}},
       {Zip({{"../data.npy", data}}), kUnsupported, {"the name of member 1 of 1 is none of"}},
       {Zip({{"data.npy", data}, {"/etc/passwd", ""}}), kUnsupported, {"member 2 of 2"}},
       {Zip({{"a/data.npy", data}}), kUnsupported, {"member 1"}},
       {Zip({{".npy", data}}), kUnsupported, {"member 1"}},
       {Zip({{"data.npy", data}, {"data.npy", data}}),
        kDamage,
        {"x.npz: zip: a member is there twice"}},
       {Zip(many), kTooLarge, {"65 members, at most 64"}},
       {Zip({encrypted}), kUnsupported, {"data.npy: zip: encrypted"}},
       {Zip({method}), kUnsupported, {"data.npy: zip: compression method 12"}},
       {Zip({crc}), kDamage, {"data.npy: byte ", "CRC"}},
       {Zip({small}), kDamage, {"data.npy: byte "}},
       {Zip({large}), kDamage, {"data.npy: byte "}},
       {Zip({absurd}), kDamage, {"data.npy: zip: 4294967040 bytes cannot come from"}},
       {Zip({not_deflate}), kDamage, {"data.npy: byte ", "zip: "}},
       {Zip({{"data.npy", "abc"}}), kUnsupported, {"x.npz: data.npy: npy: "}},
       {Zip({{"data.npy", NpyFile("|u1", "(2, 191)", std::string(382, 'x'))}}),
        kUnsupported,
        {"shape [2, 191], expected [N, C, H, W] or [N, 3 S S]"}},
       {Zip({{"data.npy", data}, {"labels.npy", NpyFile("<i8", "(1,)", std::string(8, '\0'))}}),
        kUnsupported,
        {"x.npz: labels.npy: ", "shape [1], expected [2]"}},
       {Zip({{"data.npy", data}, {"labels.npy", NpyFile("<f4", "(2,)", std::string(8, '\0'))}}),
        kUnsupported,
        {"descr: f4, expected integers"}},
       {Zip({{"data.npy", data}, {"labels.npy", out_of_range}}), kUnsupported, {"fit 32 bits"}}});
}

TEST(BrokenImagesTest, NpzBombsStopAtTheLimit) {
  const std::string zeros = NpyFile("|u1", "(16384, 192)", std::string(3 << 20, '\0'));
  const ImageReadOptions limit = {.max_bytes = 3 << 20};
  EXPECT_TRUE(ParseImages("z.npz", Zip({DeflatedMember("data.npy", zeros)}), limit).ok());
  const std::string bomb = Zip({DeflatedMember("data.npy", std::string(64 << 20, '\0'))});
  ExpectImageError(ParseImages("b.npz", bomb, limit).status(), kTooLarge,
                   {"b.npz: data.npy: zip: 67108864 bytes, at most 7340032"});
  // A member that says less than it holds is read as far as it says.
  ZipMember lying = DeflatedMember("data.npy", std::string(64 << 20, '\0'));
  lying.size = 1000;
  ExpectImageError(ParseImages("b.npz", Zip({lying}), limit).status(), kDamage,
                   {"b.npz: data.npy: byte 1000: zip: ", "the directory says 1000"});
  // Members that nobody asked for are not unpacked.
  lying.name = "mean.npy";
  EXPECT_TRUE(ParseImages("b.npz", Zip({lying, DeflatedMember("data.npy", zeros)}), limit).ok());
}

TEST(BrokenImagesTest, Png) {
  const std::string end = PngChunk("IEND", "");
  const std::string two_rows = Zlib(std::string(4, '\0'));  // filter 0, grey 0, twice
  const std::string rgb = ImageFixture("rgb.png");
  const std::string start = PngStart(1, 2, 8, 0);
  ASSERT_TRUE(ParseImages("x", start + PngChunk("IDAT", two_rows) + end).ok());
  ExpectRefused(
      "x.png",
      {{ImageFixture("refused_16bit.png"), kUnsupported, {"byte 8: png: 16 bits per sample"}},
       {ImageFixture("refused_rgba.png"), kUnsupported, {"byte 8: png: transparency"}},
       {ImageFixture("refused_grey_alpha.png"), kUnsupported, {"transparency"}},
       {ImageFixture("refused_transparent.png"), kUnsupported, {"transparency"}},
       {PngStart(0, 2, 8, 0) + PngChunk("IDAT", two_rows) + end, kDamage, {"x.png: byte "}},
       {PngStart(~0u, ~0u, 8, 2) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},
       {PngStart(70000, 2, 8, 0) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: ", "width"}},
       {PngStart(65535, 65535, 8, 2) + PngChunk("IDAT", two_rows) + end,
        kTooLarge,
        {"byte 8: png: 1 images of 3x65535x65535"}},
       {PngStart(30000, 30000, 8, 2) + PngChunk("IDAT", two_rows) + end,
        kDamage,
        {"png: 2700000000 bytes of pixels cannot come from 69"}},
       {PngStart(1, 2, 3, 0) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},
       {PngStart(1, 2, 8, 5) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},
       {PngStart(1, 2, 8, 3) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},  // no PLTE
       {PngStart(1, 3, 8, 0) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},
       {PngStart(1, 1, 8, 0) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},
       {start + end, kDamage, {"png: "}},
       {start + PngChunk("IDAT", "junk") + end, kDamage, {"png: "}},
       {start + PngChunk("QUIT", "") + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},
       {start + start.substr(8) + PngChunk("IDAT", two_rows) + end, kDamage, {"png: "}},
       {rgb + "more", kDamage, {"png: data after its end"}},
       {"\x89PNG\r\r\x1a\n" + rgb.substr(8), kDamage, {"png: "}}});
  // A chunk of text that would unpack to 64 MiB is skipped.
  const std::string bomb = std::string("a\0\0", 3) + Zlib(std::string(64 << 20, '\0'));
  EXPECT_TRUE(
      ParseImages("x", start + PngChunk("zTXt", bomb) + PngChunk("IDAT", two_rows) + end).ok());
}

TEST(BrokenImagesTest, Others) {
  ExpectRefused("train_data_batch_1", {{"\x80\x03}q", kUnsupported, {"convert_imagenet_batch.py"}},
                                       {"abc", kUnsupported, {"begins with 0x616263, expected"}},
                                       {"", kDamage, {"the file is empty"}}});
}

}  // namespace
}  // namespace bflow
