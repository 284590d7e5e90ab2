#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "base/json.h"
#include "client/cli/commands.h"
#include "client/model_name.h"

namespace bflow::client {

Command AddModels(CLI::App* program) {
  CLI::App* app = program->add_subcommand("models", "list the server's models");
  auto flags = std::make_shared<CommonFlags>();
  flags->Add(app);
  auto run = [flags]() -> int {
    const auto options = flags->Options();
    if (!options.ok()) return Fail(options.status());
    const auto models = FlowClient(*options).ListModels();
    if (!models.ok()) return Fail(models.status());
    Json document = Json::array();
    if (!flags->json) {
      std::printf("%-20s %7s %-9s %-12s %-12s %s\n", "MODEL", "VERSION", "STATE", "SHAPE",
                  "MANIFEST", "LABELS");
    }
    for (const auto& model : *models) {
      const std::string shape = absl::StrJoin(model.event_shape(), "x");
      for (const auto& version : model.versions()) {
        if (flags->json) {
          Json row;
          row["model"] = model.name();
          row["version"] = version.version();
          row["state"] = VersionStateName(version.state());
          row["event_shape"] =
              std::vector<int64_t>(model.event_shape().begin(), model.event_shape().end());
          row["manifest_sha256"] = version.manifest_sha256();
          row["labels"] =
              std::vector<std::string>(version.labels().begin(), version.labels().end());
          row["reason"] = version.reason();
          document.push_back(row);
          continue;
        }
        std::printf("%-20s %7lld %-9s %-12s %-12s %s\n", model.name().c_str(),
                    static_cast<long long>(version.version()),
                    VersionStateName(version.state()).c_str(), shape.c_str(),
                    version.manifest_sha256().substr(0, 12).c_str(),
                    absl::StrJoin(version.labels(), ",").c_str());
        if (!version.reason().empty()) std::printf("  %s\n", version.reason().c_str());
      }
    }
    if (flags->json) std::printf("%s\n", document.dump(2).c_str());
    return kExitOk;
  };
  return {app, run};
}

}  // namespace bflow::client
