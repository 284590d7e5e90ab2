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

FlowSpec Waveform(const std::vector<ChannelSpec>& channels, int64_t time_steps) {
  FlowSpec spec;
  spec.event_shape = {time_steps, static_cast<int64_t>(channels.size())};
  spec.channels = channels;
  return spec;
}

FlowSpec Image(const std::vector<ChannelSpec>& channels, int64_t height, int64_t width) {
  FlowSpec spec;
  spec.architecture = "image";
  spec.event_shape = {static_cast<int64_t>(channels.size()), height, width};
  spec.channels = channels;
  return spec;
}

ChannelSpec Pixel(double step) {
  ChannelSpec channel = Channel(0, 256, step);
  channel.input_min = 0;
  channel.input_max = 255;
  return channel;
}
const std::vector<float> kCodes = {-98, -100, 14, -20, 126, 60};

TEST(ScalingTest, ExtremesMapToMinusOneAndOne) {
  std::vector<float> x(6);
  ScaleEvent(Waveform(kChannels, 3), kCodes, CodeNoise::kNone, 0, 0, 0, x);
  EXPECT_EQ(x, (std::vector<float>{-1, -1, 0, 0, 1, 1}));
}

TEST(ScalingTest, NoiseIsInStepsOfTheChannel) {
  std::vector<float> center(6), uniform(6), u(6);
  ScaleEvent(Waveform(kChannels, 3), kCodes, CodeNoise::kCenter, 0, 0, 0, center);
  EXPECT_EQ(center[0], static_cast<float>(2 * 0.5 / 224 - 1));
  EXPECT_EQ(center[1], static_cast<float>(2 * 2.0 / 160 - 1));
  ScaleEvent(Waveform(kChannels, 3), kCodes, CodeNoise::kUniform, 7, 11, 3, uniform);
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
      ScaleEvent(Waveform({kChannels[0]}, 1), codes, noise, 5, static_cast<uint64_t>(v + 200), 0,
                 x);
      CodesFromScaled(Waveform({kChannels[0]}, 1), x, back);
      EXPECT_EQ(back[0], codes[0]);
    }
  }
}

TEST(ScalingTest, InFloat64NothingIsRounded) {
  ChannelSpec channel = Channel(-2048, 2047, 1);
  channel.input_min = -2048;
  channel.input_max = 2047;
  const FlowSpec spec = Waveform({channel}, 1);
  const std::vector<float> codes = {1000};
  std::vector<double> x(1);
  std::vector<float> back(1), narrow(1);
  ScaleEvent(spec, codes, CodeNoise::kUniform, 7, 11, 3, x);
  ScaleEvent(spec, codes, CodeNoise::kUniform, 7, 11, 3, narrow);
  EXPECT_EQ(static_cast<float>(x[0]), narrow[0]);
  ScaleEvent(spec, codes, CodeNoise::kNone, 0, 0, 0, x);
  x[0] -= 1e-12;  // on the edge of a code, below the resolution of float32
  CodesFromScaled(spec, x, back);
  EXPECT_EQ(back[0], 999);
}

TEST(ScalingTest, SamplesAreClampedToTheConverter) {
  std::vector<float> codes(4);
  CodesFromScaled(Waveform(kChannels, 2), std::vector<float>{50, -50, -1.01f, 0.01f}, codes);
  EXPECT_EQ(codes, (std::vector<float>{127, -127, -100, -20}));
}

TEST(ScalingTest, ChannelsOfAnImageFollowEachOther) {
  const FlowSpec spec = Image({Channel(-98, 126, 1), Channel(-100, 60, 4)}, 1, 3);
  std::vector<float> x(6), back(6);
  ScaleEvent(spec, std::vector<float>{-98, 14, 126, -100, -20, 60}, CodeNoise::kNone, 0, 0, 0, x);
  EXPECT_EQ(x, (std::vector<float>{-1, 0, 1, -1, 0, 1}));
  CodesFromScaled(spec, x, back);
  EXPECT_EQ(back, (std::vector<float>{-98, 14, 126, -100, -20, 60}));
}

// Kingma and Dhariwal 2018, 5 bits: floor(v / 2^(8-n)) of 2^n values, x = 2 (v' + u) / 2^n - 1.
TEST(ScalingTest, ALargerStepKeepsFewerBitsOfAPixel) {
  const FlowSpec spec = Image({Pixel(8)}, 16, 16);
  std::vector<float> pixels(256), x(256), back(256);
  for (size_t v = 0; v < 256; ++v) pixels[v] = static_cast<float>(v);
  ScaleEvent(spec, pixels, CodeNoise::kCenter, 0, 0, 0, x);
  CodesFromScaled(spec, x, back);
  for (size_t v = 0; v < 256; ++v) {
    const double reduced = std::floor(static_cast<double>(v) / 8);
    EXPECT_EQ(x[v], static_cast<float>(2 * (reduced + 0.5) / 32 - 1)) << v;
    EXPECT_EQ(back[v], static_cast<float>(8 * reduced)) << v;
  }
  EXPECT_DOUBLE_EQ(spec.code_unit_offset_nats(), 256 * std::log(16.0));
  CodesFromScaled(spec, std::vector<float>(256, 1.5f), back);
  EXPECT_EQ(back, std::vector<float>(256, 248.0f)) << "a sample is a multiple of the step";
  // Real values have their noise already.
  pixels.assign(256, 100.75f);
  ScaleEvent(spec, pixels, CodeNoise::kNone, 0, 0, 0, x);
  EXPECT_EQ(x[0], static_cast<float>(2 * 100.75 / 256 - 1));
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
