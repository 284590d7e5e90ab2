// What every unary call shares: admission, cancellation, the trailers, metrics, the log line and
// the one Finish. A Call lives from the handler to OnDone and deletes itself there; after Finish it
// must not be touched.
#ifndef BFLOW_SERVER_RPC_CALL_H_
#define BFLOW_SERVER_RPC_CALL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/batching/batcher.h"
#include "server/metrics/metrics.h"
#include "server/registry/model_registry.h"
#include "server/rpc/operations.h"

namespace bflow {

// Server-wide counters of calls in handlers and of their bytes.
class Admission {
 public:
  Admission(int64_t max_calls, int64_t max_bytes) : max_calls_(max_calls), max_bytes_(max_bytes) {}

  bool EnterCall() { return Take(calls_, 1, max_calls_); }
  void LeaveCall() { calls_.fetch_sub(1); }
  bool TakeBytes(int64_t bytes) { return Take(bytes_, bytes, max_bytes_); }
  void ReturnBytes(int64_t bytes) { bytes_.fetch_sub(bytes); }
  int64_t calls() const { return calls_.load(); }

 private:
  static bool Take(std::atomic<int64_t>& used, int64_t amount, int64_t limit) {
    if (used.fetch_add(amount) + amount <= limit) return true;
    used.fetch_sub(amount);
    return false;
  }

  const int64_t max_calls_, max_bytes_;
  std::atomic<int64_t> calls_{0}, bytes_{0};
};

// What the services work with; everything outlives the gRPC server.
struct ServiceContext {
  const ModelRegistry* registry;
  Batcher* batcher;
  Metrics* metrics;
  Admission* admission;
  const Clock* clock;
  const std::atomic<bool>* draining;
  RequestLimits limits;
};

class Call : public grpc::ServerUnaryReactor {
 public:
  Call(const ServiceContext& services, grpc::CallbackServerContext* context, const char* method,
       const Metrics::RpcMetrics& rpc);

  // Check 1: not draining, room for the call and `bytes` of its request. Errors: DRAINING,
  // SERVER_BUSY.
  absl::Status Admit(int64_t bytes);
  // Room for more bytes (the reply's); given back with the call. Errors: SERVER_BUSY.
  absl::Status TakeBytes(int64_t bytes);
  // Sends the status, with the response if it is OK.
  void FinishWith(const absl::Status& status);

  void SetModel(const ModelHandle& model) { model_ = model; }
  void SetOperation(Operation operation) { operation_ = operation; }
  void SetRows(int64_t rows) { rows_ = rows; }
  const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }
  const ServiceContext& services() const { return services_; }
  // The client's deadline on the steady clock; max() for none.
  SteadyTime deadline() const { return deadline_; }
  SteadyTime start() const { return start_; }

  void OnCancel() override { cancelled_->store(true); }
  void OnDone() override { delete this; }

 protected:
  ~Call() override;

 private:
  void Record(const absl::Status& status, const grpc::Status& sent);

  const ServiceContext& services_;
  grpc::CallbackServerContext* const context_;
  const char* const method_;
  const Metrics::RpcMetrics& rpc_;
  const SteadyTime start_;
  SteadyTime deadline_ = SteadyTime::max();
  const std::string id_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  ModelHandle model_;
  std::optional<Operation> operation_;
  int64_t rows_ = 0;
  bool admitted_ = false;
  int64_t bytes_ = 0;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_CALL_H_
