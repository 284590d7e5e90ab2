// Structure, sizes and ranges of a flow_spec. The bounds stand in docs/checkpoint_format.md.
#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/status.h"
#include "model/checkpoint/flow_spec.h"

namespace bflow {
namespace {

constexpr int64_t kMaxEventSize = int64_t{1} << 24;
constexpr int64_t kMaxChannels = 64;
constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxLevels = 16;
constexpr size_t kMaxBlocks = 1024;  // of all levels
constexpr size_t kMaxLayersPerBlock = 64;
constexpr int kMaxSqueeze = 4096;
constexpr int kMaxFactors = 24;
constexpr size_t kMaxPartitions = 64;
constexpr int kMaxHidden = 4096;
constexpr int64_t kMaxMatmulChannels = 4096;
constexpr int64_t kMaxTensors = 65536;  // of a model file

absl::Status Fault(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

absl::Status CheckRange(const std::string& path, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return Fault(path, absl::StrCat("is ", value, ", expected ", min, " to ", max));
}

// Printable ASCII of at most 64 bytes.
bool IsPlainText(const std::string& text) {
  return text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

absl::Status CheckChannel(const ChannelSpec& c, const std::string& path) {
  if (c.name.empty() || !IsPlainText(c.name)) {
    return Fault(path + ".name", "expected 1 to 64 printable ASCII characters");
  }
  if (!IsPlainText(c.unit)) {
    return Fault(path + ".unit", "expected at most 64 printable ASCII characters");
  }
  const std::pair<const char*, double> numbers[] = {
      {"gain", c.gain},           {"baseline", c.baseline},   {"step", c.step}, {"lo", c.lo},
      {"input_min", c.input_min}, {"input_max", c.input_max}, {"hi", c.hi}};
  for (const auto& [name, value] : numbers) {
    if (!(std::fabs(value) <= 1e12)) {
      return Fault(absl::StrCat(path, ".", name), "expected a number within +-1e12");
    }
  }
  if (c.gain == 0) return Fault(path + ".gain", "is 0");
  if (!(c.step > 0)) return Fault(path + ".step", "expected more than 0");
  if (!(c.input_min <= c.input_max)) return Fault(path + ".input_max", "is below input_min");
  if (!(c.lo < c.hi)) return Fault(path + ".hi", "expected more than lo");
  if (!std::isfinite(std::log((c.hi - c.lo) / (2 * c.step)))) {
    return Fault(path + ".hi", "(hi - lo) / step is out of range");
  }
  return absl::OkStatus();
}

absl::Status CheckEvent(const FlowSpec& spec) {
  if (spec.architecture != "waveform") return Fault("architecture", "expected \"waveform\"");
  if (spec.event_shape.size() != 2) {
    return Fault("event_shape", absl::StrCat("has ", spec.event_shape.size(),
                                             " dimensions, expected 2: time steps, channels"));
  }
  BFLOW_RETURN_IF_ERROR(CheckRange("event_shape[0]", spec.event_shape[0], 1, kMaxEventSize));
  BFLOW_RETURN_IF_ERROR(CheckRange("event_shape[1]", spec.event_shape[1], 1, kMaxChannels));
  if (spec.event_size() > kMaxEventSize) {
    return Fault("event_shape", absl::StrCat("is ", spec.event_size(), " values, at most ",
                                             kMaxEventSize, " are possible"));
  }
  if (!(spec.sampling_rate_hz > 0 && spec.sampling_rate_hz <= 1e9)) {
    return Fault("sampling_rate_hz", "expected more than 0 and at most 1e9");
  }
  if (static_cast<int64_t>(spec.channels.size()) != spec.channel_count()) {
    return Fault("channels",
                 absl::StrCat("has ", spec.channels.size(), " entries, event_shape has ",
                              spec.channel_count(), " channels"));
  }
  std::set<std::string> names;
  for (size_t c = 0; c < spec.channels.size(); ++c) {
    const std::string path = absl::StrCat("channels[", c, "]");
    BFLOW_RETURN_IF_ERROR(CheckChannel(spec.channels[c], path));
    if (!names.insert(spec.channels[c].name).second) {
      return Fault(path + ".name", "is the name of an earlier channel");
    }
  }
  return absl::OkStatus();
}

// Factors of levels 0 .. n-1 need 2^n | size.
absl::Status CheckFactors(const std::string& path, int factors, int min, int64_t size) {
  BFLOW_RETURN_IF_ERROR(CheckRange(path, factors, min, kMaxFactors));
  if (size % (int64_t{1} << factors) != 0) {
    return Fault(path,
                 absl::StrCat("is ", factors, ", but 2^", factors, " does not divide ", size));
  }
  return absl::OkStatus();
}

absl::Status CheckPartitions(const ButterflySpec& b, const std::string& path, int64_t size) {
  if (b.factors != 0) return Fault(path + ".factors", "must be absent or 0 with partitions");
  if (b.partitions.size() > kMaxPartitions) {
    return Fault(path + ".partitions",
                 absl::StrCat("has ", b.partitions.size(), " parts, at most ", kMaxPartitions));
  }
  if (b.partition_factors.size() != b.partitions.size()) {
    return Fault(path + ".partition_factors",
                 absl::StrCat("has ", b.partition_factors.size(), " entries, partitions has ",
                              b.partitions.size()));
  }
  int64_t sum = 0;
  for (size_t p = 0; p < b.partitions.size(); ++p) {
    const std::string index = absl::StrCat("[", p, "]");
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".partitions" + index, b.partitions[p], 1, size));
    BFLOW_RETURN_IF_ERROR(CheckFactors(path + ".partition_factors" + index, b.partition_factors[p],
                                       0, b.partitions[p]));
    sum += b.partitions[p];
  }
  if (sum != size) {
    return Fault(path + ".partitions",
                 absl::StrCat("sum to ", sum, ", the layer has ", size, " values"));
  }
  return absl::OkStatus();
}

struct LayerChecker {
  const std::string& path;
  LevelShape shape;
  int64_t tensors = 0;  // out: tensors of this layer

