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

constexpr int64_t kRowsBetweenLooks = 256;  // at the stop flag: seconds of a large image flow

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
                                          uint64_t seed, int64_t draws,
                                          const std::atomic<bool>* stop) {
  TestFigures figures;
  figures.draws = flow.spec().quantised() ? draws : 1;
  const Noise noise = EvaluationNoise(flow.spec(), seed);
  const int64_t size = flow.spec().event_size();
  std::vector<std::vector<double>> log_prob;
  while (figures.rows < rows && (stop == nullptr || !stop->load())) {
    const int64_t begin = figures.rows, count = std::min(kRowsBetweenLooks, rows - begin);
    const HostBatch batch{count,
                          {codes.begin() + begin * size, codes.begin() + (begin + count) * size}};
    Noise of_rows = noise;
    of_rows.row_offset += static_cast<uint64_t>(begin);
    log_prob.resize(static_cast<size_t>(begin + count));
    for (int64_t draw = 0; draw < figures.draws; ++draw) {
      BFLOW_ASSIGN_OR_RETURN(
          const PassResult pass,
          RunPass(flow, batch, of_rows, static_cast<uint32_t>(draw), PassOptions{}));
      for (int64_t row = 0; row < count; ++row) {
        log_prob[static_cast<size_t>(begin + row)].push_back(
            pass.log_prob[static_cast<size_t>(row)]);
      }
    }
    figures.rows += count;
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
  const double values =
      static_cast<double>((figures.rows - figures.not_finite) * flow.spec().event_size());
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
