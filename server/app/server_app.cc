#include "server/app/server_app.h"

#include <algorithm>
#include <condition_variable>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "base/version.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/resource_quota.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

std::vector<int64_t> WarmUpRows(const ServerConfig::Batching& batching) {
  std::vector<int64_t> rows;
  for (int64_t bucket : batching.buckets) {
    if (bucket <= batching.batch_rows_max) rows.push_back(bucket);
  }
  return rows;
}

RegistryOptions ToRegistryOptions(const ServerConfig& config) {
  RegistryOptions options;
  options.repository = config.repository.path;
  for (const ConfiguredModel& model : config.repository.models) {
    options.models.push_back({model.name, model.version, model.labels});
  }
  options.allow_empty = config.repository.allow_empty;
  options.selftest_rtol = config.repository.selftest_rtol;
  options.warmup_rows = WarmUpRows(config.batching);
  return options;
}

pb::EffectiveLimits ToLimits(const ServerConfig& config) {
  pb::EffectiveLimits limits;
  limits.set_max_rows(static_cast<uint32_t>(config.limits.max_rows));
  limits.set_max_samples(static_cast<uint32_t>(config.limits.max_samples));
  limits.set_max_message_bytes(
      static_cast<uint64_t>(std::min(config.public_listener.max_receive_message_bytes,
                                     config.public_listener.max_send_message_bytes)));
  limits.set_max_chunk_bytes(static_cast<uint64_t>(config.stream.max_chunk_bytes));
  limits.set_window_chunks(static_cast<uint32_t>(config.stream.window_chunks));
  for (int64_t rows : WarmUpRows(config.batching)) {
    limits.add_batch_buckets(static_cast<uint32_t>(rows));
  }
  return limits;
}

void SetArguments(const ServerConfig::Public& config, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(config.max_receive_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(config.max_send_message_bytes));
  grpc::ResourceQuota quota("bflow-server");
  quota.Resize(static_cast<size_t>(config.resource_quota_bytes));
  builder.SetResourceQuota(quota);
  // A second server on the same port must fail to start.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, config.metadata_soft_bytes);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, config.handshake_timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, config.keepalive_time_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, config.keepalive_timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             config.min_ping_interval_ms);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, config.max_ping_strikes);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, config.max_connection_idle_ms);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, config.max_connection_age_ms);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             config.max_connection_age_grace_ms);
  if (!config.accept_compressed_requests) {
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  }
}

// The reflection library registers itself with every builder of the process; this takes it out
// again.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const std::unique_ptr<grpc::ServerBuilderPlugin>& plugin) {
      return plugin->name() == "proto_server_reflection";
    });
  }
};

}  // namespace

ServerApp::ServerApp(ServerConfig config, ModelLoader loader, BackendFacts backend,
                     const Clock* clock)
    : config_(std::move(config)),
      backend_(std::move(backend)),
      clock_(clock),
      registry_(ToRegistryOptions(config_), std::move(loader), &metrics_, clock),
      batcher_({config_.batching.max_queue_rows, config_.batching.max_queue_bytes,
                config_.batching.batch_rows_max},
               clock),
      admission_(config_.admission.max_calls, config_.stream.max_streams,
                 config_.admission.max_bytes) {}

ServerApp::~ServerApp() {
  registry_.WaitUntilLoaded();
  Shutdown(std::chrono::milliseconds(0));
}

absl::Status ServerApp::StartGrpc() {
  const RequestLimits limits = {config_.limits.max_rows, config_.limits.max_samples,
                                config_.public_listener.max_send_message_bytes};
  const StreamLimits stream = {config_.stream.max_chunk_bytes, config_.stream.window_chunks,
                               config_.stream.idle_timeout};
  const ServiceContext services = {&registry_, &batcher_,  &metrics_, &admission_, &streams_,
                                   clock_,     &draining_, limits,    stream};
  flow_service_ = std::make_unique<FlowServiceImpl>(services);
  model_service_ = std::make_unique<ModelServiceImpl>(
      services, ModelServiceImpl::Facts{ToLimits(config_), backend_.device, backend_.reason});
  static std::once_flag once;  // gRPC's plugins are process-wide and cannot be taken back
  std::call_once(once, [] { grpc::EnableDefaultHealthCheckService(true); });
  if (config_.public_listener.reflection) {
    static std::once_flag reflection;
    std::call_once(reflection, [] { grpc::reflection::InitProtoReflectionServerBuilderPlugin(); });
  }
  grpc::ServerBuilder builder;
  SetArguments(config_.public_listener, builder);
  if (!config_.public_listener.reflection) {
    builder.SetOption(std::make_unique<WithoutReflection>());
  }
  int port = 0;
  builder.AddListeningPort(config_.public_listener.listen.ToString(),
                           grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(flow_service_.get());
  builder.RegisterService(model_service_.get());
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError("public.listen: the port cannot be opened; is it in use?");
  }
  listen_ = config_.public_listener.listen;
  listen_.port = port;
  std::lock_guard<std::mutex> lock(health_mutex_);
  server_ = std::move(server);
  return absl::OkStatus();
}

