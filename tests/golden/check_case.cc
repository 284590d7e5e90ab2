#include "tests/golden/check_case.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/Parallel.h"
#include "ATen/ops/eye.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/flow/flow.h"
#include "model/flow/materialize.h"
#include "model/layers/squeeze.h"
#include "tests/golden/plain_layers.h"
#include "tests/golden/reference_names.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow::golden {
namespace {

// One of the ways a case is evaluated.
struct Mode {
  at::ScalarType dtype;
  bool plain;   // plain ATen layers instead of ours
  bool frozen;  // after Freeze()
};

// A value of ours beside the float64 value it should have.
struct Comparison {
  std::string name;
  at::Tensor got;
  at::Tensor expected;
};
using Comparisons = std::vector<Comparison>;

// What a case calls y or z, evaluated both ways.
struct Map {
  std::function<Transformed(const at::Tensor&)> forward;
  std::function<Transformed(const at::Tensor&)> inverse;
};

double RelativeError(const Comparison& c) {
  if (c.got.sizes() != c.expected.sizes()) return std::numeric_limits<double>::infinity();
  if (c.got.numel() == 0) return 0;
  const at::Tensor got = c.got.detach().to(at::kDouble);
  const at::Tensor expected = c.expected.to(at::kDouble);
  const at::Tensor error = (got - expected).abs() / expected.abs().clamp_min(1.0);
  if (!error.isfinite().all().item<bool>()) return std::numeric_limits<double>::infinity();
  return error.max().item<double>();
}

// Everything that a map from in.x to out.y (or out.z) tells, as far as the case holds it.
absl::Status CompareMap(const SafetensorsFile& file, const Map& map, at::ScalarType dtype,
                        Comparisons& comparisons) {
  const std::string output = file.Find("out.z") != nullptr ? "z" : "y";
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x64, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor y64, Require(file, "out." + output));
  const bool wants_gradient = file.Find("out.grad_x") != nullptr;
  const c10::AutoGradMode grad_mode(wants_gradient);
  const at::Tensor x = x64.to(dtype, /*non_blocking=*/false, /*copy=*/true);
  x.requires_grad_(wants_gradient);
  const Transformed y = map.forward(x);
  const at::Tensor log_p = Flow::BaseLogProb(y.value) + y.log_det;
  std::map<std::string, at::Tensor> values = {
      {"out." + output, y.value}, {"out.logdet", y.log_det}, {"out.logp", log_p}};
  if (wants_gradient) {
    values["out.grad_x"] = torch::autograd::grad({log_p.sum()}, {x})[0];
  }
  const c10::NoGradGuard no_grad;
  const Transformed back = map.inverse(y64.to(dtype));
  values["out.inverse_of_" + output] = back.value;
  for (const auto& [name, value] : values) {
    if (file.Find(name) == nullptr) continue;
    BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, name));
    if (name == "out.logdet") {
      comparisons.push_back({"log-determinant of the inverse", -back.log_det, expected});
    }
    comparisons.push_back({name, value, std::move(expected)});
  }
  if (file.Find("in.z") == nullptr) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor z64, Require(file, "in.z"));
  const Transformed decoded = map.inverse(z64.to(dtype));
  BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, "out.decoded"));
  comparisons.push_back({"out.decoded", decoded.value, std::move(expected)});
  if (file.Find("out.decoded_logp") == nullptr) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(expected, Require(file, "out.decoded_logp"));
  comparisons.push_back({"out.decoded_logp", Flow::BaseLogProb(z64.to(dtype)) - decoded.log_det,
                         std::move(expected)});
  return absl::OkStatus();
}

// Copies `tensors` over the parameters and buffers of a layer; the names must be exactly its own.
absl::Status SetTensors(Bijector& layer, const TensorMap& tensors) {
  const c10::NoGradGuard no_grad;
  size_t set = 0;
  for (const auto& named : {layer.named_parameters(), layer.named_buffers()}) {
    for (const auto& item : named) {
      const auto found = tensors.find(item.key());
      if (found == tensors.end()) {
        return absl::InvalidArgumentError(absl::StrCat(item.key(), ": the tensor is missing"));
      }
      if (found->second.sizes() != item.value().sizes()) {
        return absl::InvalidArgumentError(absl::StrCat(item.key(), ": unexpected shape"));
      }
      at::Tensor target = item.value();
      target.copy_(found->second);
      ++set;
    }
  }
  if (set != tensors.size()) return absl::InvalidArgumentError("more weights than the layer has");
  return absl::OkStatus();
}

