// What every call, unary or stream, shares: its place in the admission counters, its metrics, its
// log line and its trailers. No gRPC here.
#ifndef BFLOW_SERVER_RPC_CALL_RECORD_H_
#define BFLOW_SERVER_RPC_CALL_RECORD_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "server/batching/batcher.h"
#include "server/metrics/metrics.h"
#include "server/registry/model_registry.h"
#include "server/rpc/admission.h"
#include "server/rpc/open_streams.h"
#include "server/rpc/operations.h"

namespace bflow {

struct StreamLimits {
  int64_t max_chunk_bytes = int64_t{4} << 20;
  int window_chunks = 4;
  std::chrono::milliseconds idle_timeout{60'000};
};

// What the services work with; everything outlives the gRPC server.
struct ServiceContext {
  const ModelRegistry* registry;
  Batcher* batcher;
  Metrics* metrics;
  Admission* admission;
  OpenStreams* streams;
  const Clock* clock;
  const std::atomic<bool>* draining;
  RequestLimits limits;
  StreamLimits stream;
};

using Trailers = std::vector<std::pair<std::string, std::string>>;

class CallRecord {
 public:
  enum class Kind { kUnary, kStream };

  // `deadline`: the client's on the steady clock; max() for none.
  CallRecord(const ServiceContext& services, Kind kind, const char* method,
             const Metrics::RpcMetrics& rpc, SteadyTime deadline);
  // Gives back what the call holds of the counters.
  ~CallRecord();
  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  // Check 1: not draining, room for the call (a stream: also among the streams) and `bytes` of its
  // request. Errors: DRAINING, SERVER_BUSY.
  absl::Status Admit(int64_t bytes);
  // Room for more bytes (decoded rows, the reply); given back with the call. Errors: SERVER_BUSY.
  absl::Status TakeBytes(int64_t bytes);
  // The trailers that go with a status.
  Trailers TrailersFor(const absl::Status& status) const;
  // Counts the call by its outcome and writes its log line.
  void End(const absl::Status& status);
  // requests_total of this call's model: of a unary call by End, of each chunk of a stream.
  void CountRequest(const absl::Status& status);

  // Under the operation the call shows in inflight_requests or open_streams. Once.
  void SetOperation(Operation operation);
  void SetModel(const ModelHandle& model) { model_ = model; }
  void AddRows(int64_t rows) { rows_ += rows; }
  const ModelHandle& model() const { return model_; }
  const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }
  const ServiceContext& services() const { return services_; }
  const Metrics::RpcMetrics& rpc() const { return rpc_; }
  SteadyTime deadline() const { return deadline_; }
  SteadyTime start() const { return start_; }

 private:
  prometheus::Gauge& Running() const;

  const ServiceContext& services_;
  const Kind kind_;
  const char* const method_;
  const Metrics::RpcMetrics& rpc_;
  const SteadyTime start_;
  const SteadyTime deadline_;
  const std::string id_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  ModelHandle model_;
  std::optional<Operation> operation_;
  std::atomic<int64_t> rows_{0};
  bool admitted_ = false;
  int64_t bytes_ = 0;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_CALL_RECORD_H_
