#include "client/model_name.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/rpc_status.h"

namespace bflow::client {

namespace v1 = ::butterflyflow::v1;

absl::StatusOr<v1::ModelSelector> ParseModelName(const std::string& text) {
  v1::ModelSelector selector;
  const size_t mark = text.find_first_of("@:");
  selector.set_name(text.substr(0, mark));
  if (selector.name().empty()) {
    return absl::InvalidArgumentError(
        "MODEL: the name is empty; use name, name@version or name:label");
  }
  if (mark == std::string::npos) return selector;
  const std::string rest = text.substr(mark + 1);
  if (text[mark] == '@') {
    int64_t version = 0;
    if (!absl::SimpleAtoi(rest, &version) || version <= 0) {
      return absl::InvalidArgumentError("MODEL: the version after '@' must be a positive integer");
    }
    selector.set_version(version);
  } else {
    if (rest.empty() || rest.find_first_of("@:") != std::string::npos) {
      return absl::InvalidArgumentError("MODEL: one label must follow ':', as in name:stable");
    }
    selector.set_label(rest);
  }
  return selector;
}

std::string VersionStateName(v1::VersionState state) {
  constexpr char kPrefix[] = "VERSION_STATE_";
  const std::string name = v1::VersionState_Name(state);
  return name.rfind(kPrefix, 0) == 0 ? name.substr(sizeof(kPrefix) - 1) : "UNKNOWN";
}

absl::StatusOr<v1::VersionInfo> ChooseVersion(const v1::ModelInfo& info,
                                              const v1::ModelSelector& selector) {
  const v1::VersionInfo* chosen = nullptr;
  const std::string label = selector.has_label() ? selector.label() : "stable";
  for (const v1::VersionInfo& version : info.versions()) {
    if (selector.has_version()) {
      if (version.version() == selector.version()) chosen = &version;
    } else if (std::find(version.labels().begin(), version.labels().end(), label) !=
               version.labels().end()) {
      chosen = &version;
    }
  }
  if (chosen == nullptr && !selector.has_version() && !selector.has_label()) {
    for (const v1::VersionInfo& version : info.versions()) {
      if (version.state() != v1::VERSION_STATE_READY) continue;
      if (chosen == nullptr || version.version() > chosen->version()) chosen = &version;
    }
    if (chosen == nullptr && info.versions_size() > 0) {
      chosen = &*std::max_element(
          info.versions().begin(), info.versions().end(),
          [](const auto& a, const auto& b) { return a.version() < b.version(); });
    }
  }
  if (chosen == nullptr) {
    return absl::NotFoundError(absl::StrCat(
        "MODEL: the model has no version ",
        selector.has_version()
            ? absl::StrCat(selector.version())
            : (selector.has_label() ? std::string("with that label") : std::string("at all")),
        "; `bflow info` lists its versions"));
  }
  if (chosen->state() == v1::VERSION_STATE_LOADING) {
    return absl::UnavailableError(
        absl::StrCat("MODEL: version ", chosen->version(), " is still loading"));
  }
  if (chosen->state() != v1::VERSION_STATE_READY) {
    absl::Status failed = absl::FailedPreconditionError(absl::StrCat(
        "MODEL: version ", chosen->version(), " is ", VersionStateName(chosen->state()),
        chosen->reason().empty() ? "" : ": ", chosen->reason()));
    failed.SetPayload(kReasonPayload, absl::Cord("MODEL_FAILED"));
    return failed;
  }
  return *chosen;
}

}  // namespace bflow::client
