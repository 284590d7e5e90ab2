// Windows per second through the server, in one process over loopback: unary calls, four at a time,
// against one stream, and against the scorer alone on as many threads, which is what the server
// would reach if nothing but the model cost time. Interleaved rounds; medians and quartiles.
//
//   bflow_bench_serving MODEL_REPOSITORY MODEL RECORD
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/status.h"
#include "butterflyflow/v1/server_config.pb.h"
#include "client/row_codec.h"
#include "client/stream_job.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "model/data/wfdb.h"
#include "model/training/training_data.h"
#include "server/app/flow_loader.h"
#include "server/app/server_app.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

constexpr int64_t kRows = 6000;  // per measurement
constexpr int kRounds = 9;
constexpr int kUnaryInFlight = 4;

// Runs work(i) for i in [0, count) on `threads` threads; seconds.
double Timed(int threads, int64_t count, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  const SteadyTime begin = Clock::Real()->Now();
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&] {
      for (int64_t i = next++; i < count; i = next++) work(i);
    });
  }
  for (std::thread& thread : running) thread.join();
  return SecondsBetween(begin, Clock::Real()->Now());
}

void Must(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "bflow_bench_serving: %s failed\n", what);
  std::exit(kExitInternal);
}

class ServingBench {
 public:
  ServingBench(ServerApp* app, std::shared_ptr<const Scorer> scorer, std::string model,
               std::vector<float> windows)
      : scorer_(std::move(scorer)), model_(std::move(model)), windows_(std::move(windows)) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(app->listen().ToString(),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = pb::FlowService::NewStub(channel_);
  }

  void Compare(int64_t rows_per_call) {
    const std::vector<pb::Tensor> chunks = Chunks(rows_per_call);
    std::vector<double> alone, unary, stream, unary_share, stream_share;
    for (int round = 0; round <= kRounds; ++round) {
      const double a = Alone(), u = Unary(chunks), s = Stream(chunks);
      if (round == 0) continue;  // warms up
      const double rows = static_cast<double>(rows_per_call) * static_cast<double>(chunks.size());
      alone.push_back(kRows / a);
      unary.push_back(rows / u);
      stream.push_back(rows / s);
      unary_share.push_back(100 * (1 - unary.back() / alone.back()));
      stream_share.push_back(100 * (1 - stream.back() / alone.back()));
    }
    std::printf(
        "%4d windows per call  scorer alone %6.0f/s  unary %6.0f/s, %4.1f%% [%.1f, %.1f] "
        "outside the model  stream %6.0f/s, %4.1f%% [%.1f, %.1f]\n",
        static_cast<int>(rows_per_call), At(alone, 0.5), At(unary, 0.5), At(unary_share, 0.5),
        At(unary_share, 0.25), At(unary_share, 0.75), At(stream, 0.5), At(stream_share, 0.5),
        At(stream_share, 0.25), At(stream_share, 0.75));
  }

 private:
  static double At(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
  }
  int64_t Size() const { return scorer_->signature().event_size(); }
  // Row i of an endless repetition of the record's windows.
  const float* Row(int64_t i) const {
    const int64_t rows = static_cast<int64_t>(windows_.size()) / Size();
    return windows_.data() + i % rows * Size();
  }
  std::vector<float> Rows(int64_t first, int64_t count) const {
    std::vector<float> rows;
    for (int64_t i = 0; i < count; ++i) {
      rows.insert(rows.end(), Row(first + i), Row(first + i) + Size());
    }
    return rows;
  }
  std::vector<pb::Tensor> Chunks(int64_t rows_per_call) const {
    std::vector<pb::Tensor> chunks;
    for (int64_t first = 0; first + rows_per_call <= kRows; first += rows_per_call) {
      chunks.push_back(client::EncodeRows(Rows(first, rows_per_call),
                                          scorer_->signature().event_shape, pb::DATA_TYPE_INT16));
    }
    return chunks;
  }

