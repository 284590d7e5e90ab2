// Runners of everything on images [B, C, H, W].
#include "tests/golden/image_cases.h"

#include <cmath>
#include <memory>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "ATen/ops/empty.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "c10/core/GradMode.h"
#include "model/data/scaling.h"
#include "model/layers/squeeze.h"

namespace bflow::golden {
namespace {

absl::StatusOr<LevelShape> ImageShape(const SafetensorsFile& file) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  if (x.dim() != 4) return absl::InvalidArgumentError("in.x: [B, C, H, W] is expected");
  return LevelShape{x.size(1), x.size(2), x.size(3), /*is_image=*/true};
}

absl::Status RunButterflyImage(const GoldenCase& golden, const SafetensorsFile& file,
                               const Mode& mode, Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  BFLOW_ASSIGN_OR_RETURN(const std::vector<at::Tensor> factors, Factors(file, "w.model."));
  BFLOW_ASSIGN_OR_RETURN(const bool widest_first, BoolField(golden.config, "reverse_perm", true));
  BFLOW_ASSIGN_OR_RETURN(const bool hwc, BoolField(golden.config, "permute_channel", false));
  ButterflySpec spec;
  spec.factors = static_cast<int>(factors.size());
  spec.shared = AreShared(factors);
  spec.order = widest_first ? ButterflyOrder::kWidestFirst : ButterflyOrder::kNarrowestFirst;
  spec.flatten = hwc ? ImageFlattening::kHwc : ImageFlattening::kChw;
  TensorMap tensors;
  for (size_t f = 0; f < factors.size(); ++f) tensors[absl::StrCat("factors.", f)] = factors[f];
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(spec, shape, tensors, mode));
  return CompareMap(file, MapOf(layer), mode.dtype, comparisons);
}

absl::Status RunActNorm(const GoldenCase&, const SafetensorsFile& file, const Mode& mode,
                        Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  BFLOW_ASSIGN_OR_RETURN(const TensorMap tensors, ActNormTensors(file, "w.", "log_scale"));
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(ActNormSpec{}, shape, tensors, mode));
  BFLOW_RETURN_IF_ERROR(CompareMap(file, MapOf(layer), mode.dtype, comparisons));
  if (mode.frozen || file.Find("init.x") == nullptr) return absl::OkStatus();
  TensorMap before;
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor log_scale, Require(file, "init.log_scale_before"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor bias, Require(file, "init.bias_before"));
  before["log_scale"] = log_scale.flatten();
  before["bias"] = bias.flatten();
  return CompareInitialisation(file, ActNormSpec{}, shape, before, tensors, mode, comparisons);
}

absl::Status RunConv1x1(const GoldenCase&, const SafetensorsFile& file, const Mode& mode,
                        Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  TensorMap tensors;
  BFLOW_ASSIGN_OR_RETURN(tensors["weight"], Require(file, "w.weight"));
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(Conv1x1Spec{}, shape, tensors, mode));
  return CompareMap(file, MapOf(layer), mode.dtype, comparisons);
}

absl::Status RunCoupling(const GoldenCase&, const SafetensorsFile& file, const Mode& mode,
                         Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  BFLOW_ASSIGN_OR_RETURN(const TensorMap tensors, ConvolutionTensors(file, "w.net."));
  Conv2dCouplingSpec spec;
  spec.hidden = static_cast<int>(tensors.at("net.0.bias").numel());
  BFLOW_ASSIGN_OR_RETURN(const auto layer, MakeLayer(spec, shape, tensors, mode));
  BFLOW_RETURN_IF_ERROR(CompareMap(file, MapOf(layer), mode.dtype, comparisons));
  if (mode.frozen || file.Find("init.x") == nullptr) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(const TensorMap before, ConvolutionTensors(file, "init."));
  BFLOW_ASSIGN_OR_RETURN(const TensorMap after, ConvolutionTensors(file, "after_init."));
  return CompareInitialisation(file, spec, shape, before, after, mode, comparisons);
}

absl::Status RunSqueeze(const GoldenCase&, const SafetensorsFile& file, const Mode& mode,
                        Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor y, Require(file, "out.y"));
  if (y.dim() != 4 || y.size(2) == 0 || shape.height % y.size(2) != 0) {
    return absl::InvalidArgumentError("out.y: [B, n^2 C, H / n, W / n] is expected");
  }
  const int64_t factor = shape.height / y.size(2);
  const auto zeros = [](const at::Tensor& v) { return v.new_zeros({v.size(0)}); };
  const Map map = {[&](const at::Tensor& v) {
                     return Transformed{Squeeze2d(v, factor), zeros(v)};
                   },
                   [&](const at::Tensor& v) {
                     return Transformed{Unsqueeze2d(v, factor), zeros(v)};
                   }};
  return CompareMap(file, map, mode.dtype, comparisons);
}

