// Strict JSON for files from outside: bounded depth, no duplicate keys, valid UTF-8, nothing after
// the value. Parsing is nlohmann::json's; this adds what its default parser lets through.
#ifndef BFLOW_BASE_JSON_H_
#define BFLOW_BASE_JSON_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace bflow {

// Keys keep the order of the file.
using Json = nlohmann::ordered_json;

// Errors: InvalidArgument with the byte offset, never with the content.
absl::StatusOr<Json> ParseJson(std::string_view text, int max_depth = 8);

}  // namespace bflow

#endif  // BFLOW_BASE_JSON_H_
