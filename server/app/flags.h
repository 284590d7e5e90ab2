// The command line of bflow-server.
#ifndef BFLOW_SERVER_APP_FLAGS_H_
#define BFLOW_SERVER_APP_FLAGS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace butterflyflow::v1 {
class ServerConfig;
}

namespace bflow {

struct Flags {
  std::optional<std::string> config_file, model_repository, listen, metrics_listen, device,
      log_level;
  std::optional<bool> reflection;
  bool check_config = false;
  bool health_check = false;
  // --help or --version: print this and exit 0.
  std::string text;
};

// `--name=value` and `--name value`; `_` and `-` are the same in a name. Errors: InvalidArgument
// (usage).
absl::StatusOr<Flags> ParseFlags(const std::vector<std::string>& arguments);

// Defaults, then the file, then the flags. Errors: InvalidArgument.
absl::StatusOr<butterflyflow::v1::ServerConfig> EffectiveConfig(const Flags& flags);

}  // namespace bflow

#endif  // BFLOW_SERVER_APP_FLAGS_H_