absl::Status ServerApp::Start() {
  BFLOW_RETURN_IF_ERROR(registry_.Open());
  metrics_.build_info
      .Add({{"version", kVersion},
            {"grpc", grpc::Version()},
            {"torch", backend_.torch_version},
            {"cuda", backend_.cuda_version}})
      .Set(1);
  metrics_.backend_info.Add({{"backend", backend_.device}, {"reason", backend_.reason}}).Set(1);
  const int threads =
      config_.batching.worker_threads > 0 ? config_.batching.worker_threads : GrantedCores();
  try {
    workers_ = std::make_unique<WorkerPool>(&batcher_, threads, clock_);
    idle_watch_ = std::jthread([this](const std::stop_token& stop) { WatchIdleStreams(stop); });
  } catch (const std::system_error&) {
    return absl::UnavailableError("batching.worker_threads: the system has no threads left");
  }
  BFLOW_RETURN_IF_ERROR(StartGrpc());
  BFLOW_ASSIGN_OR_RETURN(
      http_, StartMetricsHttp(
                 config_.metrics, &metrics_, [] { return true; }, [this] { return Ready(); }));
  metrics_listen_ = config_.metrics.listen;
  metrics_listen_.port = http_->port();
  UpdateHealth();
  Log(LogLevel::kInfo, "listening",
      {{"listen", listen_.ToString()},
       {"metrics_listen", metrics_listen_.ToString()},
       {"backend", backend_.device},
       {"backend_reason", backend_.reason},
       {"worker_threads", threads}});
  if (!backend_.detail.empty()) {
    // A machine without the plugin is a plain CPU machine; anything else was meant to work.
    Log(backend_.reason == "plugin_absent" ? LogLevel::kInfo : LogLevel::kWarning, "cpu_only",
        {{"reason", backend_.reason}, {"detail", backend_.detail}});
  }
  if (!listen_.loopback) {
    Log(LogLevel::kWarning, "not_encrypted",
        {{"grpc", grpc::Version()}, {"advice", "put a proxy in front or listen on loopback"}});
  }
  registry_.StartLoading([this] { OnRegistryChange(); });
  return absl::OkStatus();
}

void ServerApp::OnRegistryChange() {
  UpdateHealth();
  if (!registry_.Loaded() || announced_.exchange(true)) return;
  if (config_.repository.exit_on_load_failure && registry_.AnyFailed()) {
    load_refused_.store(true);
    return;
  }
  Log(LogLevel::kInfo, "ready",
      {{"listen", listen_.ToString()},
       {"metrics_listen", metrics_listen_.ToString()},
       {"serving", Ready()}});
}

void ServerApp::UpdateHealth() {
  std::lock_guard<std::mutex> lock(health_mutex_);
  if (server_ == nullptr) return;
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  if (health == nullptr) return;
  const bool ready = Ready();
  health->SetServingStatus("liveness", true);
  for (const char* name :
       {"readiness", "", "butterflyflow.v1.FlowService", "butterflyflow.v1.ModelService"}) {
    health->SetServingStatus(name, ready);
  }
  for (const ModelSnapshot& model : registry_.Snapshot()) {
    const bool serves =
        std::any_of(model.versions.begin(), model.versions.end(), [](const VersionSnapshot& v) {
          return v.handle != nullptr && !v.handle->scorer->signature().patient_sensitive;
        });
    if (serves) health->SetServingStatus(absl::StrCat("model/", model.name), !stopping_.load());
  }
}

void ServerApp::WatchIdleStreams(const std::stop_token& stop) {
  const auto period =
      std::min<std::chrono::milliseconds>(config_.stream.idle_timeout / 4, std::chrono::seconds(1));
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock<std::mutex> lock(mutex);
  while (!stop.stop_requested()) {
    stopped.wait_for(lock, stop, period, [] { return false; });
    streams_.EndIdle(clock_->Now());
  }
}

void ServerApp::RefuseNewCalls() {
  draining_.store(true);
  streams_.Drain();
}

void ServerApp::StopServing() {
  stopping_.store(true);
  UpdateHealth();
}

void ServerApp::Shutdown(std::chrono::milliseconds grace) {
  StopServing();
  RefuseNewCalls();
  std::unique_ptr<grpc::Server> server;
  {
    std::lock_guard<std::mutex> lock(health_mutex_);
    server = std::move(server_);
  }
  // The workers must outlive the calls: they are who finishes them.
  if (server != nullptr) server->Shutdown(clock_->WallNow() + grace);
  server.reset();
  idle_watch_ = {};
  http_.reset();
  workers_.reset();
}

}  // namespace bflow