  absl::Status operator()(const ActNormSpec&) {
    tensors = 2;
    return absl::OkStatus();
  }
  absl::Status operator()(const LuMatmulSpec&) {
    tensors = 5;
    if (shape.channels <= kMaxMatmulChannels) return absl::OkStatus();
    return Fault(
        path, absl::StrCat("acts on ", shape.channels, " channels, at most ", kMaxMatmulChannels));
  }
  absl::Status operator()(const ButterflySpec& b) {
    const int64_t directions = b.bi_direction ? 2 : 1;
    if (b.partitions.empty()) {
      tensors = directions * b.factors;
      if (!b.partition_factors.empty()) {
        return Fault(path + ".partition_factors", "must be absent without partitions");
      }
      if (b.rotate) return Fault(path + ".rotate", "needs partitions");
      return CheckFactors(path + ".factors", b.factors, 1, shape.size());
    }
    BFLOW_RETURN_IF_ERROR(CheckPartitions(b, path, shape.size()));
    for (int factors : b.partition_factors) tensors += directions * factors;
    if (b.rotate) tensors *= static_cast<int64_t>(b.partitions.size());
    return absl::OkStatus();
  }
  absl::Status operator()(const AffineCouplingSpec& c) {
    tensors = 12;
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".hidden", c.hidden, 1, kMaxHidden));
    if (shape.channels % 2 == 0) return absl::OkStatus();
    return Fault(path, absl::StrCat("acts on ", shape.channels,
                                    " channels, a coupling needs an even number"));
  }
};

absl::Status CheckLevel(const LevelSpec& level, const std::string& path, const LevelShape& shape,
                        int64_t* tensors) {
  for (size_t j = 0; j < level.blocks.size(); ++j) {
    const std::string block_path = absl::StrCat(path, ".blocks[", j, "]");
    BFLOW_RETURN_IF_ERROR(CheckRange(absl::StrCat("number of layers of ", block_path),
                                     static_cast<int64_t>(level.blocks[j].size()), 1,
                                     static_cast<int64_t>(kMaxLayersPerBlock)));
    for (size_t k = 0; k < level.blocks[j].size(); ++k) {
      const std::string layer_path = absl::StrCat(block_path, "[", k, "]");
      LayerChecker checker{layer_path, shape};
      BFLOW_RETURN_IF_ERROR(std::visit(checker, level.blocks[j][k]));
      *tensors += checker.tensors;
      if (*tensors > kMaxTensors) {
        return Fault(layer_path,
                     absl::StrCat("the model has more than ", kMaxTensors, " tensors up to here"));
      }
    }
  }
  if (level.split && shape.channels % 2 != 0) {
    return Fault(path + ".split",
                 absl::StrCat("the level has ", shape.channels, " channels, an odd number"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateFlowSpec(const FlowSpec& spec) {
  BFLOW_RETURN_IF_ERROR(CheckEvent(spec));
  BFLOW_RETURN_IF_ERROR(CheckRange("number of levels", static_cast<int64_t>(spec.levels.size()), 1,
                                   static_cast<int64_t>(kMaxLevels)));
  size_t blocks = 0;
  int64_t tensors = 0;
  LevelShape shape{spec.time_steps(), spec.channel_count()};
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const LevelSpec& level = spec.levels[l];
    const std::string path = absl::StrCat("levels[", l, "]");
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".squeeze", level.squeeze, 1, kMaxSqueeze));
    if (shape.time_steps % level.squeeze != 0) {
      return Fault(path + ".squeeze", absl::StrCat("is ", level.squeeze, ", which does not divide ",
                                                   shape.time_steps, " time steps"));
    }
    shape.time_steps /= level.squeeze;
    shape.channels *= level.squeeze;
    blocks += level.blocks.size();
    if (blocks > kMaxBlocks) {
      return Fault(path + ".blocks", absl::StrCat("more than ", kMaxBlocks, " blocks in all"));
    }
    BFLOW_RETURN_IF_ERROR(CheckLevel(level, path, shape, &tensors));
    if (level.split) {
      if (l + 1 == spec.levels.size()) return Fault(path + ".split", "the last level cannot split");
      shape.channels /= 2;
    }
  }
  return absl::OkStatus();
}

}  // namespace bflow
