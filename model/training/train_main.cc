// bflow-train: trains a flow on records and writes it to a model repository.
#include <csignal>

#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/fault_point.h"
#include "base/version.h"
#include "model/training/import_model.h"
#include "model/training/options.h"
#include "model/training/train_program.h"

namespace {

std::atomic<bool> stop{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set in a signal handler");

void InstallHandlers() {
  struct sigaction action = {};
  action.sa_handler = [](int) { stop.store(true); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second Ctrl-C ends the program at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // A write beyond the file-size limit must be an error like a full disk, not the end of the
  // process.
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &ignore, nullptr);
  sigaction(SIGPIPE, &ignore, nullptr);
}

int Usage(const absl::Status& status) {
  std::fprintf(stderr, "bflow-train: %s\n", std::string(status.message()).c_str());
  return bflow::kExitUsage;
}

int Run(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
#if defined(BFLOW_FAULTS) && BFLOW_FAULTS
  if (absl::Status plan = bflow::InstallFaultPlanOf(&arguments); !plan.ok()) return Usage(plan);
#endif
  absl::StatusOr<bflow::TrainOptions> options = bflow::ParseTrainOptions(arguments);
  if (!options.ok()) return Usage(options.status());
  if (options->help) {
    std::fputs(bflow::TrainHelp().c_str(), stdout);
    return bflow::kExitOk;
  }
  if (options->print_version) {
    std::printf("bflow-train %s\n", bflow::kVersion);
    return bflow::kExitOk;
  }
  if (!options->import_file.empty()) {
    return bflow::ImportModel(*options, *bflow::FileSystem::Real());
  }
  return bflow::RunTrain(*options, stop, *bflow::FileSystem::Real());
}

}  // namespace

int main(int argc, char** argv) {
  InstallHandlers();
  return bflow::ExitAfterOutput(Run(argc, argv), "bflow-train");
}
