// What bflow prints about scored records: the CSV of `bflow score` (columns pinned), the summary
// for a person and the JSON document. A model of images has columns and keys of its own.
#ifndef BFLOW_CLIENT_REPORT_H_
#define BFLOW_CLIENT_REPORT_H_

#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "client/flow_client.h"
#include "client/input.h"
#include "client/spans.h"

namespace bflow::client {

// A record with its scores; result.rows[i] belongs to input.places[i].
struct ScoredRecord {
  InputWindows input;
  AnomalyResult result;
};

// The name of an input that could not be used, and why.
using FailedInput = std::pair<std::string, std::string>;

// A CSV field by RFC 4180: quoted only where it has to be.
std::string CsvField(const std::string& text);

// The columns that loglik and score begin with: which row of which input, the model, its
// likelihood. Without the end of the line.
std::string LikelihoodCsvHeader(const PinnedModel& model);
std::string LikelihoodCsv(const PinnedModel& model, const InputWindows& input, size_t row,
                          const RowLogLikelihood& likelihood);

std::string ScoreCsv(const PinnedModel& model, const std::vector<ScoredRecord>& records);

// "OK", "NON_FINITE_INPUT", "NON_FINITE_SCORE", "OUT_OF_RANGE".
std::string RowStatusName(uint8_t status);

struct ScoreSummary {
  int64_t windows = 0;
  int64_t marked = 0;    // row status other than OK
  int64_t constant = 0;  // with a constant channel
  int64_t flagged = 0;   // of the windows with status OK, as the figures below
  double p_min = 0;
  double p_median = 0;
  double p_share_005 = 0;   // share of p <= 0.05
  double nats_per_dim = 0;  // means
  double bits_per_dim = 0;
  std::vector<Span> top;  // the five most anomalous
  size_t spans = 0;
};

ScoreSummary Summarise(const std::vector<ScoredRecord>& records);

std::string ScoreText(const PinnedModel& model, const std::vector<ScoredRecord>& records,
                      const std::vector<FailedInput>& failed, const ScoreSummary& summary);
Json ScoreJson(const PinnedModel& model, const std::vector<ScoredRecord>& records,
               const std::vector<FailedInput>& failed, const ScoreSummary& summary);

// A number for JSON, which knows no infinity: null then.
Json Number(double value);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_REPORT_H_
