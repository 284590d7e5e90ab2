#include "client/spans.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bflow::client {

std::string ReasonText(const RowAnomaly& row, const std::vector<std::string>& feature_names) {
  std::string text;
  for (const Reason& reason : row.reasons) {
    if (reason.feature < 0 || static_cast<size_t>(reason.feature) >= feature_names.size()) break;
    absl::StrAppend(&text, text.empty() ? "" : ";",
                    feature_names[static_cast<size_t>(reason.feature)],
                    absl::StrFormat("=%.4g", reason.contribution));
  }
  return text;
}

std::vector<Span> MergeFlagged(size_t record, const std::vector<WindowPlace>& places,
                               const AnomalyResult& result, int64_t window_frames) {
  std::vector<Span> spans;
  for (size_t i = 0; i < result.rows.size(); ++i) {
    const RowAnomaly& row = result.rows[i];
    if (!row.flagged || row.likelihood.status != 0) continue;
    const int64_t begin = places[i].start_frame;
    // With a hop larger than the window, neighbours in the grid do not touch and stay apart.
    const bool joins = !spans.empty() && begin <= spans.back().end;
    if (!joins) {
      Span span;
      span.record = record;
      span.begin = begin;
      spans.push_back(span);
    }
    Span& span = spans.back();
    span.end = begin + window_frames;
    if (span.windows == 0 || row.score > span.score) {
      span.score = row.score;
      span.reasons = ReasonText(row, result.feature_names);
      span.top_row = i;
    }
    span.p_value = std::min(span.p_value, row.p_value);
    ++span.windows;
  }
  return spans;
}

std::vector<Span> TopSpans(std::vector<Span> spans, size_t count) {
  std::stable_sort(spans.begin(), spans.end(),
                   [](const Span& a, const Span& b) { return a.score > b.score; });
  if (spans.size() > count) spans.resize(count);
  return spans;
}

}  // namespace bflow::client
