#include "server/app/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "base/version.h"
#include "butterflyflow/v1/server_config.pb.h"
#include "server/config/server_config.h"

namespace bflow {
namespace {

constexpr int64_t kConfigFileMax = 1 << 20;

// "--model-repository=x-y" to "--model_repository=x-y".
std::string Normalise(std::string argument) {
  if (argument.rfind("--", 0) != 0) return argument;
  const size_t end = std::min(argument.find('='), argument.size());
  std::replace(argument.begin() + 2, argument.begin() + static_cast<std::ptrdiff_t>(end), '-', '_');
  return argument;
}

}  // namespace

absl::StatusOr<Flags> ParseFlags(const std::vector<std::string>& arguments) {
  Flags flags;
  CLI::App app{"Serves ButterflyFlow models over gRPC."};
  app.name("bflow-server");
  app.add_option("--model_repository", flags.model_repository, "folder of the models");
  app.add_option("--listen", flags.listen, "gRPC address, default 127.0.0.1:8001");
  app.add_option("--metrics_listen", flags.metrics_listen,
                 "address of /metrics, /livez and /readyz, default 127.0.0.1:8002");
  app.add_option("--device", flags.device, "auto, cpu or cuda");
  app.add_option("--config", flags.config_file, "textproto with all settings; flags override it");
  app.add_option("--log_level", flags.log_level, "debug, info, warning or error");
  bool reflection = false;
  CLI::Option* reflection_flag = app.add_flag("--reflection", reflection, "serve gRPC reflection");
  app.add_flag("--check_config", flags.check_config, "print the effective configuration and exit");
  app.add_flag("--health_check", flags.health_check, "ask the running server whether it is ready");
  app.set_version_flag("--version", absl::StrCat("bflow-server ", kVersion));
  std::vector<std::string> reversed;  // CLI11 takes them from the back
  for (const std::string& argument : arguments) reversed.push_back(Normalise(argument));
  std::reverse(reversed.begin(), reversed.end());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    flags.text = app.help();
  } catch (const CLI::CallForVersion&) {
    flags.text = absl::StrCat("bflow-server ", kVersion, "\n");
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  if (reflection_flag->count() > 0) flags.reflection = reflection;
  return flags;
}

absl::StatusOr<butterflyflow::v1::ServerConfig> EffectiveConfig(const Flags& flags) {
  butterflyflow::v1::ServerConfig config = DefaultConfig();
  if (flags.config_file) {
    absl::StatusOr<std::string> text = ReadUserFile(*flags.config_file, kConfigFileMax);
    if (!text.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config: ", std::string(text.status().message())));
    }
    BFLOW_RETURN_IF_ERROR(MergeTextproto(*text, &config));
  }
  if (flags.model_repository) config.mutable_repository()->set_path(*flags.model_repository);
  if (flags.listen) config.mutable_public_()->set_listen(*flags.listen);
  if (flags.metrics_listen) config.mutable_metrics()->set_listen(*flags.metrics_listen);
  if (flags.device) config.set_device(*flags.device);
  if (flags.log_level) config.set_log_level(*flags.log_level);
  if (flags.reflection) config.mutable_public_()->set_reflection(*flags.reflection);
  return config;
}

}  // namespace bflow
