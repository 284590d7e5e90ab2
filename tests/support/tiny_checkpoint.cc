#include "tests/support/tiny_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/linspace.h"
#include "absl/strings/str_cat.h"
#include "base/philox.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/scoring/anomaly.h"
#include "model/scoring/flow_scorer.h"
#include "model/scoring/flow_tensors.h"
#include "model/scoring/window_features.h"

namespace bflow {

FlowSpec TinySpec(bool quantised) {
  FlowSpec spec;
  spec.event_shape = {16, 2};
  spec.sampling_rate_hz = 125;
  spec.sensitivity = Sensitivity::kNone;
  spec.channels = {{"II", "mV", 81, 0, 1, -100, 100, -60, 80},
                   {"V", "mV", 60, 0, 2, -120, 120, -80, 100}};
  if (!quantised) {
    spec.dequantization = SpecDequantization::kNone;
    for (ChannelSpec& channel : spec.channels) {
      channel.step = 1;
      channel.lo = channel.input_min = -1;
      channel.hi = channel.input_max = 1;
    }
  }
  for (int level = 0; level < 2; ++level) {
    ButterflySpec butterfly;
    butterfly.factors = 3 - level;
    LevelSpec built;
    built.blocks.assign(2, {ActNormSpec{}, LuMatmulSpec{}, butterfly, AffineCouplingSpec{4}});
    built.split = level == 0;
    spec.levels.push_back(built);
  }
  return spec;
}

FlowSpec TinyImageSpec(int64_t channels, int bits) {
  FlowSpec spec;
  spec.architecture = "image";
  spec.event_shape = {channels, 8, 8};
  spec.sensitivity = Sensitivity::kNone;
  for (int64_t c = 0; c < channels; ++c) {
    ChannelSpec channel;
    channel.name = channels == 1 ? "grey" : "channel" + std::to_string(c);
    channel.step = static_cast<double>(1 << (8 - bits));
    channel.input_max = 255;
    channel.lo = 0;
    channel.hi = 256;
    spec.channels.push_back(channel);
  }
  ButterflySpec butterfly;
  butterfly.factors = 2;
  butterfly.shared = false;
  spec.pre = {PermutationSpec{}, butterfly};
  butterfly.flatten = ImageFlattening::kHwc;
  const std::vector<LayerSpec> block = {ActNormSpec{}, Conv1x1Spec{}, butterfly,
                                        Conv2dCouplingSpec{6}};
  LevelSpec level;
  level.blocks.assign(2, block);
  spec.levels.assign(2, level);
  spec.levels[0].prior = block;
  spec.levels[0].split = true;
  return spec;
}

FlowSpec TinyHeavySpec(bool quantised) {
  FlowSpec spec = TinySpec(quantised);
  spec.pre = {WhiteningSpec{3}};
  for (LevelSpec& level : spec.levels) {
    for (std::vector<LayerSpec>& block : level.blocks) block.back() = Conv1dCouplingSpec{6, 3, 2};
  }
  spec.base = BaseKind::kStudentT;
  return spec;
}

FlowSpec TinyExactSpec() {
  FlowSpec spec = TinySpec();
  spec.pre = {LatticeSpec{{71, 91}}, BoxSpec{3, 6, 3, {1, 4}, /*adaptive=*/true}};
  spec.levels = {LevelSpec{.squeeze = 1, .blocks = {}, .prior = {}, .split = false}};
  spec.base = BaseKind::kLogistic;
  return spec;
}

FlowSpec Dequantised(FlowSpec spec) {
  spec.pre.insert(spec.pre.begin(),
                  VariationalDequantizationSpec{.hidden = 5, .kernel = 3, .dilations = {1, 2}});
  return spec;
}

namespace {

// Names of the tensors of the whitening begin so; of none if there is no whitening.
std::string WhiteningPrefix(const FlowSpec& spec) {
  const std::optional<size_t> index = WhiteningIndex(spec);
  return index ? absl::StrCat("pre.", *index, ".") : "none.";
}

}  // namespace

std::shared_ptr<Flow> TinyFlow(const FlowSpec& spec, uint64_t seed) {
  std::shared_ptr<Flow> flow = *Flow::Create(spec, seed, at::kFloat);
  const c10::NoGradGuard no_grad;
  const std::string whitening = WhiteningPrefix(spec);
  for (auto& [name, tensor] : flow->NamedTensors()) {
    if (name == whitening + "lags") tensor.select(2, 0).fill_diagonal_(0.9);
    if (name == whitening + "head_weight") tensor.diagonal(-2).fill_(0.9);
    if (name == whitening + "log_scale" || name == whitening + "head_log_scale") {
      tensor.fill_(-1.5);
    }
    const bool of_dequantisation = name.starts_with("pre.0.net.") && whitening != "pre.0.";
    if (of_dequantisation && name.ends_with(".bias")) tensor.fill_(0.05);
    if (of_dequantisation && tensor.eq(0).all().item<bool>()) {
      tensor.copy_(at::linspace(-0.3, 0.4, tensor.numel()).view(tensor.sizes()));
    }
    if (name == "pre.0.codes.0") tensor.mul_(2);
    if (name == "pre.1.whitening.lags") tensor.select(2, 0).fill_diagonal_(0.9);
    if (name == "pre.1.whitening.head_weight") tensor.diagonal(-2).fill_(0.9);
    if (name == "pre.1.whitening.log_scale") tensor.fill_(1);
    if (name == "pre.1.whitening.head_log_scale") tensor.fill_(2);
    if (name == "pre.1.mean") tensor.fill_(40);
    if (name == "pre.1.log_deviation") tensor.fill_(3);
  }
  return flow;
}

HostBatch TinyRows(const FlowSpec& spec, int64_t rows, uint64_t seed) {
  HostBatch batch;
  batch.rows = rows;
  const int64_t size = spec.event_size(), channels = spec.channel_count();
  std::vector<double> normals(static_cast<size_t>(size));
  for (int64_t row = 0; row < rows; ++row) {
    FillNormal(seed, static_cast<uint64_t>(row), size, normals.data());
    std::vector<double> level(static_cast<size_t>(channels), 0.0);
    for (int64_t d = 0; d < size; ++d) {
      const size_t c = static_cast<size_t>(spec.channel_of(d));
      const ChannelSpec& channel = spec.channels[c];
      level[c] = 0.9 * level[c] + 0.2 * normals[static_cast<size_t>(d)];
      double x = std::clamp(level[c], -1.0, 0.99);
      if (spec.quantised()) {
        double range = channel.hi - channel.lo;
        x = channel.lo + channel.step * std::floor((x + 1) / 2 * range / channel.step);
      }
      batch.values.push_back(static_cast<float>(x));
    }
  }
  return batch;
}

absl::StatusOr<Checkpoint> TinyCheckpoint(const FlowSpec& spec, int64_t calibration_rows,
                                          uint64_t seed) {
  return CheckpointOf(*TinyFlow(spec, seed), calibration_rows);
}

absl::StatusOr<Checkpoint> CheckpointOf(Flow& flow, int64_t calibration_rows) {
  const FlowSpec& spec = flow.spec();
  BFLOW_ASSIGN_OR_RETURN(FlowTensors tensors, CopyFlowTensors(flow));
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, SerializeSafetensors(tensors.tensors, {}));
  BFLOW_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Parse(std::move(bytes)));
  std::optional<Calibration> calibration;
  if (calibration_rows > 0) {
    BFLOW_ASSIGN_OR_RETURN(
        WindowFeatures features,
        ComputeFeatures(flow, TinyRows(spec, calibration_rows, 7), CalibrationNoise(spec)));
    BFLOW_ASSIGN_OR_RETURN(calibration, FitCalibration(features, spec.event_size(),
                                                       spec.quantised() ? "center" : "none"));
  }
  BFLOW_ASSIGN_OR_RETURN(
      SelfTest self_test,
      MakeSelfTest(flow, calibration ? &*calibration : nullptr, TinyRows(spec, 4, 11)));
  return Checkpoint{spec,       std::move(file),     std::move(calibration), std::move(self_test),
                    Manifest{}, std::string(64, '0')};
}

}  // namespace bflow
