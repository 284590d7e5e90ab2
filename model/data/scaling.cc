#include "model/data/scaling.h"

#include <algorithm>
#include <cmath>

#include "base/philox.h"

namespace bflow {

namespace {

// Values of the same channel that follow each other in the flat event.
size_t RunLength(const FlowSpec& spec) {
  return spec.is_image() ? static_cast<size_t>(spec.positions()) : 1;
}

template <typename T>
void Scale(const FlowSpec& spec, std::span<const float> codes, CodeNoise noise, uint64_t seed,
           uint64_t row, uint32_t draw, std::span<T> x) {
  std::vector<float> uniform;
  if (noise == CodeNoise::kUniform) {
    uniform.resize(x.size());
    FillUniform(seed, row, draw, static_cast<int64_t>(x.size()), uniform.data());
  }
  const double fixed = noise == CodeNoise::kCenter ? 0.5 : 0.0;
  const size_t run = RunLength(spec);
  for (size_t d = 0; d < x.size(); ++d) {
    const ChannelSpec& channel = spec.channels[d / run % spec.channels.size()];
    const double u = uniform.empty() ? fixed : uniform[d];
    double code = codes[d];
    if (spec.is_image() && noise != CodeNoise::kNone) {
      code = channel.lo + channel.step * std::floor((code - channel.lo) / channel.step);
    }
    const double v = code + channel.step * u;
    x[d] = static_cast<T>(2 * (v - channel.lo) / (channel.hi - channel.lo) - 1);
  }
}

template <typename T>
void Codes(const FlowSpec& spec, std::span<const T> x, std::span<float> codes) {
  const size_t run = RunLength(spec);
  for (size_t d = 0; d < x.size(); ++d) {
    const ChannelSpec& channel = spec.channels[d / run % spec.channels.size()];
    const double above_lo = (static_cast<double>(x[d]) + 1) / 2 * (channel.hi - channel.lo);
    double steps = std::floor(above_lo / channel.step);
    if (spec.is_image()) {  // the largest pixel of fewer bits is not the largest input
      steps = std::min(steps, std::floor((channel.input_max - channel.lo) / channel.step));
    }
    const double v = channel.lo + channel.step * steps;
    codes[d] = static_cast<float>(std::clamp(v, channel.input_min, channel.input_max));
  }
}

}  // namespace

void ScaleEvent(const FlowSpec& spec, std::span<const float> codes, CodeNoise noise, uint64_t seed,
                uint64_t row, uint32_t draw, std::span<float> x) {
  Scale(spec, codes, noise, seed, row, draw, x);
}

void ScaleEvent(const FlowSpec& spec, std::span<const float> codes, CodeNoise noise, uint64_t seed,
                uint64_t row, uint32_t draw, std::span<double> x) {
  Scale(spec, codes, noise, seed, row, draw, x);
}

void CodesFromScaled(const FlowSpec& spec, std::span<const float> x, std::span<float> codes) {
  Codes(spec, x, codes);
}

void CodesFromScaled(const FlowSpec& spec, std::span<const double> x, std::span<float> codes) {
  Codes(spec, x, codes);
}

CodeRange FindCodeRange(std::span<const float> codes) {
  std::vector<float> sorted;
  std::copy_if(codes.begin(), codes.end(), std::back_inserter(sorted),
               [](float v) { return !std::isnan(v); });
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  if (sorted.empty()) return {};
  CodeRange range{sorted.front(), sorted.back(), 0};
  for (size_t i = 1; i < sorted.size(); ++i) {
    const double step = static_cast<double>(sorted[i]) - sorted[i - 1];
    if (range.step == 0 || step < range.step) range.step = step;
  }
  return range;
}

}  // namespace bflow
