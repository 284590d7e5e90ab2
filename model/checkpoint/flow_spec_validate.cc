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
constexpr int64_t kMaxConv1x1Channels = 1024;  // a loader computes the determinant: C^3 steps
constexpr int kMaxKernel = 255;
constexpr int kMaxDilation = 4096;
constexpr int64_t kAlwaysReached = 1024;  // time steps of a dilated convolution
constexpr int kMaxRank = 1024;
constexpr int64_t kMaxSpectrum = int64_t{1} << 26;    // complex numbers of a periodic convolution
constexpr int64_t kMaxTapsSolved = int64_t{1} << 20;  // of an emerging convolution's inverse
constexpr int kMaxWhiteningOrder = 256;
constexpr size_t kMaxDilations = 16;
// Of a convolution over the codes, values that one row may be unfolded to: 1 GiB in float32.
constexpr int64_t kMaxUnfolded = int64_t{1} << 28;
constexpr int64_t kMaxLatticeCodes = 65536;  // of a channel
constexpr int kMaxBoxWidth = 256;
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

absl::Status CheckShape(const FlowSpec& spec) {
  if (spec.architecture != "waveform" && spec.architecture != "image") {
    return Fault("architecture", "expected \"waveform\" or \"image\"");
  }
  const size_t dimensions = spec.is_image() ? 3 : 2;
  if (spec.event_shape.size() != dimensions) {
    return Fault(
        "event_shape",
        absl::StrCat("has ", spec.event_shape.size(), " dimensions, expected ",
                     spec.is_image() ? "3: channels, height, width" : "2: time steps, channels"));
  }
  int64_t size = 1;
  for (size_t i = 0; i < dimensions; ++i) {
    const bool is_channel = i == (spec.is_image() ? 0 : 1);
    BFLOW_RETURN_IF_ERROR(CheckRange(absl::StrCat("event_shape[", i, "]"), spec.event_shape[i], 1,
                                     is_channel ? kMaxChannels : kMaxEventSize));
    size *= spec.event_shape[i];  // at most 2^48 before the check
    if (size > kMaxEventSize) {
      return Fault("event_shape",
                   absl::StrCat("is more than the possible ", kMaxEventSize, " values"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckEvent(const FlowSpec& spec) {
  BFLOW_RETURN_IF_ERROR(CheckShape(spec));
  if (spec.is_image()) {
    if (spec.sampling_rate_hz != 0) return Fault("sampling_rate_hz", "an image has none");
  } else if (!(spec.sampling_rate_hz > 0 && spec.sampling_rate_hz <= 1e9)) {
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

// Where a layer stands decides what it may be.
enum class Place { kPre, kLevel };

absl::Status CheckPlace(const LayerSpec& layer, const std::string& path, Place place,
                        const LevelShape& shape) {
  const bool pre_only = std::holds_alternative<PermutationSpec>(layer) ||
                        std::holds_alternative<LogitSpec>(layer) || ComputesInDouble(layer);
  const bool waveform_only = std::holds_alternative<LuMatmulSpec>(layer) ||
                             std::holds_alternative<AffineCouplingSpec>(layer) ||
                             std::holds_alternative<Conv1dCouplingSpec>(layer) ||
                             std::holds_alternative<WhiteningSpec>(layer) ||
                             std::holds_alternative<LatticeSpec>(layer) ||
                             std::holds_alternative<BoxSpec>(layer);
  const bool image_only = std::holds_alternative<Conv1x1Spec>(layer) ||
                          std::holds_alternative<EmergingConvSpec>(layer) ||
                          std::holds_alternative<PeriodicConvSpec>(layer) ||
                          std::holds_alternative<WoodburySpec>(layer) ||
                          std::holds_alternative<Conv2dCouplingSpec>(layer);
  const std::string kind(LayerKind(layer));
  if (shape.is_image ? waveform_only : image_only) {
    return Fault(path + ".kind", absl::StrCat(kind, " is a layer of ",
                                              shape.is_image ? "waveforms" : "images", " only"));
  }
  if (place == Place::kLevel && pre_only) {
    return Fault(path + ".kind", absl::StrCat(kind, " belongs into pre"));
  }
  if (place == Place::kPre && !pre_only && !std::holds_alternative<ButterflySpec>(layer)) {
    return Fault(path + ".kind", absl::StrCat(kind, " cannot stand in pre"));
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
  absl::Status operator()(const Conv1x1Spec&) {
    tensors = 1;
    if (shape.channels <= kMaxConv1x1Channels) return absl::OkStatus();
    return Fault(
        path, absl::StrCat("acts on ", shape.channels, " channels, at most ", kMaxConv1x1Channels));
  }
  absl::Status operator()(const ButterflySpec& b) {
    if (b.flatten != ImageFlattening::kChw && !shape.is_image) {
      return Fault(path + ".flatten", "is for images only");
    }
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
    return CheckHalves();
  }
  absl::Status operator()(const Conv1dCouplingSpec& c) {
    tensors = 6;
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".hidden", c.hidden, 1, kMaxHidden));
    BFLOW_RETURN_IF_ERROR(CheckKernel(c.kernel, kMaxKernel));
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".dilation", c.dilation, 1, kMaxDilation));
    BFLOW_RETURN_IF_ERROR(CheckReach(path + ".dilation", c.kernel, c.dilation));
    return CheckHalves();
  }
  absl::Status operator()(const Conv2dCouplingSpec& c) {
    tensors = 9;
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".hidden", c.hidden, 1, kMaxHidden));
    if (shape.channels >= 2) return absl::OkStatus();
    return Fault(path, "acts on 1 channel, a coupling needs at least 2");
  }
  absl::Status operator()(const EmergingConvSpec& c) {
    tensors = 4;
    BFLOW_RETURN_IF_ERROR(CheckKernel(c.kernel, kMaxKernel));
    return CheckMost("H W kernel^2", shape.positions() * c.kernel * c.kernel, kMaxTapsSolved);
  }
  absl::Status operator()(const PeriodicConvSpec& c) {
    tensors = 1;
    BFLOW_RETURN_IF_ERROR(CheckKernel(c.kernel, std::min(shape.height, shape.width)));
    return CheckMost("H W C^2", shape.size() * shape.channels, kMaxSpectrum);
  }
  absl::Status operator()(const WoodburySpec& w) {
    tensors = 4;
    return CheckRange(path + ".rank", w.rank, 1, kMaxRank);
  }
  absl::Status operator()(const PermutationSpec&) {
    tensors = 1;
    return absl::OkStatus();
  }
  absl::Status operator()(const LogitSpec&) { return absl::OkStatus(); }
  absl::Status operator()(const WhiteningSpec& w) {
    tensors = 7;
    return CheckOrder(w.order);
  }
  absl::Status operator()(const VariationalDequantizationSpec& d) {
    tensors = 4 + 2 * static_cast<int64_t>(d.dilations.size());
    BFLOW_RETURN_IF_ERROR(CheckCodes("variational_dequantisation"));
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".hidden", d.hidden, 1, kMaxHidden));
    BFLOW_RETURN_IF_ERROR(CheckKernel(d.kernel, kMaxKernel));
    BFLOW_RETURN_IF_ERROR(CheckRange("number of " + path + ".dilations",
                                     static_cast<int64_t>(d.dilations.size()), 1, kMaxDilations));
    for (size_t n = 0; n < d.dilations.size(); ++n) {
      const std::string field = absl::StrCat(path, ".dilations[", n, "]");
      BFLOW_RETURN_IF_ERROR(CheckRange(field, d.dilations[n], 1, kMaxDilation));
      BFLOW_RETURN_IF_ERROR(CheckReach(field, d.kernel, d.dilations[n]));
    }
    const int64_t taps = shape.is_image ? int64_t{d.kernel} * d.kernel : d.kernel;
    const int64_t width = std::max<int64_t>(d.hidden, 2 * shape.channels);
    if (width * taps <= kMaxUnfolded / shape.positions()) return absl::OkStatus();
    return Fault(path, absl::StrCat("hidden x taps x positions is more than ", kMaxUnfolded));
  }

  absl::Status operator()(const LatticeSpec& l) {
    tensors = static_cast<int64_t>(l.sizes.size());
    BFLOW_RETURN_IF_ERROR(CheckCodes("lattice"));
    if (tensors != shape.channels) {
      return Fault(path + ".sizes", absl::StrCat("has ", tensors, " entries, the event has ",
                                                 shape.channels, " channels"));
    }
    for (size_t c = 0; c < l.sizes.size(); ++c) {
      BFLOW_RETURN_IF_ERROR(
          CheckRange(absl::StrCat(path, ".sizes[", c, "]"), l.sizes[c], 1, kMaxLatticeCodes));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const BoxSpec& b) {
    const int64_t blocks = static_cast<int64_t>(b.dilations.size());
    tensors = 7 + 2 + 2 + 4 * blocks + 4 * shape.channels;
    BFLOW_RETURN_IF_ERROR(CheckCodes("box"));
    BFLOW_RETURN_IF_ERROR(CheckOrder(b.order));
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".width", b.width, 1, kMaxBoxWidth));
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".kernel", b.kernel, 1, kMaxKernel));
    BFLOW_RETURN_IF_ERROR(CheckRange("number of " + path + ".dilations", blocks, 0, kMaxDilations));
    for (size_t n = 0; n < b.dilations.size(); ++n) {
      const std::string field = absl::StrCat(path, ".dilations[", n, "]");
      BFLOW_RETURN_IF_ERROR(CheckRange(field, b.dilations[n], 1, kMaxDilation));
      BFLOW_RETURN_IF_ERROR(CheckReach(field, 3, b.dilations[n]));
    }
    const int64_t planes = b.width * (blocks + 1) + shape.channels;
    if (planes <= kMaxUnfolded / shape.positions()) return absl::OkStatus();
    return Fault(path, absl::StrCat("width x blocks x time steps is more than ", kMaxUnfolded));
  }

  absl::Status CheckCodes(const char* kind) const {
    if (!shape.channels_of_event.empty()) return absl::OkStatus();
    return Fault(path + ".kind", absl::StrCat(kind, " needs dequantisation \"uniform\""));
  }
  absl::Status CheckOrder(int order) const {
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".order", order, 1, kMaxWhiteningOrder));
    if (order < shape.height) return absl::OkStatus();
    return Fault(path + ".order", absl::StrCat("is ", order, ", expected less than the ",
                                               shape.height, " time steps"));
  }
  // How far a convolution sees; what lies beyond the event is padding.
  absl::Status CheckReach(const std::string& field, int kernel, int dilation) const {
    const int64_t reach = kernel / 2 * int64_t{dilation};
    const int64_t most = std::max({shape.height, shape.width, kAlwaysReached});
    if (reach <= most) return absl::OkStatus();
    return Fault(field, absl::StrCat("reaches ", reach, " steps to either side, at most ", most));
  }
  absl::Status CheckKernel(int kernel, int64_t max) const {
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".kernel", kernel, 1, max));
    return kernel % 2 == 1 ? absl::OkStatus() : Fault(path + ".kernel", "expected an odd number");
  }
  absl::Status CheckMost(const char* what, int64_t value, int64_t most) const {
    if (shape.channels > kMaxConv1x1Channels) {
      return Fault(path, absl::StrCat("acts on ", shape.channels, " channels, at most ",
                                      kMaxConv1x1Channels));
    }
    if (value <= most) return absl::OkStatus();
    return Fault(path, absl::StrCat(what, " is ", value, ", at most ", most));
  }
  absl::Status CheckHalves() const {
    if (shape.channels % 2 == 0) return absl::OkStatus();
    return Fault(path, absl::StrCat("acts on ", shape.channels,
                                    " channels, a coupling needs an even number"));
  }
};

