#include "server/registry/model_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "server/exec/reason.h"

namespace bflow {
namespace {

absl::Status NotFound() {
  return MakeError(Reason::kModelNotFound,
                   "model: no such name, version or label is served; ListModels tells what is");
}

// Rows in the middle of the declared range, whole codes if quantised.
HostBatch MidRangeRows(const ModelSignature& signature, int64_t rows) {
  HostBatch batch;
  batch.rows = rows;
  const int64_t event = signature.event_size();
  const size_t channels = signature.channels.size();
  const size_t run = static_cast<size_t>(signature.channel_run());
  batch.values.resize(static_cast<size_t>(rows * event));
  for (size_t i = 0; i < batch.values.size(); ++i) {
    double middle = 0;
    if (channels > 0) {
      const ChannelSignature& channel = signature.channels[i / run % channels];
      middle = 0.5 * (channel.input_min + channel.input_max);
    }
    batch.values[i] = static_cast<float>(signature.quantised ? std::floor(middle) : middle);
  }
  return batch;
}

}  // namespace

ModelLoader CheckpointLoader(const CheckpointLimits& limits, ScorerFactory factory) {
  return [limits, factory = std::move(factory)](
             const std::string& directory) -> absl::StatusOr<LoadedVersion> {
    BFLOW_ASSIGN_OR_RETURN(Checkpoint checkpoint, ReadCheckpoint(directory, limits));
    LoadedVersion loaded;
    BFLOW_ASSIGN_OR_RETURN(loaded.scorer, factory(checkpoint));
    loaded.self_test = std::move(checkpoint.self_test);
    loaded.manifest_sha256 = checkpoint.manifest_sha256;
    loaded.card = checkpoint.manifest.card;
    return loaded;
  };
}

ModelRegistry::ModelRegistry(RegistryOptions options, ModelLoader loader, Metrics* metrics,
                             const Clock* clock)
    : options_(std::move(options)), loader_(std::move(loader)), metrics_(metrics), clock_(clock) {}

ModelRegistry::~ModelRegistry() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  WaitUntilLoaded();
}

void ModelRegistry::WaitUntilLoaded() {
  if (thread_.joinable()) thread_.join();
}

absl::Status ModelRegistry::Plan(const std::vector<RepositoryModel>& found) {
  if (options_.models.empty()) {
    for (const RepositoryModel& model : found) models_[model.name][model.versions.back()];
    if (models_.empty() && !options_.allow_empty) {
      return absl::InvalidArgumentError(
          "repository.path: holds no complete model; set repository.allow_empty to serve none");
    }
    return absl::OkStatus();
  }
  for (size_t i = 0; i < options_.models.size(); ++i) {
    const RequestedModel& request = options_.models[i];
    const auto model = std::find_if(found.begin(), found.end(), [&](const RepositoryModel& m) {
      return m.name == request.name;
    });
    if (model == found.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("repository.models[", i, "].name: no such model in the repository"));
    }
    const int64_t version = request.version.value_or(model->versions.back());
    if (!std::binary_search(model->versions.begin(), model->versions.end(), version)) {
      return absl::InvalidArgumentError(
          absl::StrCat("repository.models[", i, "].version: no such version in the repository"));
    }
    std::vector<std::string>& labels = models_[request.name][version].labels;
    labels.insert(labels.end(), request.labels.begin(), request.labels.end());
  }
  return absl::OkStatus();
}

absl::Status ModelRegistry::Open() {
  int ignored = 0;
  absl::StatusOr<std::vector<RepositoryModel>> found =
      ListRepository(options_.repository, &ignored);
  if (!found.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("repository.path: ", std::string(found.status().message())));
  }
  if (ignored > 0) Log(LogLevel::kWarning, "repository_entries_ignored", {{"entries", ignored}});
  return Plan(*found);
}

void ModelRegistry::StartLoading(std::function<void()> on_change) {
  on_change_ = std::move(on_change);
  thread_ = std::thread([this] { LoadAll(); });
}

void ModelRegistry::LoadAll() {
  std::vector<std::pair<std::string, int64_t>> work;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [name, versions] : models_) {
      for (const auto& [version, entry] : versions) work.emplace_back(name, version);
    }
  }
  for (const auto& [name, version] : work) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return;
    }
    Publish(name, version, Load(name, version));
    if (on_change_) on_change_();
  }
  if (on_change_) on_change_();
}

