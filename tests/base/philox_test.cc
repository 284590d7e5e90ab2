#include "base/philox.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
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

// Quantiles at 25, 75 and 95% from scipy.stats.t.
TEST(PhiloxTest, StudentTHasItsQuantiles) {
  struct Case {
    double degrees, q25, q75, q95;
  };
  for (const Case& c : {Case{4, -0.74069708, 0.74069708, 2.13184679},
                        Case{1.5, -0.87259466, 0.87259466, 3.70518082}}) {
    const std::vector<double> degrees(100000, c.degrees);
    std::vector<double> t(degrees.size());
    FillStudentT(1, 5, 100000, degrees.data(), t.data());
    std::sort(t.begin(), t.end());
    EXPECT_NEAR(t[25000], c.q25, 0.015);
    EXPECT_NEAR(t[50000], 0, 0.012);
    EXPECT_NEAR(t[75000], c.q75, 0.015);
    EXPECT_NEAR(t[95000], c.q95, 0.1);
  }
}

TEST(PhiloxTest, LogisticHasItsQuantilesAndDependsOnSeedAndRow) {
  std::vector<double> z(100000), again(7);
  FillLogistic(1, 5, 100000, z.data());
  FillLogistic(1, 5, 7, again.data());
  for (size_t d = 0; d < again.size(); ++d) EXPECT_EQ(again[d], z[d]);
  FillLogistic(1, 6, 7, again.data());
  EXPECT_NE(again[0], z[0]);
  std::sort(z.begin(), z.end());
  EXPECT_NEAR(z[25000], -1.0986, 0.02);  // log(1/3)
  EXPECT_NEAR(z[50000], 0, 0.02);
  EXPECT_NEAR(z[95000], 2.9444, 0.05);  // log 19
}

TEST(PhiloxTest, StudentTDependsOnSeedRowAndItsOwnDegreesAndTendsToANormal) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> one = {3, 5, infinity, 2, 7}, other = {9, 5, 1e9, 2, 1};
  std::vector<double> a(5), b(5), again(3), next(5);
  FillStudentT(7, 1ull << 40, 5, one.data(), a.data());
  FillStudentT(7, 1ull << 40, 5, other.data(), b.data());
  FillStudentT(7, 1ull << 40, 3, one.data(), again.data());
  FillStudentT(7, (1ull << 40) + 1, 5, one.data(), next.data());
  EXPECT_NE(a[0], b[0]);
  EXPECT_EQ(a[1], b[1]);
  EXPECT_NEAR(a[2], b[2], 1e-7);  // infinite against very many
  EXPECT_EQ(a[3], b[3]);
  for (int d = 0; d < 3; ++d) EXPECT_EQ(again[d], a[d]);
  EXPECT_NE(next[1], a[1]);
  // Box-Muller of the same words.
  const Words words = PhiloxBlock(7, 1ull << 40, 1, RandomPurpose::kLatent, 1);
  const double radius = std::sqrt(-2 * std::log((words[0] + 0.5) * 0x1p-32));
  EXPECT_DOUBLE_EQ(a[2], radius * std::cos(2 * std::numbers::pi * words[1] * 0x1p-32));
}

}  // namespace
}  // namespace bflow