absl::Status RunLatents(const GoldenCase& golden, const SafetensorsFile& file, const Mode& mode,
                        Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  BFLOW_ASSIGN_OR_RETURN(const int64_t levels, IntField(golden.config, "levels"));
  if (levels < 1 || levels > 16) return absl::InvalidArgumentError("config.levels: out of range");
  return CompareLatents(file, EmptySpec({shape.channels, shape.height, shape.width}, levels), mode,
                        comparisons);
}

absl::Status RunStep(const GoldenCase& golden, const SafetensorsFile& file, const Mode& mode,
                     Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  const std::string coupling = golden.kind == "prior_step" ? "nice" : "coupling";
  BFLOW_ASSIGN_OR_RETURN(ImageStep step, ReadImageStep(file, "w.", coupling, golden.config));
  // One level without a squeeze, and of one step.
  FlowSpec spec = EmptySpec({shape.channels, shape.height, shape.width}, 1);
  spec.levels[0].squeeze = 1;
  spec.levels[0].blocks = {std::move(step.layers)};
  TensorMap tensors;
  Merge(std::move(step.tensors), "levels.0.blocks.0.", tensors);
  BFLOW_ASSIGN_OR_RETURN(const auto flow, LoadFlow(spec, tensors, mode));
  return CompareMap(file, MapOf(flow), mode.dtype, comparisons);
}

// A channel of 8-bit pixels of which `bits` are kept.
FlowSpec PixelSpec(const LevelShape& shape, int64_t bits) {
  FlowSpec spec = EmptySpec({shape.channels, shape.height, shape.width}, 1);
  spec.dequantization = SpecDequantization::kUniform;
  for (ChannelSpec& channel : spec.channels) {
    channel.input_min = 0;
    channel.input_max = 255;
    channel.lo = 0;
    channel.hi = 256;
    channel.step = static_cast<double>(int64_t{1} << (8 - bits));
  }
  return spec;
}

// Pixels of [B, C, H, W] that became values of the flow, or the other way round.
template <typename Convert>
at::Tensor EachImage(const at::Tensor& images, Convert convert) {
  const at::Tensor in = images.to(at::kFloat).contiguous();
  at::Tensor out = at::empty(in.sizes(), at::kFloat);
  const size_t size = static_cast<size_t>(in[0].numel());
  for (int64_t b = 0; b < in.size(0); ++b) {
    convert(std::span(in.const_data_ptr<float>() + b * in[0].numel(), size),
            std::span(out.mutable_data_ptr<float>() + b * in[0].numel(), size));
  }
  return out;
}

// Our scaling takes its noise from a seed: 2 (v + u) / n - 1 is its value at u = 1/2 plus 2 (u -
// 1/2) / n. It computes in float64 and rounds to float32, so it is compared in the float32 pass
// alone.
absl::Status CompareScaling(const SafetensorsFile& file, const LevelShape& shape,
                            Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor v, Require(file, "in.v"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor u, Require(file, "in.u"));
  for (const auto& [name, bits] : {std::pair("out.x", 8), std::pair("out.x_5bit", 5)}) {
    const FlowSpec spec = PixelSpec(shape, bits);
    BFLOW_ASSIGN_OR_RETURN(at::Tensor expected, Require(file, name));
    const at::Tensor x = EachImage(v, [&](std::span<const float> in, std::span<float> out) {
      ScaleEvent(spec, in, CodeNoise::kCenter, 0, 0, 0, out);
    });
    const double noise = 2.0 / static_cast<double>(int64_t{1} << bits);
    comparisons.push_back({name, x.to(at::kDouble) + noise * (u - 0.5), std::move(expected)});
  }
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "out.x"));
  BFLOW_ASSIGN_OR_RETURN(at::Tensor back, Require(file, "out.v_back"));
  const FlowSpec spec = PixelSpec(shape, 8);
  const at::Tensor codes = EachImage(
      x, [&](std::span<const float> in, std::span<float> out) { CodesFromScaled(spec, in, out); });
  comparisons.push_back({"out.v_back", codes, std::move(back)});
  return absl::OkStatus();
}

