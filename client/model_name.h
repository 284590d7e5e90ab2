// The way a person names a model on a command line: `name`, `name@version` or `name:label`; and the
// choice of one version before a job starts, so that all of its calls are answered by the same
// weights.
#ifndef BFLOW_CLIENT_MODEL_NAME_H_
#define BFLOW_CLIENT_MODEL_NAME_H_

#include <string>

#include "absl/status/statusor.h"
#include "butterflyflow/v1/flow.pb.h"

namespace bflow::client {

// Errors: InvalidArgument for an empty name or label, or a version that is not a positive integer.
absl::StatusOr<butterflyflow::v1::ModelSelector> ParseModelName(const std::string& text);

// The version that `selector` means among those of `info`: the named one, the one that carries the
// label, or else the one labelled "stable", or else the newest READY one. Errors: NotFound;
// FailedPrecondition or Unavailable if that version is not READY, with the server's reason.
absl::StatusOr<butterflyflow::v1::VersionInfo> ChooseVersion(
    const butterflyflow::v1::ModelInfo& info, const butterflyflow::v1::ModelSelector& selector);

// "READY", "LOADING", ...
std::string VersionStateName(butterflyflow::v1::VersionState state);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_MODEL_NAME_H_
