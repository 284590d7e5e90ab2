// Values of command-line flags, checked. Errors are InvalidArgument "--flag: expected ...".
// Torch-free.
#ifndef BFLOW_MODEL_TRAINING_FLAG_VALUES_H_
#define BFLOW_MODEL_TRAINING_FLAG_VALUES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace bflow {

// Takes a flag's value.
using FlagHandler = std::function<absl::Status(const std::string&)>;

absl::Status Bad(const std::string& flag, const std::string& expected);

absl::Status ParseInteger(const std::string& flag, const std::string& text, int64_t least,
                          std::optional<int64_t>* out);

absl::Status ParseReal(const std::string& flag, const std::string& text, double least, double most,
                       double* out);

absl::Status ParseOptionalReal(const std::string& flag, const std::string& text, double least,
                               double most, std::optional<double>* out);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_FLAG_VALUES_H_
