// The client library: one channel with the service config that every client of ours ships (retry of
// the pure calls, round robin), a deadline on every call, seeds always set so that a retry repeats
// the same numbers. Rows go as chunks of one stream, which is taken up again where a server left it
// (stream_job.h). One version of a model is pinned before a job: answers of different weights are
// never mixed. Thread-safe; every call blocks.
#ifndef BFLOW_CLIENT_FLOW_CLIENT_H_
#define BFLOW_CLIENT_FLOW_CLIENT_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "butterflyflow/v1/flow.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace bflow::client {

struct ClientOptions {
  std::string server =
      "127.0.0.1:8001";  // host:port, or any gRPC target (dns:///name, ipv4:a:1,b:2)
  // Of each call with its retries; of a stream: until its next answer.
  absl::Duration deadline = absl::Seconds(30);
  int64_t max_chunk_data_bytes = 3 << 20;  // of x.data in one chunk
  int max_message_bytes = 64 << 20;
};

// The JSON service config. Client-side health checking is on only for a target that names several
// replicas: with one address it could only turn a server that reports a failed model into one that
// cannot even be asked which.
std::string ServiceConfig(const std::string& target);

// A uniform random 64-bit seed from the operating system.
uint64_t RandomSeed();

// Rows to be sent, produced when a chunk is built: `fill(first, count, out)` writes rows
// [first, first + count), each of the event's values in row-major order. It is called in order of
// rows, and again for rows whose answer was lost.
struct RowSource {
  int64_t rows = 0;
  bool real_valued = false;  // no codes: sent as FP32 and taken as they are (Dequantization NONE)
  std::function<void(int64_t first, int64_t count, float* out)> fill;
};

// A model with one of its versions chosen.
struct PinnedModel {
  butterflyflow::v1::ModelInfo info;
  butterflyflow::v1::VersionInfo version;
  butterflyflow::v1::EffectiveLimits limits;

  int64_t EventValues() const;  // D
  bool is_image() const { return info.architecture() == "image"; }
  butterflyflow::v1::ModelSelector Selector() const;
};

// Called after each chunk's answer with the rows done so far.
using ProgressCallback = std::function<void(int64_t rows_done)>;

struct RowLogLikelihood {
  uint8_t status = 0;  // row status of the wire, 0 = OK
  double log_prob = 0;
  double nats_per_dim = 0;
  double bits_per_dim = 0;
};

struct Reason {
  int feature = -1;         // index into feature_names
  double contribution = 0;  // part of the row's score
};

// Where in a window: an entry of the attribution.
struct Place {
  int64_t segment = -1;  // of AnomalyResult::attribution_stride time steps; -1 = none
  int channel = 0;
  uint8_t cause = 0;  // as on the wire: 1 gradient, 2 unchanged run, 3 jump
  double z = 0;
};

struct RowAnomaly {
  RowLogLikelihood likelihood;
  double score = 0;
  double p_value = 1;
  bool flagged = false;
  double score_ratio = 0;
  double nll_rank = 0;
  uint8_t typicality = 0;
  std::array<Reason, 3> reasons;  // the largest contributions, descending; feature -1 = none
  std::array<Place, 3> places;    // the largest of the attribution, descending; if it was wanted
};

struct AnomalyResult {
  std::vector<RowAnomaly> rows;
  std::vector<std::string> feature_names;
  std::string score_definition;
  uint32_t calibration_rows = 0;
  double alpha = 0;                // as used
  int64_t attribution_stride = 0;  // 0: attribution was not wanted
};

struct LogLikelihoodOptions {
  uint64_t seed = 0;   // of the dequantisation noise
  uint32_t draws = 1;  // noise draws per row
};

struct AnomalyOptions {
  std::optional<double> alpha;  // unset: the calibration's
  bool want_attribution = false;
};

struct SampleOptions {
  uint64_t seed = 0;
  uint64_t first_row = 0;
  std::optional<double> temperature;
  butterflyflow::v1::SampleRequest::Unit unit = butterflyflow::v1::SampleRequest::UNIT_UNSPECIFIED;
};

// Called with consecutive chunks in ascending order of rows.
using SampleCallback = std::function<absl::Status(const butterflyflow::v1::SampleResponse&)>;

class FlowClient {
 public:
  explicit FlowClient(const ClientOptions& options);

  absl::StatusOr<std::vector<butterflyflow::v1::ModelInfo>> ListModels();
  absl::StatusOr<butterflyflow::v1::GetModelResponse> GetModel(const std::string& name);
  // GetModel, then ChooseVersion.
  absl::StatusOr<PinnedModel> Pin(const butterflyflow::v1::ModelSelector& selector);
  // grpc.health.v1.Health/Check: 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING.
  absl::StatusOr<int> CheckHealth(const std::string& service);

  // Row i of the result belongs to row i of `rows`; bad rows are marked by their status. The noise
  // of row i is that of random-number row i, whatever the chunking. The first error ends the job.
  absl::StatusOr<std::vector<RowLogLikelihood>> LogLikelihood(const PinnedModel& model,
                                                              const RowSource& rows,
                                                              const LogLikelihoodOptions& options,
                                                              const ProgressCallback& progress);
  absl::StatusOr<AnomalyResult> AnomalyScore(const PinnedModel& model, const RowSource& rows,
                                             const AnomalyOptions& options,
                                             const ProgressCallback& progress);
  absl::Status Sample(const PinnedModel& model, uint64_t count, const SampleOptions& options,
                      const SampleCallback& consume);

  // Rows of one chunk, at least 1. `draws`: passes through the flow per row.
  int64_t RowsPerChunk(const PinnedModel& model, uint32_t draws = 1) const;

 private:
  using Result = butterflyflow::v1::StreamScoreResponse::Result;
  // Streams all rows; `take` gets each chunk's answer with its rows' place.
  absl::Status Score(
      const PinnedModel& model, const RowSource& rows,
      const butterflyflow::v1::StreamScoreRequest::Open& open, const ProgressCallback& progress,
      const std::function<absl::Status(int64_t first, int64_t count, const Result& result)>& take);
  // Runs `attempt` until it ends with anything but UNAVAILABLE, the deadline at most. A server that
  // never answered is not waited for; one that did may be restarting or busy.
  absl::Status Call(const std::function<grpc::Status(grpc::ClientContext*)>& attempt);

  ClientOptions options_;
  std::atomic<bool> answered_{false};
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<butterflyflow::v1::FlowService::Stub> flow_;
  std::unique_ptr<butterflyflow::v1::ModelService::Stub> models_;
};

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_FLOW_CLIENT_H_
