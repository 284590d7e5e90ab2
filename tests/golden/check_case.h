// Evaluates a golden case with the layers and flows of this project, in float64 and float32, and
// compares everything the case holds: forward, inverse, log-determinant, gradient, data-dependent
// initialisation, intermediate values; frozen (as served) and not.
#ifndef BFLOW_TESTS_GOLDEN_CHECK_CASE_H_
#define BFLOW_TESTS_GOLDEN_CHECK_CASE_H_

#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint/safetensors.h"
#include "tests/golden/golden_case.h"

namespace bflow::golden {

// Errors are relative: max |a - b| / max(1, |b|) over the tensors of the case.
struct CaseReport {
  bool passed = false;
  double float64_error = 0;
  double float32_error = 0;
  std::string failures;  // names of the tensors out of tolerance, empty if passed
};

bool IsSupportedKind(const std::string& kind);

// Errors: InvalidArgument naming the tensor or config field that is missing or does not fit.
absl::StatusOr<CaseReport> CheckCase(const GoldenCase& golden, const SafetensorsFile& file);

}  // namespace bflow::golden

#endif  // BFLOW_TESTS_GOLDEN_CHECK_CASE_H_
