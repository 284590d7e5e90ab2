// Every metric of the server: name, labels and help text in one place. Families are members, so
// adding one is one line here; what is used on the hot path is resolved once per model version
// (ModelMetrics). A patient-sensitive model is labelled by its kind, never by its name.
#ifndef BFLOW_SERVER_METRICS_METRICS_H_
#define BFLOW_SERVER_METRICS_METRICS_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace bflow {

enum class Operation { kLogLikelihood, kAnomaly, kSample };
inline constexpr std::array<const char*, 3> kOperationNames = {"log_likelihood", "anomaly",
                                                               "sample"};

enum class Outcome {
  kOk,
  kInvalid,
  kRejected,
  kLimit,
  kDeadline,
  kCancelled,
  kUnavailable,
  kError
};
inline constexpr std::array<const char*, 8> kOutcomeNames = {
    "ok", "invalid", "rejected", "limit", "deadline", "cancelled", "unavailable", "error"};

enum class Stage { kDecode, kCompute, kEncode };
inline constexpr std::array<const char*, 3> kStageNames = {"decode", "compute", "encode"};

enum class InvalidRow { kNonFiniteInput, kNonFiniteScore, kOutOfRange };
inline constexpr std::array<const char*, 3> kInvalidRowNames = {"non_finite_input",
                                                                "non_finite_score", "out_of_range"};

// What a model is called in metrics and logs.
struct ModelLabel {
  std::string model = "other";
  std::string version = "-";
};

// The real name, or "kind:ARCHITECTURE" and "-" for a patient-sensitive model.
ModelLabel MakeModelLabel(const std::string& name, int64_t version, bool patient_sensitive,
                          const std::string& architecture);

// Series of one model version, resolved once.
struct ModelMetrics {
  ModelLabel label;
  std::array<std::array<prometheus::Counter*, kOutcomeNames.size()>, 3> requests;
  std::array<prometheus::Counter*, 3> rows;
  std::array<prometheus::Counter*, 3> batches;
  std::array<prometheus::Histogram*, 3> batch_rows;
  std::array<prometheus::Counter*, kInvalidRowNames.size()> invalid_rows;
  std::array<prometheus::Histogram*, kStageNames.size()> stages;
  prometheus::Histogram* queue_wait;
  prometheus::Gauge* queue_rows;
  prometheus::Gauge* queue_bytes;
  prometheus::Gauge* queue_limit_rows;
  prometheus::Counter* cancelled_rows_saved;
  prometheus::Counter* deadline_dropped_rows;
  prometheus::Histogram* nats_per_dim;
  prometheus::Counter* anomaly_scored;
  prometheus::Counter* anomaly_flagged;
};

class Metrics {
 public:
  Metrics() = default;
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  std::shared_ptr<ModelMetrics> ForModel(const ModelLabel& label);
  // requests_total of calls that never reached a model: model "other".
  prometheus::Counter& OtherRequests(Operation operation, Outcome outcome);
  // Text exposition of everything, the process's own figures included.
  std::string Scrape() const;

  // One RPC, by the community's names.
  struct RpcMetrics {
    prometheus::Counter* started;
    prometheus::Counter* received;
    prometheus::Counter* sent;
    prometheus::Histogram* handling;
    std::map<std::string, std::string> labels;
  };
  // `type`: "unary", "server_stream" or "bidi_stream".
  RpcMetrics ForRpc(const std::string& service, const std::string& method,
                    const char* type = "unary");
  void RpcHandled(const RpcMetrics& rpc, const std::string& grpc_code);

 private:
  using Counters = prometheus::Family<prometheus::Counter>&;
  using Gauges = prometheus::Family<prometheus::Gauge>&;
  using Histograms = prometheus::Family<prometheus::Histogram>&;
  Counters MakeCounter(const char* name, const char* help);
  Gauges MakeGauge(const char* name, const char* help);
  Histograms MakeHistogram(const char* name, const char* help);

  prometheus::Registry registry_;

 public:
  Counters grpc_started = MakeCounter("grpc_server_started_total", "RPCs started.");
  Counters grpc_handled =
      MakeCounter("grpc_server_handled_total", "RPCs completed, by status code.");
  Counters grpc_received =
      MakeCounter("grpc_server_msg_received_total", "Request messages received.");
  Counters grpc_sent = MakeCounter("grpc_server_msg_sent_total", "Response messages sent.");
  Histograms grpc_handling =
      MakeHistogram("grpc_server_handling_seconds", "Time from the handler's start to its status.");

