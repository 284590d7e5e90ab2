#include <cstdio>
#include <memory>

#include "base/exit_code.h"
#include "base/json.h"
#include "client/cli/commands.h"

namespace bflow::client {

Command AddHealth(CLI::App* program) {
  CLI::App* app =
      program->add_subcommand("health", "ask the server how it is; exit 0 only if it is ready");
  auto flags = std::make_shared<CommonFlags>();
  flags->Add(app);
  auto run = [flags]() -> int {
    const auto options = flags->Options();
    if (!options.ok()) return Fail(options.status());
    FlowClient client(*options);
    Json document;
    bool ready = false;
    for (const char* service : {"liveness", "readiness"}) {
      const auto status = client.CheckHealth(service);
      if (!status.ok()) return Fail(status.status());
      const char* text = *status == 1 ? "SERVING" : *status == 2 ? "NOT_SERVING" : "UNKNOWN";
      document[service] = text;
      ready = *status == 1;  // the last one asked for is readiness
      if (!flags->json) std::printf("%-10s %s\n", service, text);
    }
    if (flags->json) std::printf("%s\n", document.dump(2).c_str());
    return ready ? kExitOk : kExitUnavailable;
  };
  return {app, run};
}

}  // namespace bflow::client