absl::Status CheckLayers(const std::vector<LayerSpec>& layers, const std::string& path, Place place,
                         const LevelShape& shape, int64_t* tensors) {
  for (size_t k = 0; k < layers.size(); ++k) {
    const std::string layer_path = absl::StrCat(path, "[", k, "]");
    BFLOW_RETURN_IF_ERROR(CheckPlace(layers[k], layer_path, place, shape));
    LayerChecker checker{layer_path, shape};
    BFLOW_RETURN_IF_ERROR(std::visit(checker, layers[k]));
    *tensors += checker.tensors;
    if (*tensors > kMaxTensors) {
      return Fault(layer_path,
                   absl::StrCat("the model has more than ", kMaxTensors, " tensors up to here"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBlock(const std::vector<LayerSpec>& block, const std::string& path, int64_t min,
                        const LevelShape& shape, int64_t* tensors) {
  BFLOW_RETURN_IF_ERROR(CheckRange(absl::StrCat("number of layers of ", path),
                                   static_cast<int64_t>(block.size()), min,
                                   static_cast<int64_t>(kMaxLayersPerBlock)));
  return CheckLayers(block, path, Place::kLevel, shape, tensors);
}

bool MovesNoise(const LayerSpec& layer) {
  return std::holds_alternative<VariationalDequantizationSpec>(layer);
}

// Layers before the first level: those on codes come first, then whitening or what needs the scaled
// range.
absl::Status CheckPre(const FlowSpec& spec, int64_t* tensors) {
  BFLOW_RETURN_IF_ERROR(CheckRange("number of layers of pre", static_cast<int64_t>(spec.pre.size()),
                                   0, static_cast<int64_t>(kMaxLayersPerBlock)));
  BFLOW_RETURN_IF_ERROR(CheckLayers(spec.pre, "pre", Place::kPre, EventLevelShape(spec), tensors));
  for (size_t k = 0; k < spec.pre.size(); ++k) {
    const std::string path = absl::StrCat("pre[", k, "].kind");
    const bool all_on_codes = std::all_of(spec.pre.begin(), spec.pre.begin() + k, IsOnCodes);
    if (std::holds_alternative<LatticeSpec>(spec.pre[k]) && k > 0) {
      return Fault(path, "lattice must be the first layer: its codes are those of the data");
    }
    if (TakesCodes(spec.pre[k]) && !all_on_codes) {
      return Fault(path, absl::StrCat(std::string(LayerKind(spec.pre[k])),
                                      " acts on codes: only layers that keep them can stand "
                                      "before it"));
    }
    if (std::holds_alternative<BoxSpec>(spec.pre[k]) &&
        std::any_of(spec.pre.begin(), spec.pre.begin() + k, MovesNoise)) {
      return Fault(path,
                   "a box needs noise that is uniform in each code: no "
                   "variational_dequantisation before it");
    }
    if (std::holds_alternative<WhiteningSpec>(spec.pre[k]) && !all_on_codes) {
      return Fault(path, "only layers on codes can stand before whitening");
    }
    if (!std::holds_alternative<LogitSpec>(spec.pre[k])) continue;
    for (size_t i = 0; i < k; ++i) {
      if (!std::holds_alternative<PermutationSpec>(spec.pre[i]) && !IsOnCodes(spec.pre[i])) {
        return Fault(path,
                     "only permutations and layers on codes can stand before a logit, which needs "
                     "-1 to 1");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLevel(const LevelSpec& level, const std::string& path, const LevelShape& shape,
                        int64_t* tensors) {
  for (size_t j = 0; j < level.blocks.size(); ++j) {
    BFLOW_RETURN_IF_ERROR(
        CheckBlock(level.blocks[j], absl::StrCat(path, ".blocks[", j, "]"), 1, shape, tensors));
  }
  BFLOW_RETURN_IF_ERROR(CheckBlock(level.prior, path + ".prior", 0, shape, tensors));
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
  BFLOW_RETURN_IF_ERROR(CheckPre(spec, &tensors));
  LevelShape shape = EventLevelShape(spec);
  for (size_t l = 0; l < spec.levels.size(); ++l) {
    const LevelSpec& level = spec.levels[l];
    const std::string path = absl::StrCat("levels[", l, "]");
    BFLOW_RETURN_IF_ERROR(CheckRange(path + ".squeeze", level.squeeze, 1, kMaxSqueeze));
    if (shape.height % level.squeeze != 0 || (shape.is_image && shape.width % level.squeeze != 0)) {
      return Fault(
          path + ".squeeze",
          absl::StrCat("is ", level.squeeze, ", which does not divide ",
                       shape.is_image ? absl::StrCat(shape.height, " x ", shape.width, " positions")
                                      : absl::StrCat(shape.height, " time steps")));
    }
    shape = Squeezed(shape, level.squeeze);
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
