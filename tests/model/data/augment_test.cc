#include "model/data/augment.h"

#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace bflow {
namespace {

std::vector<uint8_t> Numbered(const ImageShape& shape) {
  std::vector<uint8_t> image;
  for (int64_t i = 0; i < shape.size(); ++i) image.push_back(static_cast<uint8_t>(i * 7 + i / 256));
  return image;
}

// numpy.pad(row, 4, mode="reflect")
std::vector<uint8_t> Padded(std::vector<uint8_t> row) {
  const std::vector<uint8_t> inner = row;
  for (size_t i = 1; i <= 4; ++i) row.insert(row.begin(), inner[i]);
  for (size_t i = 1; i <= 4; ++i) row.push_back(inner[inner.size() - 1 - i]);
  return row;
}

// One channel [height, width], padded, row by row.
std::vector<std::vector<uint8_t>> PaddedPlane(const uint8_t* plane, int64_t height, int64_t width) {
  std::vector<std::vector<uint8_t>> columns;
  for (int64_t x = 0; x < width; ++x) {
    std::vector<uint8_t> column;
    for (int64_t y = 0; y < height; ++y) column.push_back(plane[y * width + x]);
    columns.push_back(Padded(column));
  }
  std::vector<std::vector<uint8_t>> rows;
  for (int64_t y = 0; y < height + 8; ++y) {
    std::vector<uint8_t> row;
    for (const auto& column : columns) row.push_back(column[static_cast<size_t>(y)]);
    rows.push_back(Padded(row));
  }
  return rows;
}

TEST(AugmentTest, EveryCropIsAWindowOfThePaddedImage) {
  for (const ImageShape& shape : {ImageShape{1, 5, 5}, ImageShape{3, 6, 9}, ImageShape{2, 28, 5}}) {
    const std::vector<uint8_t> image = Numbered(shape);
    std::vector<uint8_t> out(image.size());
    for (int64_t top = 0; top <= 8; ++top) {
      for (int64_t left = 0; left <= 8; ++left) {
        for (bool flip : {false, true}) {
          ASSERT_TRUE(Augment(shape, image, {top, left, flip}, out).ok());
          size_t at = 0;
          for (int64_t c = 0; c < shape.channels; ++c) {
            const auto padded = PaddedPlane(image.data() + c * shape.height * shape.width,
                                            shape.height, shape.width);
            for (int64_t y = 0; y < shape.height; ++y) {
              for (int64_t x = 0; x < shape.width; ++x, ++at) {
                const int64_t column = left + (flip ? shape.width - 1 - x : x);
                ASSERT_EQ(out[at],
                          padded[static_cast<size_t>(top + y)][static_cast<size_t>(column)])
                    << shape.Text() << " " << top << " " << left << " " << flip << " at " << at;
              }
            }
          }
        }
      }
    }
  }
}

TEST(AugmentTest, TheMiddleIsTheImage) {
  const ImageShape shape = {3, 32, 32};
  const std::vector<uint8_t> image = Numbered(shape);
  std::vector<uint8_t> out(image.size());
  ASSERT_TRUE(Augment(shape, image, {}, out).ok());
  EXPECT_EQ(out, image);
}

TEST(AugmentTest, Refuses) {
  const std::vector<uint8_t> image(3 * 5 * 5);
  std::vector<uint8_t> out(image.size());
  EXPECT_TRUE(Augment({3, 5, 5}, image, {}, out).ok());
  EXPECT_FALSE(Augment({3, 4, 5}, image, {}, out).ok());
  EXPECT_FALSE(Augment({3, 5, 4}, image, {}, out).ok());
  EXPECT_FALSE(Augment({3, 5, 6}, image, {}, out).ok());
  EXPECT_FALSE(Augment({3, 5, 5}, image, {}, std::span(out).subspan(1)).ok());
  EXPECT_FALSE(Augment({3, 5, 5}, image, {9, 0, false}, out).ok());
  EXPECT_FALSE(Augment({3, 5, 5}, image, {0, -1, false}, out).ok());
}

TEST(AugmentTest, EveryOffsetIsAsLikely) {
  std::mt19937_64 random(1);
  std::map<std::tuple<int64_t, int64_t, bool>, int> seen;
  constexpr int kDraws = 162 * 1000;
  for (int i = 0; i < kDraws; ++i) {
    const Augmentation a = DrawAugmentation(true, random);
    ++seen[{a.top, a.left, a.flip}];
  }
  ASSERT_EQ(seen.size(), 162u);
  double chi = 0;  // 161 degrees of freedom: mean 161, standard deviation 18
  for (const auto& [where, count] : seen) chi += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi, 161 + 5 * 18);
  EXPECT_GT(chi, 161 - 5 * 18);
  const auto& [top, left, flip] = seen.rbegin()->first;
  EXPECT_EQ(std::tuple(top, left, flip), std::tuple(int64_t{8}, int64_t{8}, true));
}

// The numbers of std::mt19937_64 are fixed by the standard, and so are these.
TEST(AugmentTest, TheGeneratorDecides) {
  std::mt19937_64 a(42), b(42), plain(42);
  for (int i = 0; i < 100; ++i) {
    const Augmentation flipped = DrawAugmentation(true, a),
                       not_flipped = DrawAugmentation(false, b);
    EXPECT_EQ(flipped.top, static_cast<int64_t>(plain() % 9));
    EXPECT_EQ(flipped.left, static_cast<int64_t>(plain() % 9));
    EXPECT_EQ(flipped.flip, plain() >> 63 == 1);
    EXPECT_EQ(not_flipped.top, flipped.top);
    EXPECT_EQ(not_flipped.left, flipped.left);
    EXPECT_FALSE(not_flipped.flip);
  }
  EXPECT_EQ(a, b);
  std::mt19937_64 first;  // the standard's own example: the 10000th number of the default seed
  first.discard(9998);
  first();
  EXPECT_EQ(DrawAugmentation(false, first).top, static_cast<int64_t>(9981545732273789042u % 9));
}

}  // namespace
}  // namespace bflow
