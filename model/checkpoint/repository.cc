#include "model/checkpoint/repository.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/names.h"
#include "base/status.h"
#include "model/checkpoint/checkpoint_files.h"

namespace bflow {

bool Reproduces(double value, double expected, double rtol) {
  return std::abs(value - expected) <= rtol * std::max(1.0, std::abs(expected));
}

std::optional<int64_t> ParseVersion(std::string_view text) {
  if (text.empty() || text.front() < '1' || text.front() > '9') return std::nullopt;
  int64_t version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return version;
}

absl::StatusOr<std::vector<RepositoryModel>> ListRepository(const std::string& repository,
                                                            int* ignored) {
  int left_out = 0;
  std::vector<RepositoryModel> models;
  BFLOW_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDirectory(repository));
  for (std::string& name : names) {
    const std::string folder = JoinPath(repository, name);
    const auto entries = IsValidModelName(name) && IsDirectory(folder)
                             ? ListDirectory(folder)
                             : absl::NotFoundError("not a model");
    if (!entries.ok()) {
      ++left_out;
      continue;
    }
    RepositoryModel model{std::move(name), {}};
    for (const std::string& entry : *entries) {
      const auto version = ParseVersion(entry);
      const std::string version_folder = JoinPath(folder, entry);
      if (!version || !IsDirectory(version_folder)) {
        ++left_out;
      } else if (FileExists(JoinPath(version_folder, kManifestFile))) {
        model.versions.push_back(*version);
      }
    }
    std::sort(model.versions.begin(), model.versions.end());
    if (!model.versions.empty()) models.push_back(std::move(model));
  }
  if (ignored != nullptr) *ignored = left_out;
  return models;
}

std::string VersionDirectory(std::string_view repository, std::string_view model, int64_t version) {
  return JoinPath(JoinPath(repository, model), std::to_string(version));
}

}  // namespace bflow