absl::Status RunPreprocess(const GoldenCase&, const SafetensorsFile& file, const Mode& mode,
                           Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor v, Require(file, "in.v"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "out.x"));
  if (v.dim() != 4) return absl::InvalidArgumentError("in.v: [B, C, H, W] is expected");
  const LevelShape shape{v.size(1), v.size(2), v.size(3), /*is_image=*/true};
  if (mode.dtype == at::kFloat) {
    BFLOW_RETURN_IF_ERROR(CompareScaling(file, shape, comparisons));
  }
  const c10::NoGradGuard no_grad;
  TensorMap order;
  BFLOW_ASSIGN_OR_RETURN(order["permutation"], Require(file, "in.perm"));
  BFLOW_ASSIGN_OR_RETURN(const auto permutation, MakeLayer(PermutationSpec{}, shape, order, mode));
  BFLOW_ASSIGN_OR_RETURN(at::Tensor permuted, Require(file, "out.v_permuted"));
  const at::Tensor pixels = v.to(mode.dtype);
  const at::Tensor moved = permutation->Forward(pixels).value;
  comparisons.push_back({"out.v_permuted", moved, std::move(permuted)});
  comparisons.push_back({"in.v", permutation->Inverse(moved).value, v});

  BFLOW_ASSIGN_OR_RETURN(const auto logit, MakeLayer(LogitSpec{}, shape, {}, mode));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor y, Require(file, "out.logit"));
  BFLOW_ASSIGN_OR_RETURN(at::Tensor log_det, Require(file, "out.logit_logdet"));
  BFLOW_ASSIGN_OR_RETURN(at::Tensor inverse, Require(file, "out.logit_inverse"));
  const Transformed ours = logit->Forward(x.to(mode.dtype));
  comparisons.push_back({"out.logit", ours.value, y});
  comparisons.push_back({"out.logit_logdet", ours.log_det, std::move(log_det)});
  comparisons.push_back(
      {"out.logit_inverse", logit->Inverse(y.to(mode.dtype)).value, std::move(inverse)});
  return absl::OkStatus();
}

absl::Status RunImageFlow(const GoldenCase& golden, const SafetensorsFile& file, const Mode& mode,
                          Comparisons& comparisons) {
  BFLOW_ASSIGN_OR_RETURN(const LevelShape shape, ImageShape(file));
  BFLOW_ASSIGN_OR_RETURN(const ImageFlow theirs, ReadImageFlow(file, golden.config));
  BFLOW_ASSIGN_OR_RETURN(const auto flow, LoadFlow(theirs.spec, theirs.tensors, mode));
  BFLOW_RETURN_IF_ERROR(CompareMap(file, MapOf(flow), mode.dtype, comparisons));

  // As a user meets it: pixels on both sides, the fixed permutation part of the flow.
  const c10::NoGradGuard no_grad;
  FlowSpec spec = theirs.spec;
  spec.channels = PixelSpec(shape, 8).channels;
  spec.dequantization = SpecDequantization::kUniform;
  TensorMap tensors = theirs.tensors;
  if (file.Find("extra.permutation") != nullptr) {
    TensorMap shifted;
    for (auto& [name, tensor] : theirs.tensors) {
      if (name.rfind("pre.", 0) == 0) return absl::InvalidArgumentError("pre: not expected here");
      shifted[name] = tensor;
    }
    spec.pre.insert(spec.pre.begin(), PermutationSpec{});
    BFLOW_ASSIGN_OR_RETURN(shifted["pre.0.permutation"], Require(file, "extra.permutation"));
    tensors = std::move(shifted);
  }
  BFLOW_ASSIGN_OR_RETURN(const auto whole, LoadFlow(spec, tensors, mode));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor v, Require(file, "in.v"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor u, Require(file, "in.u"));
  BFLOW_ASSIGN_OR_RETURN(at::Tensor bits, Require(file, "out.bpd"));
  // in.u is the noise of the permuted pixels: ours goes where the permutation takes it from.
  at::Tensor noise = u;
  if (tensors.contains("pre.0.permutation")) {
    noise = at::empty_like(u);
    noise.flatten(1).index_copy_(1, tensors.at("pre.0.permutation"), u.flatten(1));
  }
  const at::Tensor x = (2 * (v + noise) / 256 - 1).to(mode.dtype);
  const double size = static_cast<double>(spec.event_size());
  comparisons.push_back(
      {"out.bpd", (spec.code_unit_offset_nats() - whole->LogProb(x)) / (size * std::numbers::ln2),
       std::move(bits)});
  // A value on the edge of a pixel may fall to either side in float32.
  if (mode.dtype == at::kDouble) {
    BFLOW_ASSIGN_OR_RETURN(const at::Tensor z, Require(file, "in.z"));
    BFLOW_ASSIGN_OR_RETURN(at::Tensor pixels, Require(file, "out.decoded_u8"));
    const at::Tensor codes = EachImage(
        whole->Decode(z).value,
        [&](std::span<const float> in, std::span<float> out) { CodesFromScaled(spec, in, out); });
    comparisons.push_back({"out.decoded_u8", codes, std::move(pixels)});
  }
  return absl::OkStatus();
}

}  // namespace

std::map<std::string, Runner> ImageRunners() {
  return {
      {"butterfly_image", RunButterflyImage},
      {"actnorm2d", RunActNorm},
      {"conv1x1", RunConv1x1},
      {"coupling2d", RunCoupling},
      {"squeeze2d", RunSqueeze},
      {"latents2d", RunLatents},
      {"preprocess", RunPreprocess},
      {"glow_step", RunStep},
      {"prior_step", RunStep},
      {"image_flow", RunImageFlow},
  };
}

}  // namespace bflow::golden