absl::StatusOr<ModelHandle> ModelRegistry::Load(const std::string& name, int64_t version) {
  const SteadyTime start = clock_->Now();
  BFLOW_ASSIGN_OR_RETURN(LoadedVersion loaded,
                         loader_(VersionDirectory(options_.repository, name, version)));
  const ModelSignature& signature = loaded.scorer->signature();
  const ModelLabel label =
      MakeModelLabel(name, version, signature.patient_sensitive, signature.architecture);
  const SteadyTime warm_up = clock_->Now();
  BFLOW_RETURN_IF_ERROR(WarmUp(*loaded.scorer));
  const double warm_up_seconds = SecondsBetween(warm_up, clock_->Now());
  BFLOW_RETURN_IF_ERROR(RunSelfTest(*loaded.scorer, loaded.self_test));
  auto made = std::make_shared<ModelVersion>();
  made->name = name;
  made->version = version;
  made->manifest_sha256 = std::move(loaded.manifest_sha256);
  made->card = std::move(loaded.card);
  made->scorer = std::move(loaded.scorer);
  made->metrics = metrics_->ForModel(label);
  const prometheus::Histogram::BucketBoundaries edges = {
      .01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92};
  metrics_->model_warmup_seconds.Add({{"model", label.model}}, edges).Observe(warm_up_seconds);
  metrics_->model_load_seconds.Add({{"model", label.model}}, edges)
      .Observe(SecondsBetween(start, clock_->Now()));
  return ModelHandle(std::move(made));
}

absl::Status ModelRegistry::WarmUp(const Scorer& scorer) const {
  const ModelSignature& signature = scorer.signature();
  Noise noise;
  noise.kind = signature.quantised ? NoiseKind::kCenter : NoiseKind::kNone;
  for (int64_t rows : options_.warmup_rows) {
    if (rows > signature.batch_rows(rows)) continue;
    const HostBatch batch = MidRangeRows(signature, rows);
    BFLOW_RETURN_IF_ERROR(scorer.LogLikelihood(batch, noise, false).status());
    if (signature.can_score_anomaly) {
      BFLOW_RETURN_IF_ERROR(scorer.Anomaly(batch, {}).status());
    }
  }
  return absl::OkStatus();
}

absl::Status ModelRegistry::RunSelfTest(const Scorer& scorer, const SelfTest& self_test) const {
  const ModelSignature& signature = scorer.signature();
  const size_t rows = static_cast<size_t>(self_test.rows);
  if (self_test.x.size() != rows * static_cast<size_t>(signature.event_size()) ||
      self_test.log_prob.size() != rows) {
    return absl::DataLossError("selftest.safetensors: sizes do not fit the model");
  }
  HostBatch batch;
  batch.rows = self_test.rows;
  batch.values = self_test.x;
  Noise noise;
  noise.kind = signature.quantised ? NoiseKind::kCenter : NoiseKind::kNone;
  BFLOW_ASSIGN_OR_RETURN(LogLikelihoodResult result, scorer.LogLikelihood(batch, noise, false));
  for (size_t i = 0; i < rows; ++i) {
    if (!Reproduces(result.log_prob.at(i), self_test.log_prob[i], options_.selftest_rtol)) {
      return absl::DataLossError(
          absl::StrCat("self-test: log_prob of row ", i, " is not reproduced"));
    }
  }
  if (self_test.score.empty() || !signature.can_score_anomaly) return absl::OkStatus();
  BFLOW_ASSIGN_OR_RETURN(AnomalyResult anomaly, scorer.Anomaly(batch, {}));
  for (size_t i = 0; i < rows; ++i) {
    if (!Reproduces(anomaly.score.at(i), self_test.score.at(i), options_.selftest_rtol)) {
      return absl::DataLossError(absl::StrCat("self-test: score of row ", i, " is not reproduced"));
    }
  }
  return absl::OkStatus();
}

void ModelRegistry::AnnounceReady(const ModelVersion& version) {
  const ModelSignature& signature = version.scorer->signature();
  const ModelLabel& label = version.metrics->label;
  metrics_->model_last_load.Add({{"model", label.model}})
      .Set(std::chrono::duration<double>(clock_->WallNow().time_since_epoch()).count());
  if (!signature.patient_sensitive) {
    metrics_->model_info
        .Add({{"model", label.model},
              {"version", label.version},
              {"manifest_sha256", version.manifest_sha256.substr(0, 12)}})
        .Set(1);
    if (signature.can_score_anomaly) {
      const prometheus::Labels labels = {{"model", label.model}, {"version", label.version}};
      metrics_->reference_mean.Add(labels).Set(signature.reference_mean);
      metrics_->reference_stddev.Add(labels).Set(signature.reference_stddev);
    }
  }
  Log(LogLevel::kInfo, "model_ready",
      {{"model", label.model},
       {"version", label.version},
       {"manifest", version.manifest_sha256.substr(0, 12)}});
}

