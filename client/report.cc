#include "client/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
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

// When the span was, in the record and by the clock.
std::string SpanTimes(const InputWindows& input, const Span& span) {
  const double begin = FrameSeconds(input, span.begin);
  const double end = FrameSeconds(input, span.end);
  const std::string from = AddToStartTime(input.start_time, begin);
  return absl::StrFormat(
      "+%s to +%s%s  %d window%s", FormatOffset(begin), FormatOffset(end),
      from.empty() ? from
                   : absl::StrCat("  (", from, " to ", AddToStartTime(input.start_time, end), ")"),
      span.windows, span.windows == 1 ? "" : "s");
}

std::string SpanLine(const PinnedModel& model, const ScoredRecord& record, const Span& span) {
  const InputWindows& input = record.input;
  std::string where = WhereText(model, record, span.top_row);
  if (!where.empty()) where = "\n    where " + where;
  return absl::StrFormat(
      "  %s  %s, score %.4g, p %.4g  %s%s\n", input.record,
      model.is_image() ? absl::StrCat("image ", span.begin) : SpanTimes(input, span), span.score,
      span.p_value, span.reasons, where);
}

Json SpanJson(const PinnedModel& model, const ScoredRecord& record, const Span& span) {
  const InputWindows& input = record.input;
  Json out = {{"record", input.record},
              {"score", Number(span.score)},
              {"p_value", span.p_value},
              {"reasons", span.reasons}};
  if (model.is_image()) {
    out["row"] = span.begin;
    return out;
  }
  out["start_sample"] = span.begin;
  out["end_sample"] = span.end;
  out["start_offset"] = FormatOffset(FrameSeconds(input, span.begin));
  out["end_offset"] = FormatOffset(FrameSeconds(input, span.end));
  out["start_time"] = AddToStartTime(input.start_time, FrameSeconds(input, span.begin));
  out["windows"] = span.windows;
  if (record.result.attribution_stride > 0) {
    out["where"] = WhereText(model, record, span.top_row);
  }
  return out;
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

std::string LikelihoodCsvHeader(const PinnedModel& model) {
  return model.is_image()
             ? "record,row,model,version,manifest_sha256,row_status,log_prob,nats_per_dim,"
               "bits_per_dim"
             : "record,segment,window,start_sample,start_time,model,version,manifest_sha256,"
               "row_status,constant_channel,log_prob,nats_per_dim,bits_per_dim";
}

std::string LikelihoodCsv(const PinnedModel& model, const InputWindows& input, size_t row,
                          const RowLogLikelihood& likelihood) {
  const WindowPlace& place = input.places[row];
  std::string out = CsvField(input.record);
  if (model.is_image()) {
    absl::StrAppend(&out, ",", place.index);
  } else {
    absl::StrAppend(&out, ",", CsvField(place.segment), ",", place.index, ",", place.start_frame,
                    ",", AddToStartTime(input.start_time, FrameSeconds(input, place.start_frame)));
  }
  absl::StrAppend(&out, ",", CsvField(model.info.name()), ",", model.version.version(), ",",
                  model.version.manifest_sha256(), ",", RowStatusName(likelihood.status));
  if (!model.is_image()) absl::StrAppend(&out, ",", place.constant_channel ? 1 : 0);
  absl::StrAppendFormat(&out, ",%.9g,%.9g,%.9g", likelihood.log_prob, likelihood.nats_per_dim,
                        likelihood.bits_per_dim);
  return out;
}

std::string ScoreCsv(const PinnedModel& model, const std::vector<ScoredRecord>& records) {
  const bool where = !records.empty() && records.front().result.attribution_stride > 0;
  std::string out = LikelihoodCsvHeader(model) +
                    ",score,p_value,flagged,score_ratio,nll_rank,typicality,top_reasons";
  absl::StrAppend(&out, where ? ",where" : "", "\r\n");
  for (const ScoredRecord& record : records) {
    for (size_t i = 0; i < record.result.rows.size(); ++i) {
      const RowAnomaly& row = record.result.rows[i];
      absl::StrAppend(&out, LikelihoodCsv(model, record.input, i, row.likelihood));
      absl::StrAppendFormat(&out, ",%.9g,%.9g,%d,%.9g,%.9g,%s,%s", row.score, row.p_value,
                            row.flagged ? 1 : 0, row.score_ratio, row.nll_rank,
                            TypicalityName(row.typicality),
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
  const bool is_image = model.is_image();
  for (const ScoredRecord& record : records) {
    absl::StrAppend(&out, "record     ", record.input.record, ": ", record.input.places.size());
    if (is_image) {
      absl::StrAppend(&out, " images of ", absl::StrJoin(model.info.event_shape(), "x"), "\n");
    } else {
      absl::StrAppend(&out, " windows of ", record.input.window_frames, " samples, ",
                      record.input.skipped.size(), " segments skipped\n");
    }
  }
  for (const FailedInput& input : failed) {
    absl::StrAppend(&out, "not scored ", input.first, "\n");
  }
  const int64_t scored = s.windows - s.marked;
  absl::StrAppendFormat(&out, "%s    %d scored, %d marked", is_image ? "images " : "windows",
                        scored, s.marked);
  if (!is_image) absl::StrAppendFormat(&out, ", %d with a constant channel", s.constant);
  out += "\n";
  if (scored == 0 || records.empty()) return out;
  const AnomalyResult& any = records.front().result;
  absl::StrAppendFormat(&out, "flagged    %d (%.1f%%) at alpha %g, %s, calibration n = %d\n",
                        s.flagged, 100 * Share(s.flagged, scored), any.alpha, any.score_definition,
                        any.calibration_rows);
  if (any.calibration_rows < 200) {
    absl::StrAppend(&out, "warning    fewer than 200 calibration ", is_image ? "images" : "windows",
                    ": p-values are coarse\n");
  }
  absl::StrAppendFormat(&out, "p-values   min %.4g, median %.4g, %.1f%% at or below 0.05\n",
                        s.p_min, s.p_median, 100 * s.p_share_005);
  absl::StrAppendFormat(&out, "mean NLL   %.4f nats/dim, %.4f bits/dim", s.nats_per_dim,
                        s.bits_per_dim);
  // Per dimension, bits times ln 2 is the NLL in the unit of converter steps.
  if (model.info.quantised() && !is_image) {
    absl::StrAppendFormat(&out, ", %.4f nats per sample in converter steps",
                          s.bits_per_dim * std::log(2.0));
  }
  out += "\n";
  if (s.top.empty()) return out;
  absl::StrAppend(&out, "\nmost anomalous ", is_image ? "images (" : "spans (", s.top.size(),
                  " of ", s.spans, ")\n");
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
  const char* const rows = model.is_image() ? "images" : "windows";
  for (const ScoredRecord& record : records) {
    out["records"].push_back({{"record", record.input.record}, {rows, record.input.places.size()}});
    if (!model.is_image()) out["records"].back()["skipped"] = record.input.skipped;
  }
  out["failed"] = Json::array();
  for (const FailedInput& f : failed) {
    out["failed"].push_back({{"record", f.first}, {"reason", f.second}});
  }
  out[rows] = s.windows;
  out["marked"] = s.marked;
  if (!model.is_image()) out["constant_channel"] = s.constant;
  out["flagged"] = s.flagged;
  out["flagged_share"] = Share(s.flagged, s.windows - s.marked);
  out["p_value"] = {
      {"min", s.p_min}, {"median", s.p_median}, {"share_at_most_0.05", s.p_share_005}};
  out["nats_per_dim"] = Number(s.nats_per_dim);
  out["bits_per_dim"] = Number(s.bits_per_dim);
  if (model.info.quantised() && !model.is_image()) {
    out["nats_per_sample_step_unit"] = Number(s.bits_per_dim * std::log(2.0));
  }
  const char* const top = model.is_image() ? "top" : "spans";
  out[top] = Json::array();
  for (const Span& span : s.top) out[top].push_back(SpanJson(model, records[span.record], span));
  return out;
}

}  // namespace bflow::client
