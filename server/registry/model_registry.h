// Which versions of which models serve. Loading runs on one thread of its own: read and check the
// files, build the scorer, warm it up, reproduce the self-test rows, then publish the version by
// one pointer swap. A version that fails any step is FAILED with a reason; the others serve. A
// ModelHandle pins its version: it stays usable whatever happens here later.
#ifndef BFLOW_SERVER_REGISTRY_MODEL_REGISTRY_H_
#define BFLOW_SERVER_REGISTRY_MODEL_REGISTRY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "model/checkpoint/repository.h"
#include "model/scoring/scorer.h"
#include "server/metrics/metrics.h"

namespace bflow {

// Builds the scorer of a checkpoint that was read and checked.
using ScorerFactory =
    std::function<absl::StatusOr<std::unique_ptr<Scorer>>(const Checkpoint& checkpoint)>;

// What a version folder becomes.
struct LoadedVersion {
  std::unique_ptr<Scorer> scorer;
  SelfTest self_test;
  std::string manifest_sha256;
  std::map<std::string, std::string> card;
};
using ModelLoader =
    std::function<absl::StatusOr<LoadedVersion>(const std::string& version_directory)>;

// The loader of the files of docs/checkpoint_format.md.
ModelLoader CheckpointLoader(const CheckpointLimits& limits, ScorerFactory factory);

enum class ModelState { kLoading, kReady, kDraining, kRetired, kFailed };

struct ModelVersion {
  std::string name;
  int64_t version = 0;
  std::string manifest_sha256;
  std::map<std::string, std::string> card;
  std::shared_ptr<const Scorer> scorer;
  std::shared_ptr<ModelMetrics> metrics;
};
using ModelHandle = std::shared_ptr<const ModelVersion>;

struct RequestedModel {
  std::string name;
  std::optional<int64_t> version;  // nullopt: the newest complete one
  std::vector<std::string> labels;
};

struct RegistryOptions {
  std::string repository;
  std::vector<RequestedModel> models;  // none: the newest version of every model
  bool allow_empty = false;
  double selftest_rtol = 2e-4;
  std::vector<int64_t> warmup_rows = {1, 8, 32, 128};
};

// One version as the model service tells it.
struct VersionSnapshot {
  int64_t version = 0;
  ModelState state = ModelState::kLoading;
  std::string reason;  // why it failed
  std::vector<std::string> labels;
  ModelHandle handle;  // null unless ready
};

struct ModelSnapshot {
  std::string name;
  std::vector<VersionSnapshot> versions;  // ascending
};

class ModelRegistry {
 public:
  ModelRegistry(RegistryOptions options, ModelLoader loader, Metrics* metrics, const Clock* clock);
  ~ModelRegistry();
  ModelRegistry(const ModelRegistry&) = delete;
  ModelRegistry& operator=(const ModelRegistry&) = delete;

  // Looks at the repository and decides what to load. Errors, naming the field: InvalidArgument (no
  // such repository, a configured model or version is not on disk, no models).
  absl::Status Open();
  // Starts the loading thread. `on_change` is called on it after each version, and once more when
  // all are done.
  void StartLoading(std::function<void()> on_change);
  // Until every version is READY or FAILED.
  void WaitUntilLoaded();

  // Errors: MODEL_NOT_FOUND, MODEL_LOADING, MODEL_FAILED. Neither version nor label: the version
  // labelled "stable", else the newest READY one.
  absl::StatusOr<ModelHandle> Find(const std::string& name, std::optional<int64_t> version,
                                   std::optional<std::string> label) const;

  std::vector<ModelSnapshot> Snapshot() const;
  // Every start-up model has a READY version, and there is one or the empty repository is allowed.
  bool Ready() const;
  // Every version is READY or FAILED.
  bool Loaded() const;
  // At least one version was refused.
  bool AnyFailed() const;

 private:
  struct Version {
    ModelState state = ModelState::kLoading;
    std::string reason;
    ModelHandle handle;
    std::vector<std::string> labels;
  };
  using Versions = std::map<int64_t, Version>;

  absl::Status Plan(const std::vector<RepositoryModel>& found);
  void LoadAll();
  absl::StatusOr<ModelHandle> Load(const std::string& name, int64_t version);
  absl::Status WarmUp(const Scorer& scorer) const;
  absl::Status RunSelfTest(const Scorer& scorer, const SelfTest& self_test) const;
  void Publish(const std::string& name, int64_t version, absl::StatusOr<ModelHandle> loaded);
  void AnnounceReady(const ModelVersion& version);

  const RegistryOptions options_;
  const ModelLoader loader_;
  Metrics* const metrics_;
  const Clock* const clock_;
  std::function<void()> on_change_;
  mutable std::mutex mutex_;
  std::map<std::string, Versions> models_;
  std::thread thread_;
  bool stopping_ = false;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_REGISTRY_MODEL_REGISTRY_H_
