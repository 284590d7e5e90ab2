#include "model/data/picture.h"

#include <unistd.h>

#include <string>
#include <vector>

#include "base/file.h"
#include "gtest/gtest.h"
#include "tests/model/data/image_test_util.h"

namespace bflow {
namespace {

Picture RandomPicture(const ImageShape& shape, uint32_t state) {
  Picture picture{shape, {}};
  for (int64_t i = 0; i < shape.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    picture.pixels.push_back(static_cast<uint8_t>(state >> 24));
  }
  return picture;
}

TEST(PictureTest, WhatIsWrittenIsRead) {
  for (const ImageShape& shape : {ImageShape{1, 1, 1}, ImageShape{3, 1, 1}, ImageShape{1, 28, 31},
                                  ImageShape{3, 32, 17}, ImageShape{3, 1, 4000}}) {
    const Picture picture = RandomPicture(shape, 3);
    const auto png = EncodePng(picture);
    ASSERT_TRUE(png.ok()) << png.status();
    const auto back = ParseImages("a.png", *png);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(back->shape, shape) << back->shape.Text();
    EXPECT_EQ(back->pixels, picture.pixels);
  }
  for (const ImageShape& shape : {ImageShape{2, 2, 2}, ImageShape{4, 2, 2}, ImageShape{1, 0, 2}}) {
    EXPECT_EQ(EncodePng(RandomPicture(shape, 3)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(EncodePng({{1, 2, 2}, {1, 2, 3}}).ok());
}

using PictureFileTest = ImageFolderTest;

TEST_F(PictureFileTest, WritesFiles) {
  const Picture picture = RandomPicture({3, 5, 4}, 9);
  const std::string path = folder_ + "/grid.png";
  ASSERT_TRUE(WritePng(path, picture).ok());
  EXPECT_EQ(ReadImages({path})->pixels, picture.pixels);
  EXPECT_FALSE(WritePng(folder_ + "/none/grid.png", picture).ok());
}

// Every pixel of a grid is the pixel of its tile, or white.
void ExpectGrid(const ImageShape& shape, int64_t count, int64_t columns) {
  const Picture images = RandomPicture({shape.channels * count, shape.height, shape.width}, 5);
  const auto grid = ImageGrid(shape, images.pixels, columns);
  ASSERT_TRUE(grid.ok()) << grid.status();
  const bool grey_tiles = shape.channels != 1 && shape.channels != 3;
  const int64_t tiles = grey_tiles ? count * shape.channels : count;
  const int64_t channels = grey_tiles ? 1 : shape.channels;
  const int64_t rows = (tiles + columns - 1) / columns;
  ASSERT_EQ(grid->shape,
            (ImageShape{channels, rows * (shape.height + 2) + 2, columns * (shape.width + 2) + 2}));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t y = 0; y < grid->shape.height; ++y) {
      for (int64_t x = 0; x < grid->shape.width; ++x) {
        const int64_t row = (y - 2) / (shape.height + 2), inner_y = (y - 2) % (shape.height + 2);
        const int64_t column = (x - 2) / (shape.width + 2), inner_x = (x - 2) % (shape.width + 2);
        const int64_t tile = row * columns + column;
        int want = 255;
        if (y >= 2 && x >= 2 && inner_y < shape.height && inner_x < shape.width && tile < tiles) {
          const int64_t plane = tile * channels + c;
          want = images.pixels[static_cast<size_t>((plane * shape.height + inner_y) * shape.width +
                                                   inner_x)];
        }
        const int got =
            grid->pixels[static_cast<size_t>((c * grid->shape.height + y) * grid->shape.width + x)];
        ASSERT_EQ(got, want) << c << " " << y << " " << x;
      }
    }
  }
}

TEST(ImageGridTest, EveryPixelIsInItsPlace) {
  ExpectGrid({1, 3, 4}, 7, 3);
  ExpectGrid({3, 4, 3}, 4, 2);
  ExpectGrid({3, 4, 3}, 2, 5);
  ExpectGrid({2, 3, 3}, 3, 4);
  ExpectGrid({5, 1, 1}, 1, 1);
}

TEST(ImageGridTest, Refuses) {
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  const std::vector<uint8_t> pixels(24);
  EXPECT_EQ(ImageGrid({3, 2, 4}, pixels, 0).status().code(), kInvalid);
  EXPECT_EQ(ImageGrid({3, 2, 4}, {}, 1).status().code(), kInvalid);
  EXPECT_EQ(ImageGrid({3, 2, 5}, pixels, 1).status().code(), kInvalid);
  EXPECT_EQ(ImageGrid({0, 2, 4}, pixels, 1).status().code(), kInvalid);
  EXPECT_EQ(ImageGrid({3, 2, 4}, pixels, int64_t{1} << 62).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ImageGrid({1, 1, 1}, std::vector<uint8_t>(21800 * 2), 21800).status().code(),
            absl::StatusCode::kOk);
  EXPECT_EQ(ImageGrid({1, 1, 1}, std::vector<uint8_t>(21800 * 6000), 21800).status().code(),
            absl::StatusCode::kResourceExhausted);  // 65402 x 18002
  EXPECT_EQ(ImageGrid({1, 1, 1}, std::vector<uint8_t>(30000), 1).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace bflow
