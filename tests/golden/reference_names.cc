#include "tests/golden/reference_names.h"

#include <bit>
#include <utility>

#include "ATen/ops/argmax.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/flow/materialize.h"

namespace bflow::golden {
namespace {

// P (a matrix) -> permutation (P[i, permutation[i]] = 1).
absl::StatusOr<at::Tensor> PermutationOf(const at::Tensor& matrix, const std::string& name) {
  if (matrix.dim() != 2 || matrix.size(0) != matrix.size(1)) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": a square matrix is expected"));
  }
  const at::Tensor permutation = matrix.argmax(1);
  at::Tensor rebuilt = at::zeros(matrix.sizes(), matrix.options());
  rebuilt.scatter_(1, permutation.unsqueeze(1), 1.0);
  if (!rebuilt.equal(matrix) || !matrix.sum(0).eq(1).all().item<bool>()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not a permutation matrix"));
  }
  return permutation;
}

absl::Status AddLinear(const SafetensorsFile& file, const std::string& theirs,
                       const std::string& ours, TensorMap& tensors) {
  for (const char* part : {".weight", ".bias"}) {
    BFLOW_ASSIGN_OR_RETURN(tensors[absl::StrCat(ours, part)],
                           Require(file, absl::StrCat(theirs, part)));
  }
  return absl::OkStatus();
}

}  // namespace

void Merge(TensorMap tensors, const std::string& prefix, TensorMap& to) {
  for (auto& [name, tensor] : tensors) to[absl::StrCat(prefix, name)] = tensor;
}

absl::StatusOr<at::Tensor> Require(const SafetensorsFile& file, std::string_view name) {
  const TensorView* view = file.Find(name);
  if (view == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": the tensor is missing"));
  }
  const at::Tensor tensor = ToTensor(*view);
  return view->dtype == DType::kI64 ? tensor : tensor.to(at::kDouble);
}

absl::StatusOr<TensorMap> ActNormTensors(const SafetensorsFile& file, const std::string& prefix,
                                         const std::string& scale) {
  TensorMap tensors;
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor weight, Require(file, prefix + scale));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor bias, Require(file, prefix + "bias"));
  tensors["log_scale"] = weight.flatten();
  tensors["bias"] = bias.flatten();
  return tensors;
}

absl::StatusOr<TensorMap> LuMatmulTensors(const SafetensorsFile& file, const std::string& prefix,
                                          const std::string& fixed_prefix) {
  TensorMap tensors;
  BFLOW_ASSIGN_OR_RETURN(tensors["lower"], Require(file, prefix + "L"));
  BFLOW_ASSIGN_OR_RETURN(tensors["upper"], Require(file, prefix + "U"));
  BFLOW_ASSIGN_OR_RETURN(tensors["log_diagonal"], Require(file, prefix + "log_S"));
  BFLOW_ASSIGN_OR_RETURN(tensors["diagonal_sign"], Require(file, fixed_prefix + "sign_S"));
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor p, Require(file, fixed_prefix + "P"));
  BFLOW_ASSIGN_OR_RETURN(tensors["permutation"], PermutationOf(p, fixed_prefix + "P"));
  return tensors;
}

absl::StatusOr<TensorMap> CouplingTensors(const SafetensorsFile& file, const std::string& prefix) {
  TensorMap tensors;
  for (int n = 0; n < 3; ++n) {  // theirs counts the activations as well: 0, 2, 4
    BFLOW_RETURN_IF_ERROR(AddLinear(file, absl::StrCat(prefix, "scale_net.", 2 * n),
                                    absl::StrCat("scale_net.", n), tensors));
    BFLOW_RETURN_IF_ERROR(AddLinear(file, absl::StrCat(prefix, "translate_net.", 2 * n),
                                    absl::StrCat("shift_net.", n), tensors));
  }
  return tensors;
}

absl::StatusOr<std::vector<at::Tensor>> Factors(const SafetensorsFile& file,
                                                const std::string& prefix) {
  std::vector<at::Tensor> factors;
  for (;;) {
    const std::string name = absl::StrCat(prefix, factors.size(), ".w1");
    if (file.Find(name) == nullptr) return factors;
    BFLOW_ASSIGN_OR_RETURN(factors.emplace_back(), Require(file, name));
  }
}

absl::StatusOr<ButterflyPart> PartOf(const std::vector<at::Tensor>& factors, int64_t size) {
  ButterflyPart part{size, {}};
  for (const at::Tensor& w : factors) {
    const bool shaped = w.dim() == 4 && w.size(1) == 2 && w.size(3) == 2 && w.size(0) > 0 &&
                        std::has_single_bit(static_cast<uint64_t>(w.size(0)));
    if (!shaped || size % (2 * w.size(0)) != 0 ||
        (w.size(2) != 1 && w.size(2) != size / (2 * w.size(0)))) {
      return absl::InvalidArgumentError(
          absl::StrCat("w1: factor ", part.levels.size(), " does not fit ", size, " values"));
    }
    part.levels.push_back(std::bit_width(static_cast<uint64_t>(w.size(0))) - 1);
  }
  return part;
}

