// What is read from tests/model/data/images equals what numpy reads (make_images.py).
#include "model/data/images.h"

#include <unistd.h>

#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/data/image_test_util.h"

namespace bflow {
namespace {

constexpr auto kUnsupported = absl::StatusCode::kInvalidArgument;
constexpr auto kTooLarge = absl::StatusCode::kResourceExhausted;

std::vector<std::string> PathsOf(const std::string& joined) {
  std::vector<std::string> paths;
  std::istringstream names(joined);
  for (std::string name; std::getline(names, name, '+');) paths.push_back(kImageFolder + name);
  return paths;
}

TEST(ImagesTest, EveryFileIsAsNumpySays) {
  std::ifstream expected(kImageFolder + "expected.txt");
  int lines = 0;
  std::string names, digest, labels;
  for (ImageSet want; expected >> names >> want.count >> want.shape.channels >> want.shape.height >>
                      want.shape.width >> digest >> labels;
       ++lines) {
    SCOPED_TRACE(names);
    const auto got = ReadImages(PathsOf(names));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->count, want.count);
    EXPECT_EQ(got->shape, want.shape) << got->shape.Text();
    ASSERT_EQ(static_cast<int64_t>(got->pixels.size()), want.count * want.shape.size());
    EXPECT_EQ(Sha256Hex({reinterpret_cast<const char*>(got->pixels.data()), got->pixels.size()}),
              digest);
    EXPECT_EQ(got->labels.empty() ? "-" : absl::StrJoin(got->labels, ","), labels);
  }
  EXPECT_EQ(lines, 25);
}

TEST(ImagesTest, AnImageIsAPartOfAll) {
  const ImageSet set = *ReadImages({kImageFolder + "cifar10_batch.bin"});
  const std::string file = ImageFixture("cifar10_batch.bin");
  for (int64_t n : {int64_t{0}, int64_t{7}, set.count - 1}) {
    const auto image = set.Image(n);
    ASSERT_EQ(image.size(), 3072u);
    for (size_t i : {size_t{0}, size_t{1024}, size_t{3071}}) {
      EXPECT_EQ(image[i], static_cast<uint8_t>(file[static_cast<size_t>(n) * 3073 + 1 + i]));
    }
  }
}

TEST(ImagesTest, TheNameDecidesAboutCifarOnly) {
  const std::string cifar = ImageFixture("cifar10_batch.bin");
  const std::string idx = ImageFixture("small-idx3-ubyte");
  EXPECT_TRUE(ParseImages("a.BIN", cifar).ok());
  EXPECT_TRUE(ParseImages("a.bin.gz", Gzip(cifar)).ok());
  ExpectImageError(ParseImages("a.dat", cifar).status(), kUnsupported,
                   {"a.dat: byte 0: begins with 0x06", "expected IDX, .npy", "*.bin"});
  EXPECT_TRUE(ParseImages("idx.bin", idx).ok());
  // Label 0 and three first pixels look like the magic number of IDX.
  std::string unlucky = cifar;
  unlucky.replace(0, 4, std::string("\0\0\x08\x03", 4));
  const auto set = ParseImages("a.bin", unlucky);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->labels[0], 0);
}

TEST(ImagesTest, LabelsBelongToTheImagesBeforeThem) {
  const std::string images = kImageFolder + "small-idx3-ubyte";
  const std::string labels = kImageFolder + "small-idx1-ubyte";
  const std::string others = kImageFolder + "mnist-labels-idx1-ubyte.gz";
  EXPECT_EQ(ReadImages({images, labels, images, labels})->labels,
            (std::vector<int32_t>{7, 0, 255, 7, 0, 255}));
  EXPECT_TRUE(ReadImages({images, images, labels})->labels.empty());
  ExpectImageError(ReadImages({labels, images}).status(), kUnsupported,
                   {"small-idx1-ubyte: byte 4: 3 IDX labels", "need 0"});
  ExpectImageError(ReadImages({images, labels, labels}).status(), kUnsupported, {"need 0"});
  ExpectImageError(ReadImages({images, others}).status(), kUnsupported,
                   {"mnist-labels-idx1-ubyte.gz: byte 4: 50 IDX labels", "need 3"});
}

