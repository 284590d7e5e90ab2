// A server's life from the command line to the exit code.
#ifndef BFLOW_SERVER_APP_RUN_H_
#define BFLOW_SERVER_APP_RUN_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "server/app/server_app.h"

namespace bflow {

// What the tensor code contributes: the backend for `device` ("auto", "cpu", "cuda";
// FailedPrecondition naming the field where it cannot be had) and the scorer of a checkpoint.
struct Backend {
  std::function<absl::StatusOr<BackendFacts>(const std::string& device)> select;
  ScorerFactory make_scorer;
};

// Runs until SIGTERM or SIGINT; the exit code.
int RunServer(int argc, char** argv, const Backend& backend);

}  // namespace bflow

#endif  // BFLOW_SERVER_APP_RUN_H_