void ModelRegistry::Publish(const std::string& name, int64_t version,
                            absl::StatusOr<ModelHandle> loaded) {
  // A version that could not be read has an unknown sensitivity: it is counted as "other".
  const ModelLabel label = loaded.ok() ? (*loaded)->metrics->label : ModelLabel{};
  metrics_->model_loads.Add({{"model", label.model}, {"outcome", loaded.ok() ? "ok" : "refused"}})
      .Increment();
  metrics_->model_state
      .Add({{"model", label.model},
            {"version", label.version},
            {"state", loaded.ok() ? "ready" : "failed"}})
      .Increment();
  if (loaded.ok()) {
    AnnounceReady(**loaded);
  } else {
    // Nor may its name stand in a log: ListModels tells it to those who may ask.
    Log(LogLevel::kError, "model_refused",
        {{"version", version},
         {"reason", std::string(loaded.status().message())},
         {"named_by", "ListModels"}});
  }
  std::lock_guard<std::mutex> lock(mutex_);
  Version& entry = models_[name][version];
  if (loaded.ok()) {
    entry.handle = *std::move(loaded);
    entry.state = ModelState::kReady;
  } else {
    entry.reason = std::string(loaded.status().message());
    entry.state = ModelState::kFailed;
  }
}

absl::StatusOr<ModelHandle> ModelRegistry::Find(const std::string& name,
                                                std::optional<int64_t> version,
                                                std::optional<std::string> label) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto model = models_.find(name);
  if (model == models_.end()) return NotFound();
  const Version* chosen = nullptr;
  const std::string wanted = label.value_or("stable");
  for (const auto& [number, entry] : model->second) {
    const bool labelled =
        std::find(entry.labels.begin(), entry.labels.end(), wanted) != entry.labels.end();
    if (version ? number == *version : labelled) chosen = &entry;
  }
  if (chosen == nullptr && (version || label)) return NotFound();
  if (chosen == nullptr) {  // the newest READY one, else whatever the newest is
    for (const auto& [number, entry] : model->second) {
      if (chosen == nullptr || entry.state == ModelState::kReady ||
          chosen->state != ModelState::kReady) {
        chosen = &entry;
      }
    }
  }
  switch (chosen->state) {
    case ModelState::kReady:
      return chosen->handle;
    case ModelState::kLoading:
      return MakeError(Reason::kModelLoading, "model: still loading");
    case ModelState::kFailed:
      return MakeError(Reason::kModelFailed,
                       "model: refused when it was loaded; GetModel says why");
    case ModelState::kDraining:
    case ModelState::kRetired:
      break;
  }
  return NotFound();
}

std::vector<ModelSnapshot> ModelRegistry::Snapshot() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ModelSnapshot> models;
  for (const auto& [name, versions] : models_) {
    ModelSnapshot model;
    model.name = name;
    for (const auto& [version, entry] : versions) {
      model.versions.push_back({version, entry.state, entry.reason, entry.labels, entry.handle});
    }
    models.push_back(std::move(model));
  }
  return models;
}

bool ModelRegistry::Ready() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (models_.empty()) return options_.allow_empty;
  return std::all_of(models_.begin(), models_.end(), [](const auto& model) {
    return std::any_of(model.second.begin(), model.second.end(), [](const auto& version) {
      return version.second.state == ModelState::kReady;
    });
  });
}

bool ModelRegistry::Loaded() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::all_of(models_.begin(), models_.end(), [](const auto& model) {
    return std::none_of(model.second.begin(), model.second.end(), [](const auto& version) {
      return version.second.state == ModelState::kLoading;
    });
  });
}

bool ModelRegistry::AnyFailed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(models_.begin(), models_.end(), [](const auto& model) {
    return std::any_of(model.second.begin(), model.second.end(), [](const auto& version) {
      return version.second.state == ModelState::kFailed;
    });
  });
}

}  // namespace bflow