TEST(ImagesTest, PathsThatDoNotFitEachOther) {
  ExpectImageError(ReadImages({kImageFolder + "rgb.png", kImageFolder + "nchw.npy"}).status(),
                   kUnsupported, {"nchw.npy: images of 3x5x4, rgb.png has 3x5x7"});
  ExpectImageError(ReadImages({}).status(), kUnsupported, {"no file"});
  ExpectImageError(ReadImages({kImageFolder + "none"}).status(), absl::StatusCode::kNotFound,
                   {"none"});
  ExpectImageError(ReadImages({"tests/model/data/"}).status(), kUnsupported,
                   {"data: a folder without files named *.png"});
}

TEST(ImagesTest, LimitsHoldOverAllFiles) {
  const std::string cifar = kImageFolder + "cifar10_batch.bin";
  const int64_t bytes = 20 * 3072;
  EXPECT_TRUE(ReadImages({cifar, cifar}, {.max_bytes = 2 * bytes}).ok());
  ExpectImageError(ReadImages({cifar, cifar}, {.max_bytes = 2 * bytes - 1}).status(), kTooLarge,
                   {"cifar10_batch.bin: 20 images of 3x32x32", "61439 bytes that are left"});
  const std::string folder = kImageFolder + "folder";
  EXPECT_TRUE(ReadImages({folder}, {.max_bytes = 3 * 72}).ok());
  ExpectImageError(ReadImages({folder}, {.max_bytes = 3 * 72 - 1}).status(), kTooLarge, {"c.png"});
}

TEST(ImagesTest, BytesOfImages) {
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(*ImageBytes({3, 32, 32}, 10, 30720), 30720);
  for (const ImageShape& shape :
       {ImageShape{0, 1, 1}, ImageShape{1, -1, 1}, ImageShape{1, 1, 0}, ImageShape{4097, 1, 1},
        ImageShape{1, 65536, 1}, ImageShape{1, 1, most}, ImageShape{most, most, most}}) {
    EXPECT_EQ(ImageBytes(shape, 1, most).status().code(), kUnsupported) << shape.Text();
  }
  EXPECT_EQ(ImageBytes({1, 1, 1}, 0, most).status().code(), kUnsupported);
  EXPECT_EQ(ImageBytes({1, 1, 1}, -1, most).status().code(), kUnsupported);
  EXPECT_EQ(ImageBytes({3, 32, 32}, 10, 30719).status().code(), kTooLarge);
  EXPECT_EQ(ImageBytes({4096, 65535, 65535}, most, most).status().code(), kTooLarge);
  EXPECT_EQ(ImageBytes({1, 1, 2}, most / 2 + 1, most).status().code(), kTooLarge);
}

using ImageFoldersTest = ImageFolderTest;

TEST_F(ImageFoldersTest, LinksAndDamagedEntries) {
  Write("a.png", ImageFixture("rgb.png"));
  Write("b.png", ImageFixture("rgb_metadata.png"));
  EXPECT_EQ(ReadImages({folder_})->count, 2);
  const std::string link = folder_ + "_link";
  ASSERT_EQ(symlink(folder_.c_str(), link.c_str()), 0);
  EXPECT_EQ(ReadImages({link, folder_ + "/"})->count, 4);
  unlink(link.c_str());
  Write("c.png", ImageFixture("grey.png"));
  ExpectImageError(ReadImages({folder_}).status(), kUnsupported,
                   {"c.png: images of 1x5x7, a.png has 3x5x7"});
  Write("c.png", "GIF89a");
  ExpectImageError(ReadImages({folder_}).status(), absl::StatusCode::kDataLoss,
                   {"c.png: byte 0: not a PNG file"});
}

}  // namespace
}  // namespace bflow
