#include "bench/corruptions.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace bflow {
namespace {

using Values = std::vector<double>;

Values Copy(const CorruptionInput& in) {
  return Values(in.window, in.window + in.time_steps * static_cast<int64_t>(in.channels.size()));
}

// Uniform in [begin, end).
int64_t Draw(std::mt19937_64& generator, int64_t begin, int64_t end) {
  return std::uniform_int_distribution<int64_t>(begin, end - 1)(generator);
}

double DrawPhase(std::mt19937_64& generator) {
  return std::uniform_real_distribution<double>(0, 1)(generator);
}

// Value of channel c at time t.
double& At(Values& values, const CorruptionInput& in, int64_t t, size_t c) {
  return values[static_cast<size_t>(t) * in.channels.size() + c];
}

// `count` samples from `begin` take the values at `source`, in all channels.
void Hold(Values& values, const CorruptionInput& in, int64_t begin, int64_t count, int64_t source) {
  for (size_t c = 0; c < in.channels.size(); ++c) {
    const double held = At(values, in, source, c);
    for (int64_t t = begin; t < begin + count; ++t) At(values, in, t, c) = held;
  }
}

// Adds amplitude(c) sin(2 pi (frequency t + phase)), one phase per window.
Values AddSine(const CorruptionInput& in, double frequency_hz, double phase,
               const std::function<double(const ChannelStatistics&)>& amplitude) {
  Values values = Copy(in);
  for (int64_t t = 0; t < in.time_steps; ++t) {
    const double seconds = static_cast<double>(t) / in.sampling_rate_hz;
    const double sine = std::sin(2 * std::numbers::pi * (frequency_hz * seconds + phase));
    for (size_t c = 0; c < in.channels.size(); ++c) {
      At(values, in, t, c) += amplitude(in.channels[c]) * sine;
    }
  }
  return values;
}

double NoiseAmplitude(const ChannelStatistics& channel) {
  return std::max(0.08 * channel.amplitude, 1.5);
}

Values LeadOff(const CorruptionInput& in, std::mt19937_64& generator) {
  Values values = Copy(in);
  const int64_t begin = Draw(generator, in.time_steps / 8, in.time_steps / 2);
  const size_t c =
      static_cast<size_t>(Draw(generator, 0, static_cast<int64_t>(in.channels.size())));
  const double rail =
      Draw(generator, 0, 2) == 0 ? in.channels[c].rail_low : in.channels[c].rail_high;
  for (int64_t t = begin; t < in.time_steps; ++t) At(values, in, t, c) = rail;
  return values;
}

Values Spikes(const CorruptionInput& in, std::mt19937_64& generator) {
  Values values = Copy(in);
  for (int spike = 0; spike < 5; ++spike) {
    const int64_t width = Draw(generator, 1, 4);
    const int64_t begin = Draw(generator, 0, in.time_steps - width + 1);
    const size_t c =
        static_cast<size_t>(Draw(generator, 0, static_cast<int64_t>(in.channels.size())));
    const double height = (Draw(generator, 0, 2) == 0 ? -0.8 : 0.8) * in.channels[c].amplitude;
    for (int64_t t = begin; t < begin + width; ++t) At(values, in, t, c) += height;
  }
  return values;
}

// med + gain (v - med) in the channels [0, channels).
Values Scale(const CorruptionInput& in, double gain, size_t channels) {
  Values values = Copy(in);
  for (int64_t t = 0; t < in.time_steps; ++t) {
    for (size_t c = 0; c < channels; ++c) {
      double& v = At(values, in, t, c);
      v = in.channels[c].median + gain * (v - in.channels[c].median);
    }
  }
  return values;
}

Values Swap(const CorruptionInput& in) {
  Values values = Copy(in);
  const size_t channels = in.channels.size();
  for (int64_t t = 0; t < in.time_steps; ++t) {
    std::reverse(&At(values, in, t, 0), &At(values, in, t, 0) + channels);
  }
  return values;
}

// Linear resampling of the window and the next one.
Values Faster(const CorruptionInput& in, double rate) {
  Values values = Copy(in);
  const size_t channels = in.channels.size();
  auto source = [&](int64_t t, size_t c) -> double {
    const float* from = t < in.time_steps ? in.window : in.next;
    return from[static_cast<size_t>(t % in.time_steps) * channels + c];
  };
  for (int64_t t = 0; t < in.time_steps; ++t) {
    const double at = rate * static_cast<double>(t);
    const int64_t left = static_cast<int64_t>(at);
    const double weight = at - static_cast<double>(left);
    for (size_t c = 0; c < channels; ++c) {
      At(values, in, t, c) = (1 - weight) * source(left, c) + weight * source(left + 1, c);
    }
  }
  return values;
}

Values Broadband(const CorruptionInput& in, std::mt19937_64& generator) {
  std::normal_distribution<double> normal;
  Values values = Copy(in);
  for (int64_t t = 0; t < in.time_steps; ++t) {
    for (size_t c = 0; c < in.channels.size(); ++c) {
      At(values, in, t, c) += NoiseAmplitude(in.channels[c]) * normal(generator);
    }
  }
  return values;
}

}  // namespace

std::vector<Corruption> AllCorruptions() {
  using In = const CorruptionInput&;
  using Generator = std::mt19937_64&;
  return {
      {"flat line, all", false,
       [](In in, Generator) {
         Values values = Copy(in);
         Hold(values, in, 0, in.time_steps, 0);
         return values;
       }},
      {"flat line, half", false,
       [](In in, Generator generator) {
         Values values = Copy(in);
         const int64_t begin = Draw(generator, 0, in.time_steps / 2);
         Hold(values, in, begin, in.time_steps / 2, begin);
         return values;
       }},
      {"60-sample hold", false,
       [](In in, Generator generator) {
         Values values = Copy(in);
         const int64_t begin = Draw(generator, 1, in.time_steps - 60 + 1);
         Hold(values, in, begin, 60, begin - 1);
         return values;
       }},
      {"lead-off saturation", false, LeadOff},
      {"baseline wander", false,
       [](In in, Generator generator) {
         return AddSine(in, 0.3, DrawPhase(generator),
                        [](const ChannelStatistics& c) { return 0.5 * c.amplitude; });
       }},
      {"5 spikes", false, Spikes},
      {"inverted lead", false, [](In in, Generator) { return Scale(in, -1, 1); }},
      {"swapped leads", false, [](In in, Generator) { return Swap(in); }},
      {"gain x0.5", false, [](In in, Generator) { return Scale(in, 0.5, in.channels.size()); }},
      {"gain x1.5", false, [](In in, Generator) { return Scale(in, 1.5, in.channels.size()); }},
      {"rate x1.5", true, [](In in, Generator) { return Faster(in, 1.5); }},
      {"60 Hz", false,
       [](In in, Generator generator) {
         return AddSine(in, 60, DrawPhase(generator), NoiseAmplitude);
       }},
      {"broadband noise", false, Broadband},
  };
}

std::vector<float> ToCodes(const std::vector<double>& values,
                           const std::vector<ChannelStatistics>& channels) {
  std::vector<float> codes;
  codes.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const ChannelStatistics& channel = channels[i % channels.size()];
    codes.push_back(static_cast<float>(
        std::clamp(std::nearbyint(values[i]), channel.rail_low, channel.rail_high)));
  }
  return codes;
}

}  // namespace bflow
