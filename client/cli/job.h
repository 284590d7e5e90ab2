// What loglik and score share: the model is pinned, then each input is read and sent, one after the
// other. An input that cannot be used is listed on stderr and the others go on.
#ifndef BFLOW_CLIENT_CLI_JOB_H_
#define BFLOW_CLIENT_CLI_JOB_H_

#include <functional>
#include <string>
#include <vector>

#include "client/cli/commands.h"
#include "client/report.h"

namespace bflow::client {

struct JobOutcome {
  PinnedModel model;
  std::vector<FailedInput> failed;
  bool partial = false;  // something was skipped, failed or marked
  int exit_code = 0;     // not 0: the job ended early and said why
};

// Calls `score` for each input that can be read. An error of one input's data is listed; an
// unreachable server, or a request that no input could satisfy, ends the job.
JobOutcome RunJob(FlowClient* client, const InputFlags& flags,
                  const std::function<absl::Status(const PinnedModel&, InputWindows)>& score);

// Lists up to 16 marked windows (images) of an input on stderr; true if there are any.
bool ListMarked(const InputWindows& input, const std::vector<uint8_t>& status);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_CLI_JOB_H_
