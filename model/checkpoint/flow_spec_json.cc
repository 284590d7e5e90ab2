// flow_spec as JSON: fields, defaults and their order stand in docs/checkpoint_format.md.
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/checkpoint/flow_spec.h"
#include "model/checkpoint/json_fields.h"

namespace bflow {
namespace {

constexpr size_t kMaxSpecBytes = size_t{1} << 20;
constexpr Presence kOptional = Presence::kOptional;

absl::Status Fault(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

// Reads a string field that must be one of a few words, and sets *out to the word's value.
template <typename Enum, size_t N>
void ReadWord(ObjectReader& reader, const char* key,
              const std::array<std::pair<const char*, Enum>, N>& words, Enum* out,
              Presence presence) {
  std::string text;
  for (const auto& [word, value] : words) {
    if (value == *out) text = word;  // the default
  }
  reader.Read(key, &text, presence);
  if (!reader.ok()) return;
  std::string expected;
  for (const auto& [word, value] : words) {
    if (text == word) {
      *out = value;
      return;
    }
    absl::StrAppend(&expected, expected.empty() ? "" : " or ", "\"", word, "\"");
  }
  reader.Fail(Fault(reader.Path(key), absl::StrCat("expected ", expected)));
}

template <typename Enum, size_t N>
const char* WordOf(const std::array<std::pair<const char*, Enum>, N>& words, Enum wanted) {
  for (const auto& [word, value] : words) {
    if (value == wanted) return word;
  }
  return "";
}

constexpr std::array<std::pair<const char*, Sensitivity>, 2> kSensitivityWords = {
    {{"patient", Sensitivity::kPatient}, {"none", Sensitivity::kNone}}};
constexpr std::array<std::pair<const char*, SpecDequantization>, 2> kDequantizationWords = {
    {{"uniform", SpecDequantization::kUniform}, {"none", SpecDequantization::kNone}}};
constexpr std::array<std::pair<const char*, ButterflyOrder>, 2> kOrderWords = {
    {{"widest_first", ButterflyOrder::kWidestFirst},
     {"narrowest_first", ButterflyOrder::kNarrowestFirst}}};

constexpr std::array<std::pair<const char*, ImageFlattening>, 2> kFlatteningWords = {
    {{"chw", ImageFlattening::kChw}, {"hwc", ImageFlattening::kHwc}}};
constexpr std::array<std::pair<const char*, BaseKind>, 3> kBaseWords = {
    {{"normal", BaseKind::kNormal},
     {"student_t", BaseKind::kStudentT},
     {"logistic", BaseKind::kLogistic}}};

absl::StatusOr<ChannelSpec> ReadChannel(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  ChannelSpec channel;
  reader.Read("name", &channel.name);
  reader.Read("unit", &channel.unit, kOptional);
  reader.Read("gain", &channel.gain, kOptional);
  reader.Read("baseline", &channel.baseline, kOptional);
  reader.Read("step", &channel.step, kOptional);
  reader.Read("input_min", &channel.input_min);
  reader.Read("input_max", &channel.input_max);
  reader.Read("lo", &channel.lo);
  reader.Read("hi", &channel.hi);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  return channel;
}

void ReadButterfly(ObjectReader& reader, ButterflySpec* butterfly) {
  reader.Read("partitions", &butterfly->partitions, kOptional);
  reader.Read("factors", &butterfly->factors,
              butterfly->partitions.empty() ? Presence::kRequired : kOptional);
  reader.Read("shared", &butterfly->shared, kOptional);
  ReadWord(reader, "order", kOrderWords, &butterfly->order, kOptional);
  reader.Read("bi_direction", &butterfly->bi_direction, kOptional);
  ReadWord(reader, "flatten", kFlatteningWords, &butterfly->flatten, kOptional);
  reader.Read("partition_factors", &butterfly->partition_factors, kOptional);
  reader.Read("rotate", &butterfly->rotate, kOptional);
}

template <typename Spec>
Spec* Become(LayerSpec* layer) {
  return &layer->emplace<Spec>();
}

// Reads the fields of a layer of the given kind into *layer.
absl::Status ReadFields(const std::string& kind, ObjectReader& reader, LayerSpec* layer) {
  if (kind == "act_norm") {
    Become<ActNormSpec>(layer);
  } else if (kind == "lu_matmul") {
    Become<LuMatmulSpec>(layer);
  } else if (kind == "conv1x1") {
    Become<Conv1x1Spec>(layer);
  } else if (kind == "permutation") {
    Become<PermutationSpec>(layer);
  } else if (kind == "logit") {
    Become<LogitSpec>(layer);
  } else if (kind == "butterfly") {
    ReadButterfly(reader, Become<ButterflySpec>(layer));
  } else if (kind == "affine_coupling") {
    reader.Read("hidden", &Become<AffineCouplingSpec>(layer)->hidden, kOptional);
  } else if (kind == "conv1d_coupling") {
    Conv1dCouplingSpec* const coupling = Become<Conv1dCouplingSpec>(layer);
    reader.Read("hidden", &coupling->hidden, kOptional);
    reader.Read("kernel", &coupling->kernel, kOptional);
    reader.Read("dilation", &coupling->dilation, kOptional);
  } else if (kind == "conv2d_coupling") {
    reader.Read("hidden", &Become<Conv2dCouplingSpec>(layer)->hidden, kOptional);
  } else if (kind == "emerging_conv") {
    reader.Read("kernel", &Become<EmergingConvSpec>(layer)->kernel, kOptional);
  } else if (kind == "periodic_conv") {
    reader.Read("kernel", &Become<PeriodicConvSpec>(layer)->kernel, kOptional);
  } else if (kind == "woodbury") {
    reader.Read("rank", &Become<WoodburySpec>(layer)->rank, kOptional);
  } else if (kind == "whitening") {
    reader.Read("order", &Become<WhiteningSpec>(layer)->order, kOptional);
  } else if (kind == "variational_dequantisation") {
    VariationalDequantizationSpec* const dequantization =
        Become<VariationalDequantizationSpec>(layer);
    reader.Read("hidden", &dequantization->hidden, kOptional);
    reader.Read("kernel", &dequantization->kernel, kOptional);
    reader.Read("dilations", &dequantization->dilations, kOptional);
  } else if (kind == "lattice") {
    reader.Read("sizes", &Become<LatticeSpec>(layer)->sizes);
  } else if (kind == "box") {
    BoxSpec* const box = Become<BoxSpec>(layer);
    reader.Read("order", &box->order, kOptional);
    reader.Read("width", &box->width, kOptional);
    reader.Read("kernel", &box->kernel, kOptional);
    reader.Read("dilations", &box->dilations, kOptional);
    reader.Read("adaptive", &box->adaptive, kOptional);
  } else {
    return Fault(reader.Path("kind"), "not a kind of layer that docs/checkpoint_format.md lists");
  }
  return reader.Finish();
}

absl::StatusOr<std::vector<LayerSpec>> ReadLayers(const Json& json, const std::string& path) {
  if (!json.is_array()) return Fault(path, "expected an array of layers");
  std::vector<LayerSpec> layers(json.size());
  for (size_t k = 0; k < json.size(); ++k) {
    ObjectReader reader(json[k], absl::StrCat(path, "[", k, "]"));
    std::string kind;
    reader.Read("kind", &kind);
    if (!reader.ok()) return reader.Finish();
    BFLOW_RETURN_IF_ERROR(ReadFields(kind, reader, &layers[k]));
  }
  return layers;
}

absl::StatusOr<LevelSpec> ReadLevel(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  LevelSpec level;
  reader.Read("squeeze", &level.squeeze, kOptional);
  const Json* blocks = reader.Array("blocks");
  const Json* prior = reader.Array("prior", kOptional);
  reader.Read("split", &level.split, kOptional);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  for (size_t j = 0; j < blocks->size(); ++j) {
    BFLOW_ASSIGN_OR_RETURN(std::vector<LayerSpec> layers,
                           ReadLayers((*blocks)[j], absl::StrCat(path, ".blocks[", j, "]")));
    level.blocks.push_back(std::move(layers));
  }
  if (prior != nullptr) {
    BFLOW_ASSIGN_OR_RETURN(level.prior, ReadLayers(*prior, path + ".prior"));
  }
  return level;
}

absl::StatusOr<BaseKind> ReadBase(const Json& json) {
  ObjectReader reader(json, "base");
  BaseKind kind = BaseKind::kNormal;
  ReadWord(reader, "kind", kBaseWords, &kind, Presence::kRequired);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  return kind;
}

Json LayerToJson(const LayerSpec& layer) {
  const std::string_view kind = LayerKind(layer);
  Json json = {{"kind", std::string(kind)}};
  if (const auto* coupling = std::get_if<AffineCouplingSpec>(&layer)) {
    json["hidden"] = coupling->hidden;
  }
  if (const auto* coupling = std::get_if<Conv1dCouplingSpec>(&layer)) {
    json["hidden"] = coupling->hidden;
    json["kernel"] = coupling->kernel;
    json["dilation"] = coupling->dilation;
  }
  if (const auto* coupling = std::get_if<Conv2dCouplingSpec>(&layer)) {
    json["hidden"] = coupling->hidden;
  }
  if (const auto* conv = std::get_if<EmergingConvSpec>(&layer)) json["kernel"] = conv->kernel;
  if (const auto* conv = std::get_if<PeriodicConvSpec>(&layer)) json["kernel"] = conv->kernel;
  if (const auto* woodbury = std::get_if<WoodburySpec>(&layer)) json["rank"] = woodbury->rank;
  if (const auto* whitening = std::get_if<WhiteningSpec>(&layer)) {
    json["order"] = whitening->order;
  }
  if (const auto* dequantization = std::get_if<VariationalDequantizationSpec>(&layer)) {
    json["hidden"] = dequantization->hidden;
    json["kernel"] = dequantization->kernel;
    json["dilations"] = dequantization->dilations;
  }
  if (const auto* lattice = std::get_if<LatticeSpec>(&layer)) json["sizes"] = lattice->sizes;
  if (const auto* box = std::get_if<BoxSpec>(&layer)) {
    json["order"] = box->order;
    json["width"] = box->width;
    json["kernel"] = box->kernel;
    json["dilations"] = box->dilations;
    json["adaptive"] = box->adaptive;
  }
  if (const auto* butterfly = std::get_if<ButterflySpec>(&layer)) {
    if (butterfly->partitions.empty()) json["factors"] = butterfly->factors;
    json["shared"] = butterfly->shared;
    json["order"] = WordOf(kOrderWords, butterfly->order);
    json["bi_direction"] = butterfly->bi_direction;
    if (butterfly->flatten != ImageFlattening::kChw) {
      json["flatten"] = WordOf(kFlatteningWords, butterfly->flatten);
    }
    if (!butterfly->partitions.empty()) {
      json["partitions"] = butterfly->partitions;
      json["partition_factors"] = butterfly->partition_factors;
      json["rotate"] = butterfly->rotate;
    }
  }
  return json;
}

Json LayersToJson(const std::vector<LayerSpec>& layers) {
  Json json = Json::array();
  for (const LayerSpec& layer : layers) json.push_back(LayerToJson(layer));
  return json;
}

Json ChannelToJson(const ChannelSpec& c) {
  return {{"name", c.name},           {"unit", c.unit}, {"gain", c.gain},
          {"baseline", c.baseline},   {"step", c.step}, {"input_min", c.input_min},
          {"input_max", c.input_max}, {"lo", c.lo},     {"hi", c.hi}};
}

}  // namespace

absl::StatusOr<FlowSpec> ParseFlowSpec(std::string_view text) {
  BFLOW_ASSIGN_OR_RETURN(Json json, ParseBoundedJson(text, kMaxSpecBytes));
  ObjectReader reader(json, "");
  FlowSpec spec;
  int64_t format = 0;
  reader.Read("format", &format);
  if (reader.ok() && format != 1) reader.Fail(Fault("format", "expected 1"));
  reader.Read("architecture", &spec.architecture);
  reader.Read("event_shape", &spec.event_shape);
  if (!spec.is_image()) reader.Read("sampling_rate_hz", &spec.sampling_rate_hz);
  ReadWord(reader, "sensitivity", kSensitivityWords, &spec.sensitivity, kOptional);
  reader.Read("allow_sampling", &spec.allow_sampling, kOptional);
  const Json* channels = reader.Array("channels");
  ReadWord(reader, "dequantisation", kDequantizationWords, &spec.dequantization,
           Presence::kRequired);
  const Json* pre = reader.Array("pre", kOptional);
  const Json* levels = reader.Array("levels");
  const Json* base = reader.Object("base", kOptional);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  if (pre != nullptr) {
    BFLOW_ASSIGN_OR_RETURN(spec.pre, ReadLayers(*pre, "pre"));
  }
  if (base != nullptr) {
    BFLOW_ASSIGN_OR_RETURN(spec.base, ReadBase(*base));
  }
  for (size_t c = 0; c < channels->size(); ++c) {
    BFLOW_ASSIGN_OR_RETURN(ChannelSpec channel,
                           ReadChannel((*channels)[c], absl::StrCat("channels[", c, "]")));
    spec.channels.push_back(std::move(channel));
  }
  for (size_t l = 0; l < levels->size(); ++l) {
    BFLOW_ASSIGN_OR_RETURN(LevelSpec level,
                           ReadLevel((*levels)[l], absl::StrCat("levels[", l, "]")));
    spec.levels.push_back(std::move(level));
  }
  BFLOW_RETURN_IF_ERROR(ValidateFlowSpec(spec));
  return spec;
}

std::string FlowSpecToJson(const FlowSpec& spec) {
  Json json;
  json["format"] = 1;
  json["architecture"] = spec.architecture;
  json["event_shape"] = spec.event_shape;
  if (!spec.is_image()) json["sampling_rate_hz"] = spec.sampling_rate_hz;
  json["sensitivity"] = WordOf(kSensitivityWords, spec.sensitivity);
  json["allow_sampling"] = spec.allow_sampling;
  json["channels"] = Json::array();
  for (const ChannelSpec& channel : spec.channels)
    json["channels"].push_back(ChannelToJson(channel));
  json["dequantisation"] = WordOf(kDequantizationWords, spec.dequantization);
  json["pre"] = LayersToJson(spec.pre);
  json["levels"] = Json::array();
  for (const LevelSpec& level : spec.levels) {
    Json blocks = Json::array();
    for (const auto& block : level.blocks) blocks.push_back(LayersToJson(block));
    Json item;
    item["squeeze"] = level.squeeze;
    item["blocks"] = std::move(blocks);
    if (!level.prior.empty()) item["prior"] = LayersToJson(level.prior);
    item["split"] = level.split;
    json["levels"].push_back(std::move(item));
  }
  json["base"]["kind"] = WordOf(kBaseWords, spec.base);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace bflow
