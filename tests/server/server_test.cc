// The life of a server: start, models that are refused, a full queue, drain, metrics, many clients.
#include <CivetServer.h>

#include <limits>
#include <thread>

#include "base/log.h"
#include "tests/server/server_fixture.h"

namespace bflow {
namespace {

using grpc::StatusCode;

// (status, body) of an HTTP GET; other methods by name.
std::pair<int, std::string> Http(const ListenAddress& address, const std::string& path,
                                 const std::string& method = "GET") {
  char error[256];
  mg_connection* connection = mg_connect_client("127.0.0.1", address.port, 0, error, sizeof(error));
  if (connection == nullptr) return {0, error};
  mg_printf(connection,
            "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            method.c_str(), path.c_str());
  std::string body;
  int status = 0;
  if (mg_get_response(connection, error, sizeof(error), 5000) >= 0) {
    status = mg_get_response_info(connection)->status_code;
    char buffer[4096];
    for (int n; (n = mg_read(connection, buffer, sizeof(buffer))) > 0;) body.append(buffer, n);
  }
  mg_close_connection(connection);
  return {status, body};
}

TEST_F(ServerTest, ABrokenVersionDoesNotStopTheOthers) {
  ASSERT_TRUE(StartWith("").ok());
  EXPECT_EQ(Http(app_->metrics_listen(), "/readyz").first, 503);
  EXPECT_EQ(Http(app_->metrics_listen(), "/livez").first, 200);
  EXPECT_EQ(LogLikelihood(Request({1})).code, StatusCode::OK);
  app_.reset();
  self_test_log_prob_ = 1;  // what the fake scorer does not say
  ASSERT_TRUE(StartWith("repository { models { name: 'ecg' } }").ok());
  EXPECT_EQ(LogLikelihood(Request({1})).reason, "MODEL_FAILED");
}

TEST_F(ServerTest, ConfigurationErrorsAtTheStart) {
  for (const char* text : {"repository { models { name: 'absent' } }",
                           "repository { models { name: 'ecg' version: 9 } }",
                           "repository { path: '/nonexistent' }"}) {
    const absl::Status status = StartWith(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(std::string(status.message()).rfind("repository.", 0), 0u) << status;
  }
  ASSERT_TRUE(StartWith("").ok());
  const std::unique_ptr<ServerApp> first = std::move(app_);
  const std::string taken = first->listen().ToString();
  EXPECT_EQ(StartWith("public { listen: '" + taken + "' }").code(), absl::StatusCode::kUnavailable);
}

TEST_F(ServerTest, QueueDeadlineAndCancellation) {
  ASSERT_TRUE(StartWith("batching { max_queue_rows: 4 batch_rows_max: 1 worker_threads: 1 }").ok());
  control_->delay_ms = 100;
  const int64_t before = control_->rows;
  std::thread busy([&] { LogLikelihood(Request({1, 2, 3, 4}), nullptr, 250); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::unique_ptr<pb::FlowService::Stub> stub = pb::FlowService::NewStub(channel_);
  grpc::ClientContext context;
  pb::LogLikelihoodResponse response;
  const grpc::Status full = stub->LogLikelihood(&context, Request({1, 2, 3}), &response);
  EXPECT_EQ(full.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Explain(full).reason, "QUEUE_FULL");
  EXPECT_TRUE(Explain(full).retry_info);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
  busy.join();
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  EXPECT_LE(control_->rows - before, 3) << "expired rows are not computed";
  control_->delay_ms = 0;
  EXPECT_EQ(LogLikelihood(Request({1})).code, StatusCode::OK);
  EXPECT_NE(Http(app_->metrics_listen(), "/metrics").second.find("dropped_rows_total"),
            std::string::npos);
}

// 16,200 rows of 32 bytes and a reply of about as many do not fit 1 MiB together: the call is
// refused before a value is looked at, and its bytes are given back.
TEST_F(ServerTest, AFullAdmissionCounterRefusesBeforeTheValuesAreRead) {
  ASSERT_TRUE(
      StartWith("admission { max_bytes: 1048576 } stream { max_chunk_bytes: 524288 }").ok());
  std::vector<float> values(16'200 * 8, std::numeric_limits<float>::quiet_NaN());
  pb::LogLikelihoodRequest request = Request({1});
  *request.mutable_x() = FloatTensor(values);
  const Answer busy = LogLikelihood(request);
  EXPECT_EQ(busy.code, StatusCode::UNAVAILABLE);
  EXPECT_EQ(busy.reason, "SERVER_BUSY");
  EXPECT_TRUE(busy.retry_info);
  values.resize(8'000 * 8);
  *request.mutable_x() = FloatTensor(values);
  // They are given back when gRPC has done with the refused call, shortly after its answer.
  Answer fits = LogLikelihood(request);
  for (int i = 0; fits.reason == "SERVER_BUSY" && i < 500; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    fits = LogLikelihood(request);
  }
  EXPECT_EQ(fits.reason, "NON_FINITE_INPUT");
  EXPECT_EQ(LogLikelihood(Request({1})).code, StatusCode::OK);
}

TEST_F(ServerTest, DrainFinishesWhatWasAccepted) {
  ASSERT_TRUE(StartWith("repository { models { name: 'ecg' } }").ok());
  EXPECT_EQ(Http(app_->metrics_listen(), "/readyz").first, 200);
  control_->delay_ms = 200;
  Answer accepted;
  std::thread call([&] { accepted = LogLikelihood(Request({1})); });
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  app_->StopServing();
  EXPECT_EQ(Http(app_->metrics_listen(), "/readyz").first, 503);
  app_->RefuseNewCalls();
  EXPECT_FALSE(app_->Idle());
  grpc::ClientContext context;
  pb::LogLikelihoodResponse response;
  const Answer refused = Explain(flow_->LogLikelihood(&context, Request({1}), &response));
  EXPECT_EQ(refused.reason, "DRAINING");
  app_->Shutdown(std::chrono::seconds(5));
  call.join();
  EXPECT_EQ(accepted.code, StatusCode::OK) << accepted.message;
}

TEST_F(ServerTest, ADefectIsInternalAndCounted) {
  ASSERT_TRUE(StartWith("repository { models { name: 'ecg' } }").ok());
  control_->fail = true;
  const Answer answer = LogLikelihood(Request({1}));
  EXPECT_EQ(answer.code, StatusCode::INTERNAL);
  EXPECT_EQ(answer.message.find("canary"), std::string::npos);
  EXPECT_EQ(app_->metrics().internal_errors.Value(), 1);
}

TEST_F(ServerTest, MetricsAndLogsHoldNoPrivateDatum) {
  testing::internal::CaptureStderr();
  ASSERT_TRUE(SetLogLevel("debug").ok());
  ASSERT_TRUE(StartWith("").ok());
  pb::LogLikelihoodRequest request = Request({1, 2});
  request.mutable_options()->set_request_id("canary-request");
  EXPECT_EQ(LogLikelihood(request).code, StatusCode::OK);
  request.mutable_model()->set_name("canary-secret");
  EXPECT_EQ(LogLikelihood(request).code, StatusCode::OK);
  request.mutable_model()->set_name("canary-invented");
  EXPECT_EQ(LogLikelihood(request).code, StatusCode::NOT_FOUND);
  const auto [status, text] = Http(app_->metrics_listen(), "/metrics");
  EXPECT_EQ(status, 200);
  for (const char* expected :
       {"butterflyflow_requests_total{api=\"typed\",model=\"ecg\",operation=\"log_likelihood\","
        "outcome=\"ok\",version=\"2\"} 1",
        "model=\"kind:waveform\"", "model=\"other\"", "butterflyflow_build_info{",
        "butterflyflow_backend_info{", "process_resident_memory_bytes", "process_open_fds",
        "grpc_server_handled_total{grpc_code=\"NotFound\"", "butterflyflow_stage_seconds_bucket",
        "butterflyflow_model_state{"}) {
    EXPECT_NE(text.find(expected), std::string::npos) << expected;
  }
  EXPECT_EQ(text.find("canary"), std::string::npos);
  if (std::system("command -v promtool >/dev/null") == 0) {
    FILE* promtool = popen("promtool check metrics", "w");
    ASSERT_NE(promtool, nullptr);
    std::fwrite(text.data(), 1, text.size(), promtool);
    EXPECT_EQ(pclose(promtool), 0);
  }
  for (const char* path : {"/", "/metricsx", "/metrics/x", "/favicon.ico"}) {
    EXPECT_EQ(Http(app_->metrics_listen(), path).first, 404) << path;
  }
  EXPECT_EQ(Http(app_->metrics_listen(), "/metrics", "POST").first, 404);
  app_.reset();
  ASSERT_TRUE(SetLogLevel("info").ok());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("LogLikelihood"), std::string::npos);
  EXPECT_NE(log.find("\"event\":\"ready\""), std::string::npos);
  EXPECT_EQ(log.find("canary"), std::string::npos) << log;
}

TEST_F(ServerTest, ManyClientsAtOnce) {
  ASSERT_TRUE(StartWith("repository { models { name: 'ecg' } }").ok());
  std::atomic<int> good{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      const auto stub = pb::FlowService::NewStub(channel_);
      for (int i = 0; i < 25; ++i) {
        grpc::ClientContext context;
        pb::LogLikelihoodResponse response;
        pb::LogLikelihoodRequest request = Request({static_cast<int16_t>(c), 9});
        request.mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
        if (stub->LogLikelihood(&context, request, &response).ok() &&
            Values<double>(response.log_prob()) == std::vector<double>{-double(c), -9}) {
          ++good;
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 200);
}

}  // namespace
}  // namespace bflow
