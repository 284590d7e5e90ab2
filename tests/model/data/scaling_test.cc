#include "model/data/scaling.h"

#include <cmath>
#include <vector>

#include "base/philox.h"
#include "gtest/gtest.h"

namespace bflow {
namespace {

ChannelSpec Channel(double lo, double hi, double step) {
  ChannelSpec channel;
  channel.lo = lo;
  channel.hi = hi;
  channel.step = step;
  channel.input_min = -127;
  channel.input_max = 127;
  return channel;
}

const std::vector<ChannelSpec> kChannels = {Channel(-98, 126, 1), Channel(-100, 60, 4)};
const std::vector<float> kCodes = {-98, -100, 14, -20, 126, 60};

TEST(ScalingTest, ExtremesMapToMinusOneAndOne) {
  std::vector<float> x(6);
  ScaleWindow(kChannels, kCodes, CodeNoise::kNone, 0, 0, 0, x);
  EXPECT_EQ(x, (std::vector<float>{-1, -1, 0, 0, 1, 1}));
}

TEST(ScalingTest, NoiseIsInStepsOfTheChannel) {
  std::vector<float> center(6), uniform(6), u(6);
  ScaleWindow(kChannels, kCodes, CodeNoise::kCenter, 0, 0, 0, center);
  EXPECT_EQ(center[0], static_cast<float>(2 * 0.5 / 224 - 1));
  EXPECT_EQ(center[1], static_cast<float>(2 * 2.0 / 160 - 1));
  ScaleWindow(kChannels, kCodes, CodeNoise::kUniform, 7, 11, 3, uniform);
  FillUniform(7, 11, 3, 6, u.data());
  for (size_t d = 0; d < 6; ++d) {
    const ChannelSpec& c = kChannels[d % 2];
    const double v = static_cast<double>(kCodes[d]) + c.step * u[d];
    EXPECT_EQ(uniform[d], static_cast<float>(2 * (v - c.lo) / (c.hi - c.lo) - 1)) << d;
  }
}

TEST(ScalingTest, EveryCodeReturnsFromItsStep) {
  for (int v = -98; v <= 126; ++v) {
    for (CodeNoise noise : {CodeNoise::kCenter, CodeNoise::kUniform}) {
      const std::vector<float> codes = {static_cast<float>(v)};
      std::vector<float> x(1), back(1);
      ScaleWindow({kChannels[0]}, codes, noise, 5, static_cast<uint64_t>(v + 200), 0, x);
      CodesFromScaled({kChannels[0]}, x, back);
      EXPECT_EQ(back[0], codes[0]);
    }
  }
}

TEST(ScalingTest, SamplesAreClampedToTheConverter) {
  std::vector<float> codes(4);
  CodesFromScaled(kChannels, std::vector<float>{50, -50, -1.01f, 0.01f}, codes);
  EXPECT_EQ(codes, (std::vector<float>{127, -127, -100, -20}));
}

TEST(ScalingTest, RangeAndStepOfCodes) {
  const CodeRange range = FindCodeRange(std::vector<float>{8, std::nanf(""), -4, 2, 8, 0});
  EXPECT_EQ(range.lo, -4);
  EXPECT_EQ(range.hi, 8);
  EXPECT_EQ(range.step, 2);
  EXPECT_EQ(FindCodeRange(std::vector<float>{3, 3}).step, 0);
  EXPECT_EQ(FindCodeRange({}).hi, 0);
}

}  // namespace
}  // namespace bflow