bool AreShared(const std::vector<at::Tensor>& factors) {
  for (const at::Tensor& w : factors) {
    if (w.size(2) != 1) return false;
  }
  return true;
}

absl::StatusOr<int64_t> IntField(const Json& config, const char* field) {
  if (!config.contains(field) || !config[field].is_number_integer()) {
    return absl::InvalidArgumentError(absl::StrCat("config.", field, ": an integer is expected"));
  }
  return config[field].get<int64_t>();
}

absl::StatusOr<bool> BoolField(const Json& config, const char* field, bool fallback) {
  if (!config.contains(field)) return fallback;
  if (!config[field].is_boolean()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.", field, ": true or false is expected"));
  }
  return config[field].get<bool>();
}

FlowSpec EmptySpec(const std::vector<int64_t>& event_shape, int64_t levels) {
  FlowSpec spec;
  spec.event_shape = event_shape;
  if (event_shape.size() == 3) {
    spec.architecture = "image";
  } else {
    spec.sampling_rate_hz = 1;
  }
  spec.sensitivity = Sensitivity::kNone;
  spec.dequantization = SpecDequantization::kNone;
  for (int64_t c = 0; c < spec.channel_count(); ++c) {
    ChannelSpec& channel = spec.channels.emplace_back();
    channel.name = absl::StrCat("channel", c);
    channel.unit = "NU";
    channel.input_min = -1;
    channel.input_max = 1;
  }
  for (int64_t l = 0; l < levels; ++l) {
    LevelSpec& level = spec.levels.emplace_back();
    level.squeeze = 2;
    level.split = l + 1 < levels;
  }
  return spec;
}

absl::StatusOr<WaveformFlow> ReadWaveformFlow(const SafetensorsFile& file, const Json& config) {
  BFLOW_ASSIGN_OR_RETURN(const at::Tensor x, Require(file, "in.x"));
  BFLOW_ASSIGN_OR_RETURN(const int64_t levels, IntField(config, "levels"));
  BFLOW_ASSIGN_OR_RETURN(const int64_t blocks, IntField(config, "blocks"));
  BFLOW_ASSIGN_OR_RETURN(const bool widest_first, BoolField(config, "reverse_perm", true));
  BFLOW_ASSIGN_OR_RETURN(const bool bi_direction, BoolField(config, "bi_direction", false));
  if (x.dim() != 3 || levels < 1 || levels > 32 || blocks < 1 || blocks > 1024) {
    return absl::InvalidArgumentError("in.x, config.levels or config.blocks: out of range");
  }
  WaveformFlow flow;
  flow.spec = EmptySpec({x.size(1), x.size(2)}, levels);
  for (int64_t l = 0; l < levels; ++l) {
    std::vector<std::vector<std::string>>& level_names = flow.trace_names.emplace_back();
    for (int64_t j = 0; j < blocks; ++j) {
      std::vector<LayerSpec>& block = flow.spec.levels[l].blocks.emplace_back();
      std::vector<std::string>& names = level_names.emplace_back();
      const auto theirs = [&](const char* layer) {
        names.push_back(absl::StrCat(layer, "_", l, "_", j));
        return absl::StrCat("target_flow.blocks.", l, ".", names.back(), ".");
      };
      const auto ours = [&]() {
        return absl::StrCat("levels.", l, ".blocks.", j, ".", block.size() - 1, ".");
      };

      block.push_back(ActNormSpec{});
      BFLOW_ASSIGN_OR_RETURN(TensorMap tensors,
                             ActNormTensors(file, "sd." + theirs("bn_flow"), "weight"));
      Merge(std::move(tensors), ours(), flow.tensors);

      block.push_back(LuMatmulSpec{});
      const std::string lu = theirs("luinvmm");
      BFLOW_ASSIGN_OR_RETURN(tensors, LuMatmulTensors(file, "sd." + lu, "extra." + lu));
      Merge(std::move(tensors), ours(), flow.tensors);

      BFLOW_ASSIGN_OR_RETURN(const std::vector<at::Tensor> factors,
                             Factors(file, absl::StrCat("sd.", theirs("butterfly"), "model.")));
      if (factors.empty()) {
        names.pop_back();  // no factors: the authors' identity, which we leave out
      } else {
        ButterflySpec butterfly;
        butterfly.factors = static_cast<int>(factors.size()) / (bi_direction ? 2 : 1);
        butterfly.shared = AreShared(factors);
        butterfly.order =
            widest_first ? ButterflyOrder::kWidestFirst : ButterflyOrder::kNarrowestFirst;
        butterfly.bi_direction = bi_direction;
        block.push_back(butterfly);
        for (size_t f = 0; f < factors.size(); ++f) {
          flow.tensors[absl::StrCat(ours(), "factors.", f)] = factors[f];
        }
      }

      const std::string coupling = "sd." + theirs("coupling");
      BFLOW_ASSIGN_OR_RETURN(tensors, CouplingTensors(file, coupling));
      AffineCouplingSpec coupling_spec;
      coupling_spec.hidden = static_cast<int>(tensors["scale_net.0.bias"].numel());
      block.push_back(coupling_spec);
      Merge(std::move(tensors), ours(), flow.tensors);
    }
  }
  return flow;
}

}  // namespace bflow::golden
