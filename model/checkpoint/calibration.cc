#include "model/checkpoint/calibration.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/checkpoint/json_fields.h"

namespace bflow {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 20;
constexpr size_t kMaxFeatures = 1024;

absl::Status Fault(const std::string& field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
}

absl::Status CheckSize(const char* field, size_t size, size_t expected) {
  if (size == expected) return absl::OkStatus();
  return Fault(field, absl::StrCat("has ", size, " entries, expected ", expected));
}

absl::Status CheckFeatures(const Calibration& c) {
  const size_t f = c.feature_names.size();
  if (f < 1 || f > kMaxFeatures) {
    return Fault("feature_names",
                 absl::StrCat("has ", f, " entries, expected 1 to ", kMaxFeatures));
  }
  std::set<std::string> names;
  for (size_t i = 0; i < f; ++i) {
    const std::string& name = c.feature_names[i];
    const bool plain =
        std::all_of(name.begin(), name.end(), [](char ch) { return ch >= 0x20 && ch <= 0x7e; });
    if (name.empty() || name.size() > 128 || !plain || !names.insert(name).second) {
      return Fault(absl::StrCat("feature_names[", i, "]"),
                   "expected 1 to 128 printable ASCII characters, each name once");
    }
  }
  BFLOW_RETURN_IF_ERROR(CheckSize("centre", c.centre.size(), f));
  BFLOW_RETURN_IF_ERROR(CheckSize("scale", c.scale.size(), f));
  BFLOW_RETURN_IF_ERROR(CheckSize("mean", c.mean.size(), f));
  for (size_t i = 0; i < f; ++i) {
    if (!std::isfinite(c.centre[i])) return Fault(absl::StrCat("centre[", i, "]"), "not finite");
    if (!std::isfinite(c.mean[i])) return Fault(absl::StrCat("mean[", i, "]"), "not finite");
    if (!(c.scale[i] > 0 && std::isfinite(c.scale[i]))) {
      return Fault(absl::StrCat("scale[", i, "]"), "expected more than 0");
    }
  }
  return absl::OkStatus();
}

// Square, finite, positive on the diagonal, symmetric to 1e-6 of the diagonal.
absl::Status CheckInverseCovariance(const Calibration& c) {
  const auto& m = c.inverse_covariance;
  const size_t f = c.feature_names.size();
  BFLOW_RETURN_IF_ERROR(CheckSize("inverse_covariance", m.size(), f));
  for (size_t i = 0; i < f; ++i) {
    const std::string row = absl::StrCat("inverse_covariance[", i, "]");
    BFLOW_RETURN_IF_ERROR(CheckSize(row.c_str(), m[i].size(), f));
    for (double value : m[i]) {
      if (!std::isfinite(value)) return Fault(row, "not finite");
    }
    if (!(m[i][i] > 0)) return Fault(row, "expected more than 0 on the diagonal");
  }
  for (size_t i = 0; i < f; ++i) {
    for (size_t j = 0; j < i; ++j) {
      const double tolerance = 1e-6 * std::sqrt(m[i][i]) * std::sqrt(m[j][j]);
      if (!(std::fabs(m[i][j] - m[j][i]) <= tolerance)) {
        return Fault(absl::StrCat("inverse_covariance[", i, "][", j, "]"), "not symmetric");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAscending(const char* field, const std::vector<double>& values, int64_t n) {
  BFLOW_RETURN_IF_ERROR(CheckSize(field, values.size(), static_cast<size_t>(n)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i]) || (i > 0 && values[i] < values[i - 1])) {
      return Fault(absl::StrCat(field, "[", i, "]"), "expected finite values in ascending order");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAttribution(const AttributionTables& tables) {
  if (tables.stride != 32) return Fault("attribution.stride", "expected 32");
  const size_t channels = tables.median[0].size();
  if (channels < 1) return Fault("attribution.gradient.median", "expected one value per channel");
  for (size_t k = 0; k < kAttributionCauses; ++k) {
    const std::string path = absl::StrCat("attribution.", kAttributionCauseNames[k]);
    BFLOW_RETURN_IF_ERROR(CheckSize((path + ".median").c_str(), tables.median[k].size(), channels));
    BFLOW_RETURN_IF_ERROR(CheckSize((path + ".spread").c_str(), tables.spread[k].size(), channels));
    for (size_t c = 0; c < channels; ++c) {
      if (!std::isfinite(tables.median[k][c])) return Fault(path + ".median", "not finite");
      if (!(tables.spread[k][c] > 0 && std::isfinite(tables.spread[k][c]))) {
        return Fault(path + ".spread", "expected more than 0");
      }
    }
  }
  return absl::OkStatus();
}

void ReadAttribution(const Json& json, ObjectReader& parent, Calibration& c) {
  AttributionTables tables;
  ObjectReader reader(json, "attribution");
  reader.Read("stride", &tables.stride);
  for (size_t k = 0; k < kAttributionCauses; ++k) {
    const Json* cause = reader.Object(kAttributionCauseNames[k]);
    if (cause == nullptr) break;
    ObjectReader values(*cause, reader.Path(kAttributionCauseNames[k]));
    values.Read("median", &tables.median[k]);
    values.Read("spread", &tables.spread[k]);
    if (absl::Status status = values.Finish(); !status.ok()) reader.Fail(status);
  }
  absl::Status status = reader.Finish();
  if (!status.ok()) return parent.Fail(status);
  c.attribution = std::move(tables);
}

absl::Status Check(const Calibration& c, int64_t n) {
  if (c.score_definition != "flow_quality_v1" && c.score_definition != "flow_quality_v2") {
    return Fault("score_definition", "expected \"flow_quality_v1\" or \"flow_quality_v2\"");
  }
  BFLOW_RETURN_IF_ERROR(CheckFeatures(c));
  BFLOW_RETURN_IF_ERROR(CheckInverseCovariance(c));
  if (n < 1) return Fault("n", "expected at least 1");
  BFLOW_RETURN_IF_ERROR(CheckAscending("scores", c.scores, n));
  BFLOW_RETURN_IF_ERROR(CheckAscending("nll", c.nll, n));
  // Below the smallest p-value there is nothing could ever be flagged.
  if (!(c.alpha >= 1.0 / (static_cast<double>(n) + 1) && c.alpha < 1)) {
    return Fault("alpha", "expected at least 1/(n + 1) and less than 1");
  }
  if (c.noise != "center" && c.noise != "none") {
    return Fault("noise", "expected \"center\" or \"none\"");
  }
  if (!std::isfinite(c.reference_mean)) return Fault("reference_mean", "not finite");
  if (!(c.reference_stddev >= 0 && std::isfinite(c.reference_stddev))) {
    return Fault("reference_stddev", "expected at least 0");
  }
  return c.attribution ? CheckAttribution(*c.attribution) : absl::OkStatus();
}

}  // namespace

std::string ScoreDefinition(const FlowSpec& spec) {
  return ResidualIndex(spec) ? "flow_quality_v2" : "flow_quality_v1";
}

absl::StatusOr<Calibration> ParseCalibration(std::string_view text) {
  BFLOW_ASSIGN_OR_RETURN(Json json, ParseBoundedJson(text, kMaxBytes));
  ObjectReader reader(json, "");
  Calibration c;
  int64_t format = 0;
  int64_t n = 0;
  reader.Read("format", &format);
  if (reader.ok() && format != 1) reader.Fail(Fault("format", "expected 1"));
  reader.Read("score_definition", &c.score_definition);
  reader.Read("feature_names", &c.feature_names);
  reader.Read("centre", &c.centre);
  reader.Read("scale", &c.scale);
  reader.Read("mean", &c.mean);
  reader.Read("inverse_covariance", &c.inverse_covariance);
  reader.Read("scores", &c.scores);
  reader.Read("nll", &c.nll);
  reader.Read("n", &n);
  reader.Read("alpha", &c.alpha);
  reader.Read("noise", &c.noise);
  if (const Json* tables = reader.Object("attribution", Presence::kOptional)) {
    ReadAttribution(*tables, reader, c);
  }
  reader.Read("reference_mean", &c.reference_mean);
  reader.Read("reference_stddev", &c.reference_stddev);
  BFLOW_RETURN_IF_ERROR(reader.Finish());
  BFLOW_RETURN_IF_ERROR(Check(c, n));
  return c;
}

std::string CalibrationToJson(const Calibration& c) {
  Json json;
  json["format"] = 1;
  json["score_definition"] = c.score_definition;
  json["feature_names"] = c.feature_names;
  json["centre"] = c.centre;
  json["scale"] = c.scale;
  json["mean"] = c.mean;
  json["inverse_covariance"] = c.inverse_covariance;
  json["scores"] = c.scores;
  json["nll"] = c.nll;
  json["n"] = c.n();
  json["alpha"] = c.alpha;
  json["noise"] = c.noise;
  json["reference_mean"] = c.reference_mean;
  json["reference_stddev"] = c.reference_stddev;
  if (c.attribution) {
    Json tables;
    tables["stride"] = c.attribution->stride;
    for (size_t k = 0; k < kAttributionCauses; ++k) {
      tables[kAttributionCauseNames[k]] = {{"median", c.attribution->median[k]},
                                           {"spread", c.attribution->spread[k]}};
    }
    json["attribution"] = tables;
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace bflow
