#include "tests/golden/check_case.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <map>
#include <utility>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "tests/golden/compare.h"
#include "tests/golden/image_cases.h"
#include "tests/golden/waveform_cases.h"

namespace bflow::golden {
namespace {

double RelativeError(const Comparison& c) {
  if (c.got.sizes() != c.expected.sizes()) return std::numeric_limits<double>::infinity();
  if (c.got.numel() == 0) return 0;
  const at::Tensor got = c.got.detach().to(at::kDouble);
  const at::Tensor expected = c.expected.to(at::kDouble);
  const at::Tensor error = (got - expected).abs() / expected.abs().clamp_min(1.0);
  if (!error.isfinite().all().item<bool>()) return std::numeric_limits<double>::infinity();
  return error.max().item<double>();
}

const std::map<std::string, Runner>& Runners() {
  static const auto* const kRunners = [] {
    auto* const runners = new std::map<std::string, Runner>(WaveformRunners());
    runners->merge(ImageRunners());
    return runners;
  }();
  return *kRunners;
}

absl::StatusOr<CaseReport> RunCase(const GoldenCase& golden, const SafetensorsFile& file) {
  const Runner& run = Runners().at(golden.kind);
  std::map<std::string, double> plain_errors;
  Comparisons plain;
  BFLOW_RETURN_IF_ERROR(run(golden, file, {at::kFloat, /*plain=*/true, /*frozen=*/false}, plain));
  for (const Comparison& c : plain) plain_errors[c.name] = RelativeError(c);

  CaseReport report;
  report.passed = true;
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const bool is_double = dtype == at::kDouble;
    double& worst = is_double ? report.float64_error : report.float32_error;
    for (const bool frozen : {false, true}) {
      Comparisons comparisons;
      BFLOW_RETURN_IF_ERROR(run(golden, file, {dtype, /*plain=*/false, frozen}, comparisons));
      if (comparisons.empty()) return absl::InvalidArgumentError("the case holds no result");
      for (const Comparison& c : comparisons) {
        const double error = RelativeError(c);
        const double tolerance = is_double ? 1e-9 : 2 * std::max(plain_errors[c.name], 1e-6);
        worst = std::max(worst, error);
        if (error <= tolerance) continue;
        report.passed = false;
        absl::StrAppend(&report.failures, report.failures.empty() ? "" : ", ", c.name,
                        is_double ? " (float64)" : " (float32)");
      }
    }
  }
  return report;
}

}  // namespace

bool IsSupportedKind(const std::string& kind) { return Runners().count(kind) > 0; }

absl::StatusOr<CaseReport> CheckCase(const GoldenCase& golden, const SafetensorsFile& file) {
  at::set_num_threads(1);  // cases are small: threads would only wait for each other
  try {
    return RunCase(golden, file);
  } catch (const std::exception& e) {  // shapes that do not fit each other, or a JSON type
    const std::string text = e.what();
    return absl::InvalidArgumentError(text.substr(0, text.find('\n')));
  }
}

}  // namespace bflow::golden
