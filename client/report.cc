#include "client/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/time_text.h"

namespace bflow::client {
namespace {

double FrameSeconds(const InputWindows& input, int64_t frame) {
  return input.frames_per_second > 0 ? static_cast<double>(frame) / input.frames_per_second : 0;
}

const char* TypicalityName(uint8_t typicality) {
  return typicality == 0 ? "typical" : typicality == 1 ? "too_likely" : "too_unlikely";
}

// "jump/V@00:00:05.120=31.2;...": cause and channel of the largest attributions, the time into the
// record at which their segment begins, and their z. Empty where it was not asked for.
std::string WhereText(const PinnedModel& model, const ScoredRecord& record, size_t row) {
  constexpr const char* kCauses[] = {"none", "gradient", "flat_run", "jump"};
  std::string out;
  for (const Place& place : record.result.rows[row].places) {
    if (place.segment < 0 || place.channel >= model.info.channels_size()) break;
    const int64_t frame =
        record.input.places[row].start_frame + place.segment * record.result.attribution_stride;
    absl::StrAppend(&out, out.empty() ? "" : ";", kCauses[std::min<int>(place.cause, 3)], "/",
                    model.info.channels(place.channel).name(), "@",
                    FormatOffset(FrameSeconds(record.input, frame)));
    absl::StrAppendFormat(&out, "=%.4g", place.z);
  }
  return out;
}

std::string SpanLine(const PinnedModel& model, const ScoredRecord& record, const Span& span) {
  const InputWindows& input = record.input;
  const double begin = FrameSeconds(input, span.begin);
  const double end = FrameSeconds(input, span.end);
  const std::string from = AddToStartTime(input.start_time, begin);
  std::string where = WhereText(model, record, span.top_row);
  if (!where.empty()) where = "\n    where " + where;
  return absl::StrFormat(
      "  %s  +%s to +%s%s  %d window%s, score %.4g, p %.4g  %s%s\n", input.record,
      FormatOffset(begin), FormatOffset(end),
      from.empty() ? from
                   : absl::StrCat("  (", from, " to ", AddToStartTime(input.start_time, end), ")"),
      span.windows, span.windows == 1 ? "" : "s", span.score, span.p_value, span.reasons, where);
}

double Share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

}  // namespace

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::string RowStatusName(uint8_t status) {
  constexpr const char* kNames[] = {"OK", "NON_FINITE_INPUT", "NON_FINITE_SCORE", "OUT_OF_RANGE"};
  return status < 4 ? kNames[status] : absl::StrCat(static_cast<int>(status));
}

std::string ScoreCsv(const PinnedModel& model, const std::vector<ScoredRecord>& records) {
  const bool where = !records.empty() && records.front().result.attribution_stride > 0;
  std::string out =
      "record,segment,window,start_sample,start_time,model,version,manifest_sha256,row_status,"
      "constant_channel,log_prob,nats_per_dim,bits_per_dim,score,p_value,flagged,score_ratio,"
      "nll_rank,typicality,top_reasons";
  absl::StrAppend(&out, where ? ",where" : "", "\r\n");
  for (const ScoredRecord& record : records) {
    const InputWindows& input = record.input;
    for (size_t i = 0; i < record.result.rows.size(); ++i) {
      const WindowPlace& place = input.places[i];
      const RowAnomaly& row = record.result.rows[i];
      absl::StrAppend(&out, CsvField(input.record), ",", CsvField(place.segment), ",", place.index,
                      ",", place.start_frame, ",",
                      AddToStartTime(input.start_time, FrameSeconds(input, place.start_frame)), ",",
                      CsvField(model.info.name()), ",", model.version.version(), ",",
                      model.version.manifest_sha256(), ",", RowStatusName(row.likelihood.status),
                      ",", place.constant_channel ? 1 : 0);
      for (const double v : {row.likelihood.log_prob, row.likelihood.nats_per_dim,
                             row.likelihood.bits_per_dim, row.score, row.p_value}) {
        absl::StrAppendFormat(&out, ",%.9g", v);
      }
      absl::StrAppendFormat(&out, ",%d,%.9g,%.9g,%s,%s", row.flagged ? 1 : 0, row.score_ratio,
                            row.nll_rank, TypicalityName(row.typicality),
                            CsvField(ReasonText(row, record.result.feature_names)));
      if (where) absl::StrAppend(&out, ",", CsvField(WhereText(model, record, i)));
      out += "\r\n";
    }
  }
  return out;
}

ScoreSummary Summarise(const std::vector<ScoredRecord>& records) {
  ScoreSummary s;
  std::vector<double> p_values;
  std::vector<Span> spans;
  for (size_t r = 0; r < records.size(); ++r) {
    const ScoredRecord& record = records[r];
    for (size_t i = 0; i < record.result.rows.size(); ++i) {
      const RowAnomaly& row = record.result.rows[i];
      ++s.windows;
      s.constant += record.input.places[i].constant_channel ? 1 : 0;
      if (row.likelihood.status != 0) {
        ++s.marked;
        continue;
      }
      s.flagged += row.flagged ? 1 : 0;
      s.nats_per_dim += row.likelihood.nats_per_dim;
      s.bits_per_dim += row.likelihood.bits_per_dim;
      p_values.push_back(row.p_value);
    }
    const std::vector<Span> merged =
        MergeFlagged(r, record.input.places, record.result, record.input.window_frames);
    spans.insert(spans.end(), merged.begin(), merged.end());
  }
  s.spans = spans.size();
  s.top = TopSpans(std::move(spans), 5);
  if (p_values.empty()) return s;
  std::sort(p_values.begin(), p_values.end());
  const size_t n = p_values.size();
  s.p_min = p_values.front();
  s.p_median = (p_values[(n - 1) / 2] + p_values[n / 2]) / 2;
  const auto upper = std::upper_bound(p_values.begin(), p_values.end(), 0.05);
  s.p_share_005 = Share(upper - p_values.begin(), static_cast<int64_t>(n));
  s.nats_per_dim /= static_cast<double>(n);
  s.bits_per_dim /= static_cast<double>(n);
  return s;
}

std::string ScoreText(const PinnedModel& model, const std::vector<ScoredRecord>& records,
                      const std::vector<FailedInput>& failed, const ScoreSummary& s) {
  std::string out =
      absl::StrCat("model      ", model.info.name(), "@", model.version.version(), "  manifest ",
                   model.version.manifest_sha256().substr(0, 12), "\n");
  for (const ScoredRecord& record : records) {
    absl::StrAppend(&out, "record     ", record.input.record, ": ", record.input.places.size(),
                    " windows of ", record.input.window_frames, " samples, ",
                    record.input.skipped.size(), " segments skipped\n");
  }
  for (const FailedInput& input : failed) {
    absl::StrAppend(&out, "not scored ", input.first, "\n");
  }
  const int64_t scored = s.windows - s.marked;
  absl::StrAppendFormat(&out, "windows    %d scored, %d marked, %d with a constant channel\n",
                        scored, s.marked, s.constant);
  if (scored == 0 || records.empty()) return out;
  const AnomalyResult& any = records.front().result;
  absl::StrAppendFormat(&out, "flagged    %d (%.1f%%) at alpha %g, %s, calibration n = %d\n",
                        s.flagged, 100 * Share(s.flagged, scored), any.alpha, any.score_definition,
                        any.calibration_rows);
  if (any.calibration_rows < 200) {
    absl::StrAppend(&out, "warning    fewer than 200 calibration windows: p-values are coarse\n");
  }
  absl::StrAppendFormat(&out, "p-values   min %.4g, median %.4g, %.1f%% at or below 0.05\n",
                        s.p_min, s.p_median, 100 * s.p_share_005);
  absl::StrAppendFormat(&out, "mean NLL   %.4f nats/dim, %.4f bits/dim", s.nats_per_dim,
                        s.bits_per_dim);
  // Per dimension, bits times ln 2 is the NLL in the unit of converter steps.
  if (model.info.quantised()) {
    absl::StrAppendFormat(&out, ", %.4f nats per sample in converter steps",
                          s.bits_per_dim * std::log(2.0));
  }
  out += "\n";
  if (s.top.empty()) return out;
  absl::StrAppend(&out, "\nmost anomalous spans (", s.top.size(), " of ", s.spans, ")\n");
  for (const Span& span : s.top) out += SpanLine(model, records[span.record], span);
  return out;
}

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json ScoreJson(const PinnedModel& model, const std::vector<ScoredRecord>& records,
               const std::vector<FailedInput>& failed, const ScoreSummary& s) {
  Json out;
  out["model"] = model.info.name();
  out["version"] = model.version.version();
  out["manifest_sha256"] = model.version.manifest_sha256();
  if (!records.empty()) {
    out["score_definition"] = records.front().result.score_definition;
    out["calibration_rows"] = records.front().result.calibration_rows;
    out["alpha"] = records.front().result.alpha;
  }
  out["records"] = Json::array();
  for (const ScoredRecord& record : records) {
    out["records"].push_back({{"record", record.input.record},
                              {"windows", record.input.places.size()},
                              {"skipped", record.input.skipped}});
  }
  out["failed"] = Json::array();
  for (const FailedInput& f : failed) {
    out["failed"].push_back({{"record", f.first}, {"reason", f.second}});
  }
  out["windows"] = s.windows;
  out["marked"] = s.marked;
  out["constant_channel"] = s.constant;
  out["flagged"] = s.flagged;
  out["flagged_share"] = Share(s.flagged, s.windows - s.marked);
  out["p_value"] = {
      {"min", s.p_min}, {"median", s.p_median}, {"share_at_most_0.05", s.p_share_005}};
  out["nats_per_dim"] = Number(s.nats_per_dim);
  out["bits_per_dim"] = Number(s.bits_per_dim);
  if (model.info.quantised()) {
    out["nats_per_sample_step_unit"] = Number(s.bits_per_dim * std::log(2.0));
  }
  out["spans"] = Json::array();
  for (const Span& span : s.top) {
    const InputWindows& input = records[span.record].input;
    out["spans"].push_back(
        {{"record", input.record},
         {"start_sample", span.begin},
         {"end_sample", span.end},
         {"start_offset", FormatOffset(FrameSeconds(input, span.begin))},
         {"end_offset", FormatOffset(FrameSeconds(input, span.end))},
         {"start_time", AddToStartTime(input.start_time, FrameSeconds(input, span.begin))},
         {"windows", span.windows},
         {"score", Number(span.score)},
         {"p_value", span.p_value},
         {"reasons", span.reasons}});
    if (records[span.record].result.attribution_stride > 0) {
      out["spans"].back()["where"] = WhereText(model, records[span.record], span.top_row);
    }
  }
  return out;
}

}  // namespace bflow::client
