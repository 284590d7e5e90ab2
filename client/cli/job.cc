#include "client/cli/job.h"

#include <cstdio>
#include <utility>

#include "base/exit_code.h"
#include "base/file.h"
#include "client/model_name.h"
#include "client/rpc_status.h"

namespace bflow::client {
namespace {

std::string Text(const absl::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

JobOutcome Ended(int exit_code) {
  JobOutcome outcome;
  outcome.exit_code = exit_code;
  return outcome;
}

}  // namespace

JobOutcome RunJob(FlowClient* client, const InputFlags& flags,
                  const std::function<absl::Status(const PinnedModel&, InputWindows)>& score) {
  const auto options = flags.Options();
  if (!options.ok()) return Ended(Fail(options.status()));
  const auto selector = ParseModelName(flags.model);
  if (!selector.ok()) return Ended(Fail(selector.status()));
  const auto model = client->Pin(*selector);
  if (!model.ok()) return Ended(Fail(model.status()));
  if (!options->signals.empty() && !model->is_image() &&
      static_cast<int>(options->signals.size()) != model->info.channels_size()) {
    return Ended(
        Fail("--signals: one name for each of the model's channels is needed", kExitUsage));
  }
  const bool of_waveforms = !options->signals.empty() || options->hop > 0 ||
                            options->from_s.has_value() || options->to_s.has_value();
  if (model->is_image() && of_waveforms) {
    return Ended(Fail("--signals, --hop, --from, --to: go with waveforms, the model takes images",
                      kExitUsage));
  }
  JobOutcome outcome;
  outcome.model = *model;
  size_t used = 0;
  for (const std::string& path : flags.inputs) {
    auto input = LoadInput(path, *model, *options);
    if (!input.ok()) {
      outcome.failed.emplace_back(std::string(BaseName(path)), Text(input.status()));
      Fail(Text(input.status()), kExitPartial);
      continue;
    }
    for (const std::string& skipped : input->skipped) {
      std::fprintf(stderr, "bflow: %s: skipped %s\n", input->record.c_str(), skipped.c_str());
    }
    outcome.partial = outcome.partial || input->mismatch;
    const std::string record = input->record;
    const absl::Status status = score(*model, *std::move(input));
    if (!status.ok()) {
      Fail(record + ": " + Text(status), kExitPartial);
      return Ended(status.code() == absl::StatusCode::kAborted ? kExitTemporary
                                                               : ExitCodeForStatus(status));
    }
    ++used;
  }
  outcome.partial = outcome.partial || !outcome.failed.empty();
  if (used == 0) outcome.exit_code = kExitBadInput;
  return outcome;
}

bool ListMarked(const InputWindows& input, const std::vector<uint8_t>& status) {
  constexpr int kListed = 16;
  const char* const what = input.window_frames > 0 ? "window" : "image";
  int marked = 0;
  for (size_t i = 0; i < status.size(); ++i) {
    if (status[i] == 0) continue;
    if (++marked > kListed) continue;
    std::fprintf(stderr, "bflow: %s: %s %lld: %s\n", input.record.c_str(), what,
                 static_cast<long long>(input.places[i].index), RowStatusName(status[i]).c_str());
  }
  if (marked > kListed) {
    std::fprintf(stderr, "bflow: %s: and %d more %ss\n", input.record.c_str(), marked - kListed,
                 what);
  }
  return marked > 0;
}

}  // namespace bflow::client