  double Alone() const {
    constexpr int64_t kBatch = 125;  // of the server's 128, so that it divides the rows
    return Timed(GrantedCores(), kRows / kBatch, [&](int64_t i) {
      const HostBatch batch = {kBatch, Rows(i * kBatch, kBatch)};
      Must(scorer_->Anomaly(batch, {.want_contributions = true}).ok(), "the scorer");
    });
  }
  double Unary(const std::vector<pb::Tensor>& chunks) const {
    return Timed(kUnaryInFlight, static_cast<int64_t>(chunks.size()), [&](int64_t i) {
      grpc::ClientContext context;
      pb::AnomalyScoreRequest request;
      pb::AnomalyScoreResponse reply;
      request.mutable_model()->set_name(model_);
      *request.mutable_x() = chunks[static_cast<size_t>(i)];
      request.set_want_contributions(true);
      Must(stub_->AnomalyScore(&context, request, &reply).ok(), "a unary call");
    });
  }
  double Stream(const std::vector<pb::Tensor>& chunks) const {
    client::ScoreStreamJob job;
    job.open.mutable_model()->set_name(model_);
    job.open.set_want_anomaly(true);
    job.open.set_want_contributions(true);
    job.chunks = chunks.size();
    job.chunk = [&](uint64_t index) {
      pb::StreamScoreRequest::Chunk chunk;
      *chunk.mutable_x() = chunks[index];
      return chunk;
    };
    job.opened = [](const auto&) { return absl::OkStatus(); };
    job.result = [](const auto&) { return absl::OkStatus(); };
    const SteadyTime begin = Clock::Real()->Now();
    Must(client::RunScoreStream(stub_.get(), job, absl::Seconds(60)).ok(), "the stream");
    return SecondsBetween(begin, Clock::Real()->Now());
  }

  const std::shared_ptr<const Scorer> scorer_;
  const std::string model_;
  const std::vector<float> windows_;  // codes
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::FlowService::Stub> stub_;
};

absl::StatusOr<std::vector<float>> ReadWindows(const std::string& record,
                                               const ModelSignature& signature) {
  BFLOW_ASSIGN_OR_RETURN(WaveformRecord waveform, ReadWfdbRecord(record));
  TrainingData::Request request;
  for (const ChannelSignature& channel : signature.channels) {
    request.signals.push_back(channel.name);
  }
  request.window = request.hop = signature.event_shape[0];
  request.fractions = {1, 0, 0};
  std::vector<WaveformRecord> records;
  records.push_back(std::move(waveform));
  BFLOW_ASSIGN_OR_RETURN(TrainingData data, TrainingData::Create(std::move(records), request));
  int64_t rows = 0;
  return data.Gather(DataPart::kTrain, false, std::numeric_limits<int64_t>::max(), &rows);
}

absl::Status Main(const std::string& repository, const std::string& model,
                  const std::string& record) {
  BFLOW_RETURN_IF_ERROR(SetLogLevel("error"));
  const Backend backend = FlowBackend();
  BFLOW_ASSIGN_OR_RETURN(BackendFacts facts, backend.select("cpu"));
  pb::ServerConfig config = DefaultConfig();
  config.mutable_repository()->set_path(repository);
  config.mutable_repository()->add_models()->set_name(model);
  config.mutable_public_()->set_listen("127.0.0.1:0");
  config.mutable_metrics()->set_listen("127.0.0.1:0");
  BFLOW_ASSIGN_OR_RETURN(ServerConfig converted, ConvertConfig(config));
  // A scorer of our own beside the server's, from the same files.
  std::shared_ptr<const Scorer> scorer;
  const ModelLoader load = CheckpointLoader({}, backend.make_scorer);
  const auto load_twice = [&](const std::string& folder) -> absl::StatusOr<LoadedVersion> {
    BFLOW_ASSIGN_OR_RETURN(LoadedVersion ours, load(folder));
    scorer = std::move(ours.scorer);
    return load(folder);
  };
  ServerApp app(converted, load_twice, std::move(facts), Clock::Real());
  BFLOW_RETURN_IF_ERROR(app.Start());
  app.WaitUntilLoaded();
  if (scorer == nullptr) return absl::InvalidArgumentError("the model was refused");
  BFLOW_ASSIGN_OR_RETURN(std::vector<float> windows, ReadWindows(record, scorer->signature()));
  ServingBench bench(&app, scorer, model, std::move(windows));
  for (int64_t rows : {1, 8, 125, 375}) bench.Compare(rows);
  return absl::OkStatus();
}

}  // namespace
}  // namespace bflow

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: bflow_bench_serving MODEL_REPOSITORY MODEL RECORD\n");
    return bflow::kExitUsage;
  }
  const absl::Status status = bflow::Main(argv[1], argv[2], argv[3]);
  if (status.ok()) return bflow::kExitOk;
  std::fprintf(stderr, "bflow_bench_serving: %s\n", std::string(status.message()).c_str());
  return bflow::kExitBadInput;
}
