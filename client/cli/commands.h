// The subcommands of bflow, one file each. AddX declares the flags on the program and returns a
// function that runs the command and gives its exit code (base/exit_code.h).
#ifndef BFLOW_CLIENT_CLI_COMMANDS_H_
#define BFLOW_CLIENT_CLI_COMMANDS_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/flow_client.h"
#include "client/input.h"

namespace bflow::client {

struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;
};

Command AddModels(CLI::App* program);
Command AddInfo(CLI::App* program);
Command AddHealth(CLI::App* program);
Command AddLogLik(CLI::App* program);
Command AddScore(CLI::App* program);
Command AddSample(CLI::App* program);

// Flags of every command.
struct CommonFlags {
  std::string server = "127.0.0.1:8001";
  std::string deadline = "30s";
  bool json = false;

  void Add(CLI::App* app);
  absl::StatusOr<ClientOptions> Options() const;
};

// Flags of the commands that read records.
struct InputFlags {
  std::string model;
  std::vector<std::string> inputs;
  std::string signals;  // comma-separated
  std::optional<int64_t> hop;
  std::string from;
  std::string to;

  void Add(CLI::App* app);
  absl::StatusOr<InputOptions> Options() const;
};

// Accepts decimal digits only: the parser's own unsigned numbers wrap around below 0.
const CLI::Validator& WholeNumber();

// Prints "bflow: text" to stderr and returns `exit_code`.
int Fail(const std::string& text, int exit_code);
// The same with the status' text and its exit code.
int Fail(const absl::Status& status);

// False if no file can be made at `path`, nor the device or pipe there written to: found before the
// work, not after.
bool CanWrite(const std::string& path);

// A bar on stderr while it is a terminal, else nothing.
class ProgressBar {
 public:
  ProgressBar(const std::string& label, int64_t total);
  ~ProgressBar();
  void Update(int64_t done);

 private:
  std::string label_;
  int64_t total_;
  bool shown_;
};

// Flag names with '-' for '_', up to the first "=" of each argument and the first "--".
std::vector<std::string> NormaliseArguments(int argc, char** argv);

// The whole program.
int RunBflow(int argc, char** argv);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_CLI_COMMANDS_H_
