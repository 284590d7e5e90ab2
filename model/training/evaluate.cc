#include "model/training/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "model/scoring/window_features.h"

namespace bflow {
namespace {

// log mean_k exp(values_k)
double LogMeanExp(const std::vector<double>& values) {
  const double most = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const double value : values) sum += std::exp(value - most);
  return most + std::log(sum / static_cast<double>(values.size()));
}

std::string Nll(const FlowSpec& spec, double nll) {
  const double in_codes = nll + CodeUnitOffset(spec);
  std::string text = absl::StrFormat("%.5f nats/dim (scaled unit)", nll);
  if (!spec.quantised()) return text;
  if (spec.is_image()) return absl::StrFormat("%.5f bits/dim  %s", in_codes / std::log(2), text);
  return absl::StrFormat("%s  %.5f nats/sample (converter step)", text, in_codes);
}

void PrintLine(const char* name, const std::string& text) {
  std::printf("%-12s %s\n", name, text.c_str());
}

}  // namespace

absl::StatusOr<TestFigures> EvaluateDraws(Flow& flow, const std::vector<float>& codes, int64_t rows,
                                          uint64_t seed, int64_t draws) {
  TestFigures figures;
  figures.rows = rows;
  figures.draws = flow.spec().quantised() ? draws : 1;
  const HostBatch batch{rows, codes};
  const Noise noise = EvaluationNoise(flow.spec(), seed);
  std::vector<std::vector<double>> log_prob(static_cast<size_t>(rows));
  for (int64_t draw = 0; draw < figures.draws; ++draw) {
    BFLOW_ASSIGN_OR_RETURN(const PassResult pass,
                           RunPass(flow, batch, noise, static_cast<uint32_t>(draw), PassOptions{}));
    for (size_t row = 0; row < log_prob.size(); ++row) log_prob[row].push_back(pass.log_prob[row]);
  }
  double sum = 0, weighted = 0;
  for (const std::vector<double>& of_row : log_prob) {
    double mean = 0;
    for (const double value : of_row) mean += value / static_cast<double>(figures.draws);
    if (!std::isfinite(mean)) {
      ++figures.not_finite;
      continue;
    }
    sum += mean;
    weighted += LogMeanExp(of_row);
  }
  const double values = static_cast<double>((rows - figures.not_finite) * flow.spec().event_size());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  figures.nll = values > 0 ? -sum / values : nan;
  figures.importance_weighted_nll = values > 0 ? -weighted / values : nan;
  return figures;
}

void PrintSummary(const RunSummary& summary, const FlowSpec& spec) {
  const TrainingOutcome& outcome = summary.outcome;
  PrintLine("model", absl::StrFormat("%s version %d, step %d, %.1f s of training, %d steps skipped",
                                     summary.model, summary.version, outcome.kept_step,
                                     outcome.seconds, outcome.skipped_steps));
  const RunDescription& run = summary.run;
  if (run.validation_nll) PrintLine("validation", Nll(spec, *run.validation_nll));
  if (run.test && std::isfinite(run.test->nll)) {
    PrintLine("test", Nll(spec, run.test->nll));
    if (run.test->draws > 1) {
      PrintLine("", absl::StrFormat("%s, importance-weighted, %d draws",
                                    Nll(spec, run.test->importance_weighted_nll), run.test->draws));
    }
  }
  if (run.test) {
    PrintLine("test part", absl::StrFormat("%d %s, %d not finite", run.test->rows, summary.noun,
                                           run.test->not_finite));
  }
  PrintLine("calibration", absl::StrFormat("%d %s", summary.calibration_rows, summary.noun));
}

}  // namespace bflow
