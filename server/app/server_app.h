// The server put together: registry, queue, workers, services, both listeners and health. Knows
// neither a tensor library nor a command line: the loader of model files comes from whoever starts
// it, so tests run the whole server with a fake scorer.
#ifndef BFLOW_SERVER_APP_SERVER_APP_H_
#define BFLOW_SERVER_APP_SERVER_APP_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "base/clock.h"
#include "grpcpp/server.h"
#include "server/app/metrics_http.h"
#include "server/config/server_config.h"
#include "server/exec/worker_pool.h"
#include "server/registry/model_registry.h"
#include "server/rpc/flow_service.h"
#include "server/rpc/model_service.h"

namespace bflow {

// What computes, as GetModel and the metrics tell it.
struct BackendFacts {
  std::string device = "cpu";
  std::string reason = "requested";
  std::string detail;  // why not the GPU, for the log
  std::string torch_version = "none";
  std::string cuda_version = "none";  // where a GPU computes
};

class ServerApp {
 public:
  ServerApp(ServerConfig config, ModelLoader loader, BackendFacts backend, const Clock* clock);
  // Cuts calls off that still run.
  ~ServerApp();
  ServerApp(const ServerApp&) = delete;
  ServerApp& operator=(const ServerApp&) = delete;

  // Opens the repository, then the ports, then starts loading. Errors: InvalidArgument naming the
  // field of the configuration; Unavailable (a port or a thread cannot be had).
  absl::Status Start();
  void WaitUntilLoaded() { registry_.WaitUntilLoaded(); }

  // Addresses as bound.
  const ListenAddress& listen() const { return listen_; }
  const ListenAddress& metrics_listen() const { return metrics_listen_; }
  bool load_refused() const { return load_refused_.load(); }

  // The steps of a shutdown, in order. After the first, health is NOT_SERVING and calls still work;
  // after the second, new calls are answered DRAINING and streams read no more; the last cuts off
  // what runs beyond `grace`.
  void StopServing();
  void RefuseNewCalls();
  bool Idle() const { return admission_.calls() == 0; }
  void Shutdown(std::chrono::milliseconds grace);

  Metrics& metrics() { return metrics_; }

 private:
  bool Ready() const { return !stopping_.load() && registry_.Ready(); }
  absl::Status StartGrpc();
  void WatchIdleStreams(const std::stop_token& stop);
  void OnRegistryChange();
  void UpdateHealth();

  const ServerConfig config_;
  const BackendFacts backend_;
  const Clock* const clock_;
  Metrics metrics_;
  ModelRegistry registry_;
  Batcher batcher_;
  Admission admission_;
  OpenStreams streams_;
  std::atomic<bool> draining_{false}, stopping_{false}, load_refused_{false}, announced_{false};
  std::unique_ptr<WorkerPool> workers_;
  std::unique_ptr<FlowServiceImpl> flow_service_;
  std::unique_ptr<ModelServiceImpl> model_service_;
  std::unique_ptr<MetricsHttp> http_;
  ListenAddress listen_, metrics_listen_;
  std::mutex health_mutex_;
  std::unique_ptr<grpc::Server> server_;
  std::jthread idle_watch_;  // ends streams that lie idle
};

}  // namespace bflow

#endif  // BFLOW_SERVER_APP_SERVER_APP_H_
