// Runners of butterflies on vectors and of everything on waveforms [B, T, C].
#include "tests/golden/waveform_cases.h"

#include <map>
#include <utility>
#include <vector>

#include "ATen/ops/eye.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/layers/squeeze.h"
#include "tests/golden/compare.h"
#include "tests/golden/plain_layers.h"

namespace bflow::golden {
namespace {

// Of layers that treat every time step alike.
LevelShape StepShape(int64_t channels) {
  LevelShape shape;
  shape.channels = channels;
  return shape;
}

absl::Status RunButterfly(const GoldenCase& golden, const SafetensorsFile& file, const Mode& mode,
                          Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  if (x.dim() < 2) return absl::InvalidArgumentError("in.x: [B, D] is expected");
  const int64_t size = x.flatten(1).size(1);
  const bool partitioned = golden.kind == "butterfly_partition";
  std::vector<std::vector<int64_t>> sizes = {{size}};
  if (partitioned) {
    if (!golden.config.contains("rounds")) {
      return absl::InvalidArgumentError("config.rounds: the list of part sizes is missing");
    }
    sizes = golden.config["rounds"].get<std::vector<std::vector<int64_t>>>();
  }
  std::vector<std::vector<ButterflyPart>> rounds;
  TensorMap tensors;
  bool shared = true;
  for (size_t r = 0; r < sizes.size(); ++r) {
    std::vector<ButterflyPart>& parts = rounds.emplace_back();
    int64_t total = 0;
    for (size_t p = 0; p < sizes[r].size(); ++p) {
      std::vector<at::Tensor> factors;
      if (golden.kind == "butterfly_factor") {
        BFLOW_ASSIGN_OR_RETURN(factors.emplace_back(), Require(file, "w.w1"));
      } else {
        const std::string part = partitioned ? absl::StrCat(r, ".", p, ".") : "";
        BFLOW_ASSIGN_OR_RETURN(factors, Factors(file, absl::StrCat("w.model.", part)));
      }
      BFLOW_ASSIGN_OR_RETURN(parts.emplace_back(), PartOf(factors, sizes[r][p]));
      shared = shared && AreShared(factors);
      const std::string ours = partitioned ? absl::StrCat("rounds.", r, ".parts.", p, ".") : "";
      for (size_t f = 0; f < factors.size(); ++f) {
        tensors[absl::StrCat(ours, "factors.", f)] = factors[f];
      }
      total += sizes[r][p];
    }
    if (total != size) return absl::InvalidArgumentError("config.rounds: parts do not add up to D");
  }
  at::Generator generator = AnyGenerator();
  std::shared_ptr<Bijector> layer =
      MakeButterfly(rounds, shared, partitioned, generator, mode.dtype, mode.plain);
  BFLOW_RETURN_IF_ERROR(SetTensors(*layer, tensors));
  if (mode.frozen) layer->Freeze();
  return CompareMap(file, MapOf(layer), mode.dtype, comparisons);
}

absl::Status RunActNorm(const SafetensorsFile& file, const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const TensorMap tensors, ActNormTensors(file, "w.", "weight"));
  const LevelShape shape = StepShape(tensors.at("bias").numel());
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(ActNormSpec{}, shape, tensors, mode));
  BFLOW_RETURN_IF_ERROR(CompareMap(file, MapOf(layer), mode.dtype, comparisons));
  if (mode.frozen || file.Find("init.x") == nullptr) return absl::OkStatus();
  TensorMap before;
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor weight, Require(file, "init.weight_before"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor bias, Require(file, "init.bias_before"));
  before["log_scale"] = weight.flatten();
  before["bias"] = bias.flatten();
  return CompareInitialisation(file, ActNormSpec{}, shape, before, tensors, mode, comparisons);
}

absl::Status RunLuMatmul(const SafetensorsFile& file, const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const TensorMap tensors, LuMatmulTensors(file, "w.", "w."));
  const int64_t channels = tensors.at("log_diagonal").numel();
  BFLOW_ASSIGN_OR_RETURN(const auto layer,
                         MakeLayer(LuMatmulSpec{}, StepShape(channels), tensors, mode));
  if (file.Find("derived.W") != nullptr) {  // row c of W is the image of the c-th unit vector
    const c10::NoGradGuard no_grad;
    BFLOW_ASSIGN_OR_RETURN(at::Tensor w, Require(file, "derived.W"));
    const at::Tensor identity = at::eye(channels, mode.dtype).unsqueeze(0);
    comparisons.push_back({"derived.W", layer->Forward(identity).value[0], std::move(w)});
  }
  return CompareMap(file, MapOf(layer), mode.dtype, comparisons);
}

