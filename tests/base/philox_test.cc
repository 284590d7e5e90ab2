#include "base/philox.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace bflow {
namespace {

using Words = std::array<uint32_t, 4>;

// Known-answer vectors of the authors' Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(PhiloxTest, MatchesTheKnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, NumbersDependOnRowAndDimensionOnly) {
  std::vector<float> whole(11), part(6);
  FillUniform(7, 1ull << 40, 3, 11, whole.data());
  FillUniform(7, 1ull << 40, 3, 6, part.data());
  for (int d = 0; d < 6; ++d) EXPECT_EQ(whole[d], part[d]);
  for (float u : whole) EXPECT_TRUE(u >= 0 && u < 1);
  FillUniform(7, 1ull << 40, 4, 6, part.data());
  EXPECT_NE(whole[0], part[0]) << "another draw";
}

TEST(PhiloxTest, NormalsHaveUnitVariance) {
  std::vector<double> z(100000);
  FillNormal(1, 0, 100000, z.data());
  double sum = 0, squares = 0;
  for (double v : z) sum += v, squares += v * v;
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.02);
}

}  // namespace
}  // namespace bflow
