#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

#include "base/exit_code.h"
#include "base/file.h"
#include "base/version.h"
#include "client/cli/commands.h"

namespace bflow::client {
namespace {

// Output files appear whole under their name or not at all.
void OnInterrupt(int) {
  RemoveUnfinishedFile();
  _exit(kExitInterrupted);
}

// Samples are written for as long as they are drawn; then the process dies of the signal as it
// would have.
void OnTermination(int signal) {
  RemoveUnfinishedFile();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

int Dispatch(int argc, char** argv) {
  std::vector<std::string> arguments = NormaliseArguments(argc, argv);
  const auto flags_end = std::find(arguments.begin(), arguments.end(), "--");
  if (std::find(arguments.begin(), flags_end, "--version") != flags_end) {
    std::printf("bflow %s\n", kVersion);
    return kExitOk;
  }
  CLI::App program("Client of bflow-server: scores records, samples from models, reports on both.",
                   "bflow");
  program.require_subcommand(1);
  program.footer(
      "--version prints the version. Exit codes: 0 done; 1 some records or rows failed; "
      "64 usage; 65 no usable input; 69 server unreachable; 70 a fault of the server; "
      "73 cannot write; 130 Ctrl-C (no file is left half written).");
  const std::vector<Command> commands = {AddModels(&program), AddInfo(&program),
                                         AddHealth(&program), AddLogLik(&program),
                                         AddScore(&program),  AddSample(&program)};
  std::reverse(arguments.begin(), arguments.end());  // the order that CLI11 takes a vector in
  try {
    program.parse(arguments);
  } catch (const CLI::Success& help) {
    return program.exit(help) == 0 ? kExitOk : kExitUsage;
  } catch (const CLI::ParseError& error) {
    program.exit(error);
    return kExitUsage;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return kExitUsage;
}

}  // namespace

int RunBflow(int argc, char** argv) {
  std::signal(SIGINT, OnInterrupt);
  std::signal(SIGTERM, OnTermination);
  if (std::signal(SIGHUP, OnTermination) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // nohup
  std::signal(SIGXFSZ, SIG_IGN);  // an error of the write, as a full disk is
  return ExitAfterOutput(Dispatch(argc, argv), "bflow");
}

}  // namespace bflow::client
