#include "server/metrics/metrics.h"

#include "prometheus/text_serializer.h"
#include "server/metrics/process_collector.h"

namespace bflow {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// first x ratio^k, k = 0 .. count-1.
Buckets Geometric(double first, double ratio, int count) {
  Buckets edges;
  for (int k = 0; k < count; ++k, first *= ratio) edges.push_back(first);
  return edges;
}

const Buckets& HandlingBuckets() {
  static const Buckets edges = {.0005, .001, .002, .004, .008, .016, .032, .064, .128,
                                .25,   .5,   1,    2.5,  5,    10,   30,   60};
  return edges;
}

const Buckets& NatsBuckets() {
  static const Buckets edges = [] {
    Buckets made;
    for (int k = -16; k <= 16; ++k) made.push_back(0.5 * k);
    return made;
  }();
  return edges;
}

}  // namespace

ModelLabel MakeModelLabel(const std::string& name, int64_t version, bool patient_sensitive,
                          const std::string& architecture) {
  if (patient_sensitive) return {"kind:" + architecture, "-"};
  return {name, std::to_string(version)};
}

prometheus::Family<prometheus::Counter>& Metrics::MakeCounter(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_);
}

prometheus::Family<prometheus::Gauge>& Metrics::MakeGauge(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_);
}

prometheus::Family<prometheus::Histogram>& Metrics::MakeHistogram(const char* name,
                                                                  const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_);
}

std::shared_ptr<ModelMetrics> Metrics::ForModel(const ModelLabel& label) {
  const std::string& model = label.model;
  const std::string& version = label.version;
  auto made = std::make_shared<ModelMetrics>();
  made->label = label;
  for (size_t i = 0; i < kOperationNames.size(); ++i) {
    const std::string operation = kOperationNames[i];
    for (size_t j = 0; j < kOutcomeNames.size(); ++j) {
      made->requests[i][j] = &requests.Add({{"model", model},
                                            {"version", version},
                                            {"api", "typed"},
                                            {"operation", operation},
                                            {"outcome", kOutcomeNames[j]}});
    }
    const prometheus::Labels per_operation = {
        {"model", model}, {"version", version}, {"operation", operation}};
    made->rows[i] = &rows.Add(per_operation);
    made->batches[i] = &batches.Add(per_operation);
    made->batch_rows[i] =
        &batch_rows.Add({{"model", model}, {"operation", operation}}, Geometric(1, 2, 13));
  }
  for (size_t i = 0; i < kInvalidRowNames.size(); ++i) {
    made->invalid_rows[i] = &invalid_rows.Add({{"model", model}, {"reason", kInvalidRowNames[i]}});
  }
  const Buckets fine = Geometric(.00005, 2, 18);
  for (size_t i = 0; i < kStageNames.size(); ++i) {
    made->stages[i] = &stage.Add({{"model", model}, {"stage", kStageNames[i]}}, fine);
  }
  made->queue_wait = &queue_wait.Add({{"model", model}}, fine);
  made->queue_rows = &queue_rows.Add({{"model", model}});
  made->queue_bytes = &queue_bytes.Add({{"model", model}});
  made->queue_limit_rows = &queue_limit_rows.Add({{"model", model}});
  made->cancelled_rows_saved = &cancelled_rows_saved.Add({{"model", model}});
  made->deadline_dropped_rows = &deadline_dropped_rows.Add({{"model", model}});
  made->nats_per_dim = &nats_per_dim.Add({{"model", model}, {"version", version}}, NatsBuckets());
  made->anomaly_scored = &anomaly_scored.Add({{"model", model}, {"version", version}});
  made->anomaly_flagged = &anomaly_flagged.Add({{"model", model}, {"version", version}});
  return made;
}

prometheus::Counter& Metrics::OtherRequests(Operation operation, Outcome outcome) {
  return requests.Add({{"model", "other"},
                       {"version", "-"},
                       {"api", "typed"},
                       {"operation", kOperationNames[static_cast<size_t>(operation)]},
                       {"outcome", kOutcomeNames[static_cast<size_t>(outcome)]}});
}

Metrics::RpcMetrics Metrics::ForRpc(const std::string& service, const std::string& method,
                                    const char* type) {
  RpcMetrics rpc;
  rpc.labels = {{"grpc_type", type}, {"grpc_service", service}, {"grpc_method", method}};
  rpc.started = &grpc_started.Add(rpc.labels);
  rpc.received = &grpc_received.Add(rpc.labels);
  rpc.sent = &grpc_sent.Add(rpc.labels);
  rpc.handling = &grpc_handling.Add(rpc.labels, HandlingBuckets());
  return rpc;
}

void Metrics::RpcHandled(const RpcMetrics& rpc, const std::string& grpc_code) {
  auto labels = rpc.labels;
  labels["grpc_code"] = grpc_code;
  grpc_handled.Add(labels).Increment();
}

std::string Metrics::Scrape() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  for (prometheus::MetricFamily& family : CollectProcessMetrics()) {
    families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

Outcome OutcomeOf(const std::string& reason) {
  static const std::map<std::string, Outcome> outcomes = {{"", Outcome::kOk},
                                                          {"LIMIT_EXCEEDED", Outcome::kLimit},
                                                          {"HOST_OUT_OF_MEMORY", Outcome::kLimit},
                                                          {"QUEUE_FULL", Outcome::kRejected},
                                                          {"SERVER_BUSY", Outcome::kRejected},
                                                          {"EXPIRED", Outcome::kDeadline},
                                                          {"CLIENT_GONE", Outcome::kCancelled},
                                                          {"DRAINING", Outcome::kUnavailable},
                                                          {"STREAM_IDLE", Outcome::kUnavailable},
                                                          {"MODEL_LOADING", Outcome::kUnavailable},
                                                          {"INTERNAL", Outcome::kError}};
  const auto found = outcomes.find(reason);
  return found == outcomes.end() ? Outcome::kInvalid : found->second;
}

}  // namespace bflow
