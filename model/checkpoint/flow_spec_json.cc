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

absl::StatusOr<ButterflySpec> ReadButterfly(ObjectReader& reader) {
  ButterflySpec butterfly;
  reader.Read("partitions", &butterfly.partitions, kOptional);
  reader.Read("factors", &butterfly.factors,
              butterfly.partitions.empty() ? Presence::kRequired : kOptional);
  reader.Read("shared", &butterfly.shared, kOptional);
  ReadWord(reader, "order", kOrderWords, &butterfly.order, kOptional);
  reader.Read("bi_direction", &butterfly.bi_direction, kOptional);
  reader.Read("partition_factors", &butterfly.partition_factors, kOptional);
  reader.Read("rotate", &butterfly.rotate, kOptional);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  return butterfly;
}

absl::StatusOr<LayerSpec> ReadLayer(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  std::string kind;
  reader.Read("kind", &kind);
  if (!reader.ok()) return reader.Finish();
  if (kind == "butterfly") {
    BFLOW_ASSIGN_OR_RETURN(ButterflySpec butterfly, ReadButterfly(reader));
    return LayerSpec(std::move(butterfly));
  }
  LayerSpec layer;
  if (kind == "act_norm") {
    layer = ActNormSpec{};
  } else if (kind == "lu_matmul") {
    layer = LuMatmulSpec{};
  } else if (kind == "affine_coupling") {
    AffineCouplingSpec coupling;
    reader.Read("hidden", &coupling.hidden, kOptional);
    layer = coupling;
  } else {
    return Fault(reader.Path("kind"),
                 "expected \"act_norm\", \"lu_matmul\", \"butterfly\" or \"affine_coupling\"");
  }
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  return layer;
}

absl::StatusOr<LevelSpec> ReadLevel(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  LevelSpec level;
  reader.Read("squeeze", &level.squeeze, kOptional);
  const Json* blocks = reader.Array("blocks");
  reader.Read("split", &level.split, kOptional);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  for (size_t j = 0; j < blocks->size(); ++j) {
    const std::string block_path = absl::StrCat(path, ".blocks[", j, "]");
    const Json& block = (*blocks)[j];
    if (!block.is_array()) return Fault(block_path, "expected an array of layers");
    level.blocks.emplace_back();
    for (size_t k = 0; k < block.size(); ++k) {
      BFLOW_ASSIGN_OR_RETURN(LayerSpec layer,
                             ReadLayer(block[k], absl::StrCat(block_path, "[", k, "]")));
      level.blocks.back().push_back(std::move(layer));
    }
  }
  return level;
}

absl::Status ReadBase(const Json& json) {
  ObjectReader reader(json, "base");
  std::string kind;
  reader.Read("kind", &kind);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  if (kind != "normal") return Fault("base.kind", "expected \"normal\"");
  return absl::OkStatus();
}

Json LayerToJson(const LayerSpec& layer) {
  const std::string_view kind = LayerKind(layer);
  Json json = {{"kind", std::string(kind)}};
  if (const auto* coupling = std::get_if<AffineCouplingSpec>(&layer)) {
    json["hidden"] = coupling->hidden;
  }
  if (const auto* butterfly = std::get_if<ButterflySpec>(&layer)) {
    if (butterfly->partitions.empty()) json["factors"] = butterfly->factors;
    json["shared"] = butterfly->shared;
    json["order"] = WordOf(kOrderWords, butterfly->order);
    json["bi_direction"] = butterfly->bi_direction;
    if (!butterfly->partitions.empty()) {
      json["partitions"] = butterfly->partitions;
      json["partition_factors"] = butterfly->partition_factors;
      json["rotate"] = butterfly->rotate;
    }
  }
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
  reader.Read("sampling_rate_hz", &spec.sampling_rate_hz);
  ReadWord(reader, "sensitivity", kSensitivityWords, &spec.sensitivity, kOptional);
  reader.Read("allow_sampling", &spec.allow_sampling, kOptional);
  const Json* channels = reader.Array("channels");
  ReadWord(reader, "dequantisation", kDequantizationWords, &spec.dequantization,
           Presence::kRequired);
  const Json* pre = reader.Array("pre", kOptional);
  const Json* levels = reader.Array("levels");
  const Json* base = reader.Object("base", kOptional);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  if (pre != nullptr && !pre->empty()) return Fault("pre", "expected an empty array");
  if (base != nullptr) BFLOW_RETURN_IF_ERROR(ReadBase(*base));
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
  json["sampling_rate_hz"] = spec.sampling_rate_hz;
  json["sensitivity"] = WordOf(kSensitivityWords, spec.sensitivity);
  json["allow_sampling"] = spec.allow_sampling;
  json["channels"] = Json::array();
  for (const ChannelSpec& channel : spec.channels)
    json["channels"].push_back(ChannelToJson(channel));
  json["dequantisation"] = WordOf(kDequantizationWords, spec.dequantization);
  json["pre"] = Json::array();
  json["levels"] = Json::array();
  for (const LevelSpec& level : spec.levels) {
    Json blocks = Json::array();
    for (const auto& block : level.blocks) {
      Json layers = Json::array();
      for (const LayerSpec& layer : block) layers.push_back(LayerToJson(layer));
      blocks.push_back(std::move(layers));
    }
    Json item;
    item["squeeze"] = level.squeeze;
    item["blocks"] = std::move(blocks);
    item["split"] = level.split;
    json["levels"].push_back(std::move(item));
  }
  json["base"]["kind"] = "normal";
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace bflow
