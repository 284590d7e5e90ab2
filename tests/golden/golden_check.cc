// golden_check DIR [--kinds=a,b]: evaluates golden vectors with this build. A line per case, then a
// total; exit status 0 only if nothing failed.
#include <algorithm>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/exit_code.h"
#include "base/version.h"
#include "tests/golden/check_case.h"
#include "tests/golden/golden_case.h"

namespace bflow::golden {
namespace {

struct Totals {
  int checked = 0, failed = 0, skipped = 0;
  bool unreadable = false;  // some file or case is malformed
  double float64_error = 0, float32_error = 0;
};

std::string Text(const absl::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

void CheckOne(const std::string& directory, const GoldenCase& golden, Totals& totals) {
  const auto line = [&](const char* verdict, const std::string& detail) {
    std::printf("%-4s %-48s %-20s %s\n", verdict, golden.name.c_str(), golden.kind.c_str(),
                detail.c_str());
  };
  if (golden.kind.ends_with("_checkpoint")) {
    ++totals.skipped;
    return line("skip", "covered by the tests of the importer");
  }
  ++totals.checked;
  if (!IsSupportedKind(golden.kind)) {
    ++totals.failed;
    return line("FAIL", "unsupported kind");
  }
  const absl::StatusOr<SafetensorsFile> file = ReadTensors(directory, golden);
  const absl::StatusOr<CaseReport> report =
      file.ok() ? CheckCase(golden, *file) : absl::StatusOr<CaseReport>(file.status());
  if (!report.ok()) {
    ++totals.failed;
    totals.unreadable = true;
    return line("FAIL", Text(report.status()));
  }
  totals.float64_error = std::max(totals.float64_error, report->float64_error);
  totals.float32_error = std::max(totals.float32_error, report->float32_error);
  char errors[80];
  std::snprintf(errors, sizeof(errors), "float64 %.1e float32 %.1e", report->float64_error,
                report->float32_error);
  if (report->passed) return line("ok", errors);
  ++totals.failed;
  line("FAIL", std::string(errors) + " out of tolerance: " + report->failures);
}

int Run(const std::string& directory, const std::vector<std::string>& kinds) {
  const absl::StatusOr<std::vector<GoldenCase>> cases = ReadIndex(directory);
  if (!cases.ok()) {
    std::fprintf(stderr, "golden_check: %s\n", Text(cases.status()).c_str());
    return kExitBadInput;
  }
  std::set<std::string> missing(kinds.begin(), kinds.end());
  const std::set<std::string> wanted = missing;
  Totals totals;
  for (const GoldenCase& golden : *cases) {
    missing.erase(golden.kind);
    if (wanted.empty() || wanted.count(golden.kind) > 0) CheckOne(directory, golden, totals);
  }
  std::printf("%d cases: %d ok, %d failed, %d skipped; worst error float64 %.1e float32 %.1e\n",
              totals.checked + totals.skipped, totals.checked - totals.failed, totals.failed,
              totals.skipped, totals.float64_error, totals.float32_error);
  for (const std::string& kind : missing) {
    std::fprintf(stderr, "golden_check: --kinds: no case of kind %s\n", kind.c_str());
  }
  if (totals.unreadable || totals.checked + totals.skipped == 0) return kExitBadInput;
  return totals.failed > 0 ? kExitPartial : kExitOk;
}

}  // namespace
}  // namespace bflow::golden

int main(int argc, char** argv) {
  CLI::App app{"Evaluates golden vectors with this build, in float64 and float32"};
  app.set_version_flag("--version", std::string("golden_check ") + bflow::kVersion);
  std::string directory;
  std::vector<std::string> kinds;
  app.add_option("DIR", directory, "folder with index.json")->required();
  app.add_option("--kinds", kinds, "only cases of these kinds, separated by commas")
      ->delimiter(',');
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? bflow::kExitOk : bflow::kExitUsage;
  }
  return bflow::ExitAfterOutput(bflow::golden::Run(directory, kinds), "golden_check");
}