  Counters requests = MakeCounter("butterflyflow_requests_total",
                                  "Scoring and sampling calls and chunks of streams, by outcome.");
  Counters rows = MakeCounter("butterflyflow_rows_total", "Rows computed.");
  Counters batches = MakeCounter("butterflyflow_batches_total", "Batches run by the workers.");
  Counters invalid_rows = MakeCounter("butterflyflow_invalid_rows_total",
                                      "Rows that were refused or overflowed, by reason.");
  Histograms batch_rows = MakeHistogram("butterflyflow_batch_rows", "Rows per batch.");
  Histograms queue_wait =
      MakeHistogram("butterflyflow_queue_wait_seconds", "Time until a call's first row is taken.");
  Histograms stage = MakeHistogram("butterflyflow_stage_seconds", "Time per call and stage.");
  Gauges queue_rows = MakeGauge("butterflyflow_queue_rows", "Rows waiting for a worker.");
  Gauges queue_bytes = MakeGauge("butterflyflow_queue_bytes", "Bytes waiting for a worker.");
  Gauges queue_limit_rows =
      MakeGauge("butterflyflow_queue_limit_rows", "Rows that may wait before calls are refused.");
  Gauges inflight = MakeGauge("butterflyflow_inflight_requests", "Calls in handlers.");
  Gauges open_streams = MakeGauge("butterflyflow_open_streams", "Streams in handlers.");
  Gauges stream_pending_chunks = MakeGauge("butterflyflow_stream_pending_chunks",
                                           "Chunks of streams that were read and not answered.");
  Counters cancelled_rows_saved = MakeCounter("butterflyflow_cancelled_rows_saved_total",
                                              "Rows not computed because the client had gone.");
  Counters deadline_dropped_rows =
      MakeCounter("butterflyflow_deadline_dropped_rows_total",
                  "Rows not computed because the deadline had passed.");

  Gauges model_state = MakeGauge("butterflyflow_model_state", "Versions in that state.");
  Counters model_loads = MakeCounter("butterflyflow_model_loads_total", "Loads, by outcome.");
  Gauges model_last_load = MakeGauge("butterflyflow_model_last_load_success_timestamp_seconds",
                                     "Wall time of the last successful load.");
  Histograms model_load_seconds = MakeHistogram("butterflyflow_model_load_seconds",
                                                "Time to read, check and self-test a version.");
  Histograms model_warmup_seconds =
      MakeHistogram("butterflyflow_model_warmup_seconds", "Time to warm a version up.");
  Gauges model_info = MakeGauge("butterflyflow_model_info", "1; which checkpoint a version is.");
  Histograms nats_per_dim = MakeHistogram("butterflyflow_nats_per_dim",
                                          "Negative log-likelihood per value of scored rows.");
  Gauges reference_mean = MakeGauge("butterflyflow_nats_per_dim_reference_mean",
                                    "Mean nats per dim on the calibration data.");
  Gauges reference_stddev =
      MakeGauge("butterflyflow_nats_per_dim_reference_stddev",
                "Standard deviation of nats per dim on the calibration data.");
  Counters anomaly_scored =
      MakeCounter("butterflyflow_anomaly_scored_rows_total", "Rows given an anomaly score.");
  Counters anomaly_flagged =
      MakeCounter("butterflyflow_anomaly_flagged_rows_total", "Rows flagged as anomalous.");

  prometheus::Counter& internal_errors =
      MakeCounter("butterflyflow_internal_errors_total", "Defects of the server; promised 0.")
          .Add({});
  Gauges build_info = MakeGauge("butterflyflow_build_info", "1; versions this server is built of.");
  Gauges backend_info =
      MakeGauge("butterflyflow_backend_info", "1; the compute backend and why it was chosen.");
};

// Outcome of a call from what its status means; `reason` as in ErrorInfo, empty for OK.
Outcome OutcomeOf(const std::string& reason);

}  // namespace bflow

#endif  // BFLOW_SERVER_METRICS_METRICS_H_