Map MapOf(std::shared_ptr<Bijector> layer) {
  return {[layer](const at::Tensor& x) { return layer->Forward(x); },
          [layer](const at::Tensor& z) { return layer->Inverse(z); }};
}

at::Generator AnyGenerator() { return at::make_generator<at::CPUGeneratorImpl>(uint64_t{0}); }

absl::StatusOr<std::shared_ptr<Bijector>> MakeLayer(const LayerSpec& spec, int64_t channels,
                                                    const TensorMap& tensors, const Mode& mode) {
  const LayerRegistry& registry = mode.plain ? PlainLayers() : BuiltInLayers();
  at::Generator generator = AnyGenerator();
  std::shared_ptr<Bijector> layer = registry.at(std::string(LayerKind(spec)))(
      spec, LevelShape{1, channels}, generator, mode.dtype);
  BFLOW_RETURN_IF_ERROR(SetTensors(*layer, tensors));
  if (mode.frozen) layer->Freeze();
  return layer;
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
  BFLOW_ASSIGN_OR_RETURN(const TensorMap tensors, ActNormTensors(file, "w."));
  const int64_t channels = tensors.at("bias").numel();
  BFLOW_ASSIGN_OR_RETURN(auto layer, MakeLayer(ActNormSpec{}, channels, tensors, mode));
  BFLOW_RETURN_IF_ERROR(CompareMap(file, MapOf(layer), mode.dtype, comparisons));
  if (mode.frozen || file.Find("init.x") == nullptr) return absl::OkStatus();

  TensorMap before;
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor weight, Require(file, "init.weight_before"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor bias, Require(file, "init.bias_before"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "init.x"));
  before["log_scale"] = weight.flatten();
  before["bias"] = bias.flatten();
  BFLOW_ASSIGN_OR_RETURN(layer, MakeLayer(ActNormSpec{}, channels, before, mode));
  const c10::NoGradGuard no_grad;
  layer->InitialiseFrom(x.to(mode.dtype));
  const auto after = layer->named_parameters();
  comparisons.push_back(
      {"w.weight after initialisation", after["log_scale"], tensors.at("log_scale")});
  comparisons.push_back({"w.bias after initialisation", after["bias"], tensors.at("bias")});
  if (file.Find("init.y") == nullptr) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(at::Tensor y, Require(file, "init.y"));
  comparisons.push_back({"init.y", layer->Forward(x.to(mode.dtype)).value, std::move(y)});
  return absl::OkStatus();
}

absl::Status RunLuMatmul(const SafetensorsFile& file, const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const TensorMap tensors, LuMatmulTensors(file, "w.", "w."));
  const int64_t channels = tensors.at("log_diagonal").numel();
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(LuMatmulSpec{}, channels, tensors, mode));
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
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(spec, channels, tensors, mode));
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

// The bookkeeping of the multi-scale chain: a flow whose layers are all the identity.
absl::Status RunLatents(const GoldenCase& golden, const SafetensorsFile& file, const Mode& mode,
                        Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const int64_t levels, IntField(golden.config, "levels"));
  if (x.dim() != 3 || levels < 1 || levels > 32) {
    return absl::InvalidArgumentError("in.x or config.levels: out of range");
  }
  FlowSpec spec = EmptySpec(x.size(1), x.size(2), levels);
  for (LevelSpec& level : spec.levels) level.blocks = {{ActNormSpec{}}};
  BFLOW_ASSIGN_OR_RETURN(const auto flow, Flow::Create(spec, /*seed=*/0, mode.dtype));
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : flow->NamedTensors()) tensor.zero_();
  const Encoded encoded = flow->Encode(x.to(mode.dtype));
  for (int64_t l = 0; l < levels; ++l) {
    const std::string name = absl::StrCat("out.latent_level", l);
    BFLOW_ASSIGN_OR_RETURN(const at::Tensor latents, Require(file, name));
    comparisons.push_back({name, encoded.level_latents[l], latents.flatten(1)});
  }
  const Map map = {[&](const at::Tensor& v) {
                     const Encoded e = flow->Encode(v);
                     return Transformed{e.latent, e.log_det};
                   },
                   [&](const at::Tensor& z) { return flow->Decode(z); }};
  return CompareMap(file, map, mode.dtype, comparisons);
}

