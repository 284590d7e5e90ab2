#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "client/cli/job.h"

namespace bflow::client {
namespace {

struct Flags : CommonFlags {
  InputFlags input;
  std::optional<uint64_t> seed;
  uint32_t draws = 1;
  std::string out;
};

struct RecordLikelihood {
  InputWindows input;
  std::vector<RowLogLikelihood> rows;
};

// Means over the windows with status OK.
struct Means {
  int64_t windows = 0;
  double log_prob = 0;
  double nats_per_dim = 0;
  double bits_per_dim = 0;
};

Means MeansOf(const std::vector<RowLogLikelihood>& rows) {
  Means m;
  for (const RowLogLikelihood& row : rows) {
    if (row.status != 0) continue;
    ++m.windows;
    m.log_prob += row.log_prob;
    m.nats_per_dim += row.nats_per_dim;
    m.bits_per_dim += row.bits_per_dim;
  }
  const double n = m.windows > 0 ? static_cast<double>(m.windows) : std::nan("");
  m.log_prob /= n;
  m.nats_per_dim /= n;
  m.bits_per_dim /= n;
  return m;
}

std::string Csv(const PinnedModel& model, const std::vector<RecordLikelihood>& records) {
  std::string out = LikelihoodCsvHeader(model) + "\r\n";
  for (const RecordLikelihood& record : records) {
    for (size_t i = 0; i < record.rows.size(); ++i) {
      absl::StrAppend(&out, LikelihoodCsv(model, record.input, i, record.rows[i]), "\r\n");
    }
  }
  return out;
}

void PrintText(const JobOutcome& job, const Flags& flags, uint64_t seed,
               const std::vector<RecordLikelihood>& records) {
  std::printf("model      %s@%lld  manifest %s\n", job.model.info.name().c_str(),
              static_cast<long long>(job.model.version.version()),
              job.model.version.manifest_sha256().substr(0, 12).c_str());
  std::printf("noise      seed %llu, %u draw%s\n", static_cast<unsigned long long>(seed),
              flags.draws, flags.draws == 1 ? "" : "s");
  std::printf("%-24s %8s %8s %14s %12s %12s\n", "RECORD",
              job.model.is_image() ? "IMAGES" : "WINDOWS", "MARKED", "LOG_PROB", "NATS/DIM",
              "BITS/DIM");
  for (const RecordLikelihood& record : records) {
    const Means m = MeansOf(record.rows);
    std::printf("%-24s %8lld %8lld %14.4f %12.6f %12.6f\n", record.input.record.c_str(),
                static_cast<long long>(m.windows),
                static_cast<long long>(static_cast<int64_t>(record.rows.size()) - m.windows),
                m.log_prob, m.nats_per_dim, m.bits_per_dim);
  }
}

Json Document(const JobOutcome& job, const Flags& flags, uint64_t seed,
              const std::vector<RecordLikelihood>& records) {
  Json out;
  out["model"] = job.model.info.name();
  out["version"] = job.model.version.version();
  out["manifest_sha256"] = job.model.version.manifest_sha256();
  out["seed"] = seed;
  out["draws"] = flags.draws;
  out["records"] = Json::array();
  for (const RecordLikelihood& record : records) {
    const Means m = MeansOf(record.rows);
    out["records"].push_back({{"record", record.input.record},
                              {job.model.is_image() ? "images" : "windows", m.windows},
                              {"marked", static_cast<int64_t>(record.rows.size()) - m.windows},
                              {"log_prob", Number(m.log_prob)},
                              {"nats_per_dim", Number(m.nats_per_dim)},
                              {"bits_per_dim", Number(m.bits_per_dim)}});
    if (!job.model.is_image()) out["records"].back()["skipped"] = record.input.skipped;
  }
  out["failed"] = Json::array();
  for (const FailedInput& f : job.failed) {
    out["failed"].push_back({{"record", f.first}, {"reason", f.second}});
  }
  return out;
}

int Run(const Flags& flags) {
  const auto options = flags.Options();
  if (!options.ok()) return Fail(options.status());
  if (!flags.out.empty() && !CanWrite(flags.out)) {
    return Fail("--out: the file cannot be created there", kExitCannotWrite);
  }
  FlowClient client(*options);
  LogLikelihoodOptions noise;
  noise.seed = flags.seed.has_value() ? *flags.seed : RandomSeed();
  noise.draws = flags.draws;
  std::vector<RecordLikelihood> records;
  bool marked = false;
  auto score = [&](const PinnedModel& model, InputWindows input) -> absl::Status {
    ProgressBar bar(input.record, input.rows.rows);
    auto rows =
        client.LogLikelihood(model, input.rows, noise, [&](int64_t done) { bar.Update(done); });
    if (!rows.ok()) return rows.status();
    std::vector<uint8_t> status;
    for (const RowLogLikelihood& row : *rows) status.push_back(row.status);
    marked = ListMarked(input, status) || marked;
    records.push_back({std::move(input), *std::move(rows)});
    return absl::OkStatus();
  };
  const JobOutcome job = RunJob(&client, flags.input, score);
  if (job.exit_code != kExitOk) return job.exit_code;
  if (!flags.out.empty()) {
    const absl::Status written = WriteUserFile(flags.out, Csv(job.model, records));
    if (!written.ok()) {
      return Fail("--out: " + std::string(written.message().data(), written.message().size()),
                  kExitCannotWrite);
    }
  }
  if (flags.json) {
    std::printf("%s\n", Document(job, flags, noise.seed, records).dump(2).c_str());
  } else {
    PrintText(job, flags, noise.seed, records);
  }
  return job.partial || marked ? kExitPartial : kExitOk;
}

}  // namespace

Command AddLogLik(CLI::App* program) {
  CLI::App* app =
      program->add_subcommand("loglik", "exact log-likelihood of windows of records, or of images");
  auto flags = std::make_shared<Flags>();
  flags->Add(app);
  flags->input.Add(app);
  app->add_option("--seed", flags->seed, "of the dequantisation noise; random if not given")
      ->check(WholeNumber());
  app->add_option("--draws", flags->draws, "noise draws per window or image")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app->add_option("--out", flags->out, "CSV file, one line per window or image");
  return {app, [flags] { return Run(*flags); }};
}

}  // namespace bflow::client
