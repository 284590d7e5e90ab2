#include "client/flow_client.h"

#include <gtest/gtest.h>

#include "client/model_name.h"
#include "client/rpc_status.h"
#include "tests/client/fake_server.h"

namespace bflow::client {
namespace {

constexpr int64_t kFrames = 1024;

bool Contains(const absl::Status& status, const std::string& text) {
  return status.message().find(text) != absl::string_view::npos;
}

class FlowClientTest : public testing::Test {
 protected:
  FlowClientTest() {
    options_.server = server_.address();
    client_ = std::make_unique<FlowClient>(options_);
    pinned_ = *client_->Pin(*ParseModelName("ecg"));
  }

  // Row i holds the value i % 90 throughout, plus `fraction`.
  static RowSource Rows(int64_t count, float fraction = 0) {
    RowSource rows;
    rows.rows = count;
    rows.fill = [fraction](int64_t first, int64_t n, float* out) {
      for (int64_t i = 0; i < n; ++i) {
        std::fill_n(out + i * kFrames * 2, kFrames * 2,
                    static_cast<float>((first + i) % 90) + fraction);
      }
    };
    return rows;
  }

  FakeServer server_{kFrames};
  ClientOptions options_;
  std::unique_ptr<FlowClient> client_;
  PinnedModel pinned_;
};

TEST_F(FlowClientTest, CutsRowsIntoChunksThatKeepTheNoiseOfEachRow) {
  int64_t last = 0;
  const auto rows = client_->LogLikelihood(pinned_, Rows(1000), {.seed = 7, .draws = 2},
                                           [&](int64_t done) { last = done; });
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(last, 1000);
  ASSERT_EQ(rows->size(), 1000u);
  for (int64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ((*rows)[static_cast<size_t>(i)].log_prob, static_cast<double>(i % 90));
  }
  EXPECT_GE(server_.likelihood_requests.size(), 3u);
  int64_t total = 0;
  for (const auto& request : server_.likelihood_requests) {
    EXPECT_LE(request.x().data().size(), 3u << 20);
    EXPECT_EQ(request.x().dtype(), v1::DATA_TYPE_INT16);
    EXPECT_EQ(request.model().version(), 3) << "the version is pinned";
    EXPECT_EQ(request.dequantization().kind(), v1::Dequantization::KIND_UNIFORM);
    EXPECT_EQ(request.dequantization().seed(), 7u);
    EXPECT_EQ(request.dequantization().draws(), 2u);
    EXPECT_EQ(static_cast<double>(request.dequantization().row_offset() % 90),
              FakeServer::FirstValues(request.x())[0]);
    total += request.x().shape(0);
  }
  EXPECT_EQ(total, 1000);
}

TEST_F(FlowClientTest, StaysWithinTheServersLimits) {
  pinned_.limits.set_max_rows(10);
  ASSERT_TRUE(client_->LogLikelihood(pinned_, Rows(25), {}, nullptr).ok());
  EXPECT_EQ(server_.likelihood_requests.size(), 3u);
  pinned_.limits.set_max_rows(0);
  pinned_.limits.set_max_message_bytes((64 << 10) + 5 * kFrames * 2 * 4);
  EXPECT_EQ(client_->RowsPerChunk(pinned_), 5);
  pinned_.limits.set_max_chunk_bytes(3 * kFrames * 2 * 4);
  EXPECT_EQ(client_->RowsPerChunk(pinned_), 3);
}

TEST_F(FlowClientTest, SendsFractionsAndRealValuesAsFloats) {
  ASSERT_TRUE(
      client_->LogLikelihood(pinned_, Rows(2, 0.25f), {.seed = 1, .draws = 1}, nullptr).ok());
  EXPECT_EQ(server_.likelihood_requests[0].x().dtype(), v1::DATA_TYPE_FP32);
  EXPECT_EQ(server_.likelihood_requests[0].dequantization().kind(),
            v1::Dequantization::KIND_UNIFORM);
  RowSource real = Rows(2);
  real.real_valued = true;
  ASSERT_TRUE(client_->LogLikelihood(pinned_, real, {.seed = 1, .draws = 1}, nullptr).ok());
  EXPECT_EQ(server_.likelihood_requests[1].x().dtype(), v1::DATA_TYPE_FP32);
  EXPECT_EQ(server_.likelihood_requests[1].dequantization().kind(), v1::Dequantization::KIND_NONE);
  EXPECT_FALSE(server_.likelihood_requests[1].dequantization().has_seed());
}

TEST_F(FlowClientTest, ResumesAtTheFirstChunkWithoutAnswer) {
  pinned_.limits.set_max_rows(10);
  const grpc::Status gone(grpc::UNAVAILABLE, "gone");
  server_.failures = {grpc::Status::OK, grpc::Status::OK, gone, grpc::Status::OK, gone, gone};
  std::vector<int64_t> progress;
  const auto rows = client_->LogLikelihood(pinned_, Rows(55), {.seed = 5, .draws = 1},
                                           [&](int64_t done) { progress.push_back(done); });
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(progress, (std::vector<int64_t>{10, 20, 30, 40, 50, 55})) << "no row twice, none lost";
  for (size_t i = 0; i < 55; ++i) EXPECT_EQ((*rows)[i].log_prob, static_cast<double>(i));
  std::vector<uint64_t> resumed;
  for (const auto& open : server_.opens) {
    resumed.push_back(open.resume_from());
    EXPECT_EQ(open.model().version(), 3);
    EXPECT_EQ(open.dequantization().seed(), 5u);
  }
  EXPECT_EQ(resumed, (std::vector<uint64_t>{0, 2, 3, 3}));
  server_.failures = {grpc::Status::OK, gone,
                      RichError(grpc::NOT_FOUND, "model: unknown", "MODEL_NOT_FOUND", "")};
  EXPECT_EQ(client_->LogLikelihood(pinned_, Rows(55), {}, nullptr).status().code(),
            absl::StatusCode::kAborted)
      << "the version is gone in the middle of the job";
}

TEST_F(FlowClientTest, WaitsForABusyServerUntilTheDeadline) {
  const grpc::Status full = RichError(grpc::UNAVAILABLE, "the queue is full", "QUEUE_FULL", "");
  server_.failures.assign(3, full);
  server_.failures.push_back(grpc::Status(grpc::CANCELLED, ""));  // as a server that shuts down
  EXPECT_TRUE(client_->AnomalyScore(pinned_, Rows(1), {}, nullptr).ok());
  EXPECT_EQ(server_.calls, 5);

  server_.failures.assign(1000, full);
  options_.deadline = absl::Seconds(1);
  const auto result = FlowClient(options_).AnomalyScore(pinned_, Rows(1), {}, nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Contains(result.status(), "QUEUE_FULL")) << result.status();
}

TEST_F(FlowClientTest, DoesNotRetryOtherErrorsAndTellsReasonAndField) {
  server_.failures = {
      RichError(grpc::INVALID_ARGUMENT, "3 of them", "BAD_OPTION", "dequantization.draws")};
  const auto result = client_->LogLikelihood(pinned_, Rows(1), {}, nullptr);
  EXPECT_EQ(server_.calls, 1);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(result.status().message(), "BAD_OPTION: dequantization.draws: 3 of them");
}

TEST_F(FlowClientTest, KeepsItsDeadline) {
  options_.deadline = absl::Milliseconds(100);
  server_.delay = std::chrono::milliseconds(600);
  FlowClient hasty(options_);
  const auto result = hasty.LogLikelihood(pinned_, Rows(1), {}, nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(Contains(result.status(), "--deadline"));
}

TEST_F(FlowClientTest, NeverMixesVersions) {
  server_.answering_manifest = std::string(64, 'b');
  EXPECT_EQ(client_->LogLikelihood(pinned_, Rows(1), {}, nullptr).status().code(),
            absl::StatusCode::kAborted);
}

TEST_F(FlowClientTest, ReadsAnomalyScoresAndTheirReasons) {
  const auto result = client_->AnomalyScore(pinned_, Rows(80), {.alpha = 0.01}, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_DOUBLE_EQ(server_.anomaly_requests[0].alpha(), 0.01);
  EXPECT_TRUE(server_.anomaly_requests[0].want_contributions());
  EXPECT_EQ(result->calibration_rows, 150u);
  const RowAnomaly& row = result->rows[60];
  EXPECT_DOUBLE_EQ(row.score, 60);
  EXPECT_DOUBLE_EQ(row.p_value, 1.0 / 61);
  EXPECT_TRUE(row.flagged);
  EXPECT_FALSE(result->rows[49].flagged);
  EXPECT_EQ(row.reasons[0].feature, 1);
  EXPECT_DOUBLE_EQ(row.reasons[0].contribution, 45);
  EXPECT_EQ(row.reasons[1].feature, 0);
  EXPECT_EQ(row.reasons[2].feature, -1);
}

TEST_F(FlowClientTest, SamplesInOrderAndResumes) {
  std::vector<int16_t> first_values;
  SampleOptions options;
  options.seed = 9;
  options.first_row = 100;
  server_.failures = {grpc::Status::OK, grpc::Status(grpc::UNAVAILABLE, "gone"), grpc::Status::OK,
                      grpc::Status(grpc::CANCELLED, "")};
  const auto consume = [&](const auto& reply) {
    for (const double v : FakeServer::FirstValues(reply.samples())) {
      first_values.push_back(static_cast<int16_t>(v));
    }
    return absl::OkStatus();
  };
  const auto status = client_->Sample(pinned_, 10, options, consume);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(first_values, (std::vector<int16_t>{100, 101, 102, 103, 104, 105, 106, 107, 108, 109}));
  ASSERT_EQ(server_.sample_requests.size(), 3u);
  for (const auto& request : server_.sample_requests) EXPECT_EQ(request.seed(), 9u);
  EXPECT_EQ(server_.sample_requests[2].first_row(), 108u);
  EXPECT_EQ(server_.sample_requests[2].num_samples(), 2u);
  const auto full = client_->Sample(pinned_, 10, options, [](const auto&) {
    return absl::ResourceExhaustedError("the disk is full");
  });
  EXPECT_EQ(full.message(), "the disk is full");
}

TEST_F(FlowClientTest, ListsAllPagesAndReportsHealth) {
  const auto models = client_->ListModels();
  ASSERT_TRUE(models.ok());
  ASSERT_EQ(models->size(), 2u);
  EXPECT_EQ((*models)[1].name(), "other");
  EXPECT_EQ(*client_->CheckHealth("readiness"), 1);
  server_.SetReady(false);
  EXPECT_EQ(*client_->CheckHealth("readiness"), 2);
  EXPECT_TRUE(client_->ListModels().ok()) << "a server that is not ready can still be asked";
}

TEST_F(FlowClientTest, ReplicasAreHealthChecked) {
  EXPECT_EQ(ServiceConfig("127.0.0.1:8001").find("healthCheckConfig"), std::string::npos);
  EXPECT_NE(ServiceConfig("dns:///flows:8001").find("healthCheckConfig"), std::string::npos);
  options_.server = "ipv4:" + server_.address() + "," + server_.address();
  options_.deadline = absl::Seconds(5);
  EXPECT_TRUE(FlowClient(options_).ListModels().ok());
  server_.SetReady(false);
  EXPECT_EQ(FlowClient(options_).ListModels().status().code(), absl::StatusCode::kUnavailable);
}

TEST(RpcStatus, ExitCodesFollowCodeAndReason) {
  const auto code = [](grpc::StatusCode grpc_code, const char* reason) {
    return ExitCodeForStatus(StatusFromRpc(RichError(grpc_code, "text", reason, "")));
  };
  EXPECT_EQ(code(grpc::StatusCode::FAILED_PRECONDITION, "NO_CALIBRATION"), 64);
  EXPECT_EQ(code(grpc::StatusCode::FAILED_PRECONDITION, "MODEL_FAILED"), 69);
  EXPECT_EQ(code(grpc::StatusCode::INVALID_ARGUMENT, "SHAPE_MISMATCH"), 64);
  EXPECT_EQ(code(grpc::StatusCode::INTERNAL, "INTERNAL"), 70);
  EXPECT_EQ(code(grpc::StatusCode::UNAVAILABLE, "QUEUE_FULL"), 69);
}

TEST(FlowClientUnreachable, IsUnavailableWithAHint) {
  ClientOptions options;
  options.server = "127.0.0.1:1";
  options.deadline = absl::Seconds(5);
  const auto models = FlowClient(options).ListModels();
  EXPECT_EQ(models.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Contains(models.status(), "--server"));
  EXPECT_EQ(ExitCodeForStatus(models.status()), 69);
}

}  // namespace
}  // namespace bflow::client
