#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "base/exit_code.h"
#include "base/file.h"
#include "client/cli/job.h"

namespace bflow::client {
namespace {

struct Flags : CommonFlags {
  InputFlags input;
  std::optional<double> alpha;
  bool attribution = false;
  uint64_t seed = 0;
  std::string out;
};

int Run(const Flags& flags) {
  const auto options = flags.Options();
  if (!options.ok()) return Fail(options.status());
  if (flags.alpha.has_value() && !(*flags.alpha > 0 && *flags.alpha < 1)) {
    return Fail("--alpha: takes a number between 0 and 1, both excluded", kExitUsage);
  }
  if (!flags.out.empty() && !CanWrite(flags.out)) {
    return Fail("--out: the file cannot be created there", kExitCannotWrite);
  }
  FlowClient client(*options);
  std::vector<ScoredRecord> records;
  bool marked = false;
  auto score = [&](const PinnedModel& model, InputWindows input) -> absl::Status {
    ProgressBar bar(input.record, input.rows.rows);
    auto result = client.AnomalyScore(model, input.rows,
                                      {.alpha = flags.alpha, .want_attribution = flags.attribution},
                                      [&](int64_t done) { bar.Update(done); });
    if (!result.ok()) return result.status();
    std::vector<uint8_t> status;
    for (const RowAnomaly& row : result->rows) status.push_back(row.likelihood.status);
    marked = ListMarked(input, status) || marked;
    records.push_back({std::move(input), *std::move(result)});
    return absl::OkStatus();
  };
  const JobOutcome job = RunJob(&client, flags.input, score);
  if (job.exit_code != kExitOk) return job.exit_code;
  if (!flags.out.empty()) {
    const absl::Status written = WriteUserFile(flags.out, ScoreCsv(job.model, records));
    if (!written.ok()) {
      return Fail("--out: " + std::string(written.message().data(), written.message().size()),
                  kExitCannotWrite);
    }
  }
  const ScoreSummary summary = Summarise(records);
  const std::string text = flags.json
                               ? ScoreJson(job.model, records, job.failed, summary).dump(2) + "\n"
                               : ScoreText(job.model, records, job.failed, summary);
  std::fputs(text.c_str(), stdout);
  return job.partial || marked ? kExitPartial : kExitOk;
}

}  // namespace

Command AddScore(CLI::App* program) {
  CLI::App* app =
      program->add_subcommand("score", "anomaly scores of the windows of records, or of images");
  auto flags = std::make_shared<Flags>();
  flags->Add(app);
  flags->input.Add(app);
  app->add_option("--alpha", flags->alpha, "flag p-values up to this; the model's if not given");
  app->add_flag(
      "--attribution", flags->attribution,
      "also where in the windows (not of images): a column and a line of the summary; slower");
  app->add_option("--seed", flags->seed,
                  "accepted, without effect: the calibration fixes the noise");
  app->add_option("--out", flags->out, "CSV file, one line per window or image");
  return {app, [flags] { return Run(*flags); }};
}

}  // namespace bflow::client