absl::Status RunCoupling(const SafetensorsFile& file, const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const TensorMap tensors, CouplingTensors(file, "w."));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x64, Require(file, "in.x"));
  if (x64.dim() != 3) return absl::InvalidArgumentError("in.x: [B, T, C] is expected");
  const int64_t channels = x64.size(2);
  AffineCouplingSpec spec;
  spec.hidden = static_cast<int>(tensors.at("scale_net.0.bias").numel());
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(spec, StepShape(channels), tensors, mode));
  const c10::NoGradGuard no_grad;
  const at::Tensor x = x64.to(mode.dtype);
  if (file.Find("mid.log_s") != nullptr) {  // every time step as a row: its log-det is sum_c log_s
    BFLOW_ASSIGN_OR_RETURN(const at::Tensor log_s, Require(file, "mid.log_s"));
    const at::Tensor rows = x.reshape({x.size(0) * x.size(1), 1, channels});
    comparisons.push_back(
        {"mid.log_s", layer->Forward(rows).log_det.reshape({x.size(0), x.size(1)}), log_s.sum(2)});
  }
  if (file.Find("mid.t") != nullptr) {  // with z2 = 0 the output is the shift
    BFLOW_ASSIGN_OR_RETURN(at::Tensor t, Require(file, "mid.t"));
    const at::Tensor halved = x.clone();
    halved.narrow(2, channels / 2, channels / 2).zero_();
    comparisons.push_back({"mid.t",
                           layer->Forward(halved).value.narrow(2, channels / 2, channels / 2),
                           std::move(t)});
  }
  return CompareMap(file, MapOf(layer), mode.dtype, comparisons);
}

absl::Status RunSqueeze(const SafetensorsFile& file, const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor y, Require(file, "out.y"));
  if (x.dim() != 3 || y.dim() != 3 || y.size(1) == 0 || x.size(1) % y.size(1) != 0) {
    return absl::InvalidArgumentError("in.x, out.y: [B, T, C] and [B, T / n, n C] are expected");
  }
  const int64_t factor = x.size(1) / y.size(1);
  const auto zeros = [](const at::Tensor& v) { return v.new_zeros({v.size(0)}); };
  const Map map = {[&](const at::Tensor& v) {
                     return Transformed{Squeeze(v, factor), zeros(v)};
                   },
                   [&](const at::Tensor& v) {
                     return Transformed{Unsqueeze(v, factor), zeros(v)};
                   }};
  return CompareMap(file, map, mode.dtype, comparisons);
}

absl::Status RunLatents(const GoldenCase& golden, const SafetensorsFile& file, const Mode& mode,
                        Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const int64_t levels, IntField(golden.config, "levels"));
  if (x.dim() != 3 || levels < 1 || levels > 32) {
    return absl::InvalidArgumentError("in.x or config.levels: out of range");
  }
  return CompareLatents(file, EmptySpec({x.size(1), x.size(2)}, levels), mode, comparisons);
}

absl::Status RunWaveformFlow(const GoldenCase& golden, const SafetensorsFile& file,
                             const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const WaveformFlow theirs, ReadWaveformFlow(file, golden.config));
  BFLOW_ASSIGN_OR_RETURN(const auto flow, LoadFlow(theirs.spec, theirs.tensors, mode));
  std::map<std::string, at::Tensor> trace;
  const LayerObserver observer = [&](size_t l, size_t j, size_t k, const Transformed& y) {
    const std::string name = absl::StrCat("trace.", theirs.trace_names[l][j][k]);
    trace[name + ".y"] = y.value;
    trace[name + ".logdet"] = y.log_det;
  };
  const Map map = {[&](const at::Tensor& x) {
                     const Encoded e = flow->Encode(x, observer);
                     return Transformed{e.latent, e.log_det};
                   },
                   MapOf(flow).inverse};
  BFLOW_RETURN_IF_ERROR(CompareMap(file, map, mode.dtype, comparisons));
  for (const auto& [name, value] : trace) {
    if (file.Find(name) == nullptr) continue;
    BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, name));
    comparisons.push_back({name, value, std::move(expected)});
  }
  return absl::OkStatus();
}

template <typename F>
Runner WithoutConfig(F run) {
  return [run](const GoldenCase&, const SafetensorsFile& file, const Mode& mode,
               Comparisons& comparisons) { return run(file, mode, comparisons); };
}

}  // namespace

std::map<std::string, Runner> WaveformRunners() {
  return {
      {"butterfly_factor", RunButterfly},        {"butterfly_layer", RunButterfly},
      {"butterfly_partition", RunButterfly},     {"actnorm1d", WithoutConfig(RunActNorm)},
      {"lu_matmul", WithoutConfig(RunLuMatmul)}, {"coupling1d", WithoutConfig(RunCoupling)},
      {"squeeze1d", WithoutConfig(RunSqueeze)},  {"latents1d", RunLatents},
      {"waveform_flow", RunWaveformFlow},
  };
}

}  // namespace bflow::golden
