#include "model/training/flag_values.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace bflow {

absl::Status Bad(const std::string& flag, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": expected ", expected));
}

absl::Status ParseInteger(const std::string& flag, const std::string& text, int64_t least,
                          std::optional<int64_t>* out) {
  int64_t value;
  if (!absl::SimpleAtoi(text, &value) || value < least) {
    return Bad(flag, absl::StrCat("an integer of at least ", least));
  }
  *out = value;
  return absl::OkStatus();
}

absl::Status ParseReal(const std::string& flag, const std::string& text, double least, double most,
                       double* out) {
  double value;
  if (!absl::SimpleAtod(text, &value) || !(value >= least && value <= most)) {
    return Bad(flag, absl::StrCat("a number from ", least, " to ", most));
  }
  *out = value;
  return absl::OkStatus();
}

absl::Status ParseOptionalReal(const std::string& flag, const std::string& text, double least,
                               double most, std::optional<double>* out) {
  double value = 0;
  BFLOW_RETURN_IF_ERROR(ParseReal(flag, text, least, most, &value));
  *out = value;
  return absl::OkStatus();
}

}  // namespace bflow