// Through a model file of ours, as a server would get it.
absl::StatusOr<std::shared_ptr<Flow>> LoadFlow(const WaveformFlow& golden, const Mode& mode) {
  std::vector<at::Tensor> contiguous;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : golden.tensors) {
    tensors.push_back(ToWritable(name, contiguous.emplace_back(tensor.contiguous())));
  }
  BFLOW_ASSIGN_OR_RETURN(std::string bytes, SerializeSafetensors(tensors, {}));
  BFLOW_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Parse(std::move(bytes)));
  BFLOW_ASSIGN_OR_RETURN(auto flow, Flow::Load(golden.spec, file, mode.dtype,
                                               mode.plain ? PlainLayers() : BuiltInLayers()));
  if (mode.frozen) flow->Freeze();
  return flow;
}

absl::Status RunWaveformFlow(const GoldenCase& golden, const SafetensorsFile& file,
                             const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const WaveformFlow theirs, ReadWaveformFlow(file, golden.config));
  BFLOW_ASSIGN_OR_RETURN(const auto flow, LoadFlow(theirs, mode));
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
                   [&](const at::Tensor& z) { return flow->Decode(z); }};
  BFLOW_RETURN_IF_ERROR(CompareMap(file, map, mode.dtype, comparisons));
  for (const auto& [name, value] : trace) {
    if (file.Find(name) == nullptr) continue;
    BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, name));
    comparisons.push_back({name, value, std::move(expected)});
  }
  return absl::OkStatus();
}

using Runner = std::function<absl::Status(const GoldenCase&, const SafetensorsFile&, const Mode&,
                                          Comparisons&)>;

template <typename F>
Runner WithoutConfig(F run) {
  return [run](const GoldenCase&, const SafetensorsFile& file, const Mode& mode,
               Comparisons& comparisons) { return run(file, mode, comparisons); };
}

const std::map<std::string, Runner>& Runners() {
  static const auto* const kRunners = new std::map<std::string, Runner>{
      {"butterfly_factor", RunButterfly},        {"butterfly_layer", RunButterfly},
      {"butterfly_partition", RunButterfly},     {"actnorm1d", WithoutConfig(RunActNorm)},
      {"lu_matmul", WithoutConfig(RunLuMatmul)}, {"coupling1d", WithoutConfig(RunCoupling)},
      {"squeeze1d", WithoutConfig(RunSqueeze)},  {"latents1d", RunLatents},
      {"waveform_flow", RunWaveformFlow},
  };
  return *kRunners;
}

absl::StatusOr<CaseReport> RunCase(const GoldenCase& golden, const SafetensorsFile& file) {
  const Runner& run = Runners().at(golden.kind);
  std::map<std::string, double> plain_errors;
  Comparisons plain;
  BFLOW_RETURN_IF_ERROR(run(golden, file, {at::kFloat, /*plain=*/true, /*frozen=*/false}, plain));
  for (const Comparison& c : plain) plain_errors[c.name] = RelativeError(c);

  CaseReport report;
  report.passed = true;
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const bool is_double = dtype == at::kDouble;
    double& worst = is_double ? report.float64_error : report.float32_error;
    for (const bool frozen : {false, true}) {
      Comparisons comparisons;
      BFLOW_RETURN_IF_ERROR(run(golden, file, {dtype, /*plain=*/false, frozen}, comparisons));
      if (comparisons.empty()) return absl::InvalidArgumentError("the case holds no result");
      for (const Comparison& c : comparisons) {
        const double error = RelativeError(c);
        const double tolerance = is_double ? 1e-9 : 2 * std::max(plain_errors[c.name], 1e-6);
        worst = std::max(worst, error);
        if (error <= tolerance) continue;
        report.passed = false;
        absl::StrAppend(&report.failures, report.failures.empty() ? "" : ", ", c.name,
                        is_double ? " (float64)" : " (float32)");
      }
    }
  }
  return report;
}

}  // namespace

bool IsSupportedKind(const std::string& kind) { return Runners().count(kind) > 0; }

absl::StatusOr<CaseReport> CheckCase(const GoldenCase& golden, const SafetensorsFile& file) {
  at::set_num_threads(1);  // cases are small: threads would only wait for each other
  try {
    return RunCase(golden, file);
  } catch (const std::exception& e) {  // shapes that do not fit each other, or a JSON type
    const std::string text = e.what();
    return absl::InvalidArgumentError(text.substr(0, text.find('\n')));
  }
}

}  // namespace bflow::golden
