// Streams under load and at their ends: full queues, cancellations, deadlines, drains, idleness,
// defects. Each gives back what it held and is counted by what it was.
#include "gmock/gmock.h"
#include "tests/server/stream_fixture.h"

namespace bflow {
namespace {

using grpc::StatusCode;

using StreamEndsTest = StreamTest;

TEST_F(StreamEndsTest, AFullQueueAndFullCountersSlowAStreamAndFailNothing) {
  ASSERT_TRUE(StartWith("batching { max_queue_rows: 1 batch_rows_max: 1 worker_threads: 1 } "
                        "stream { max_chunk_bytes: 8192 window_chunks: 8 } "
                        "admission { max_bytes: 1048576 }")
                  .ok());
  control_->delay_ms = 1;
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int client = 0; client < 6; ++client) {
    clients.emplace_back([&, client] {
      grpc::ClientContext context;
      const std::unique_ptr<ScoreCall> call =
          pb::FlowService::NewStub(channel_)->StreamScore(&context);
      call->Write(OpenRequest());
      std::thread writer([&] {
        for (uint64_t c = 0; c < 12; ++c) {
          pb::StreamScoreRequest chunk = ChunkRequest(c, {static_cast<int16_t>(client), 9});
          chunk.mutable_chunk()->mutable_row_keys()->resize(200 << 10);
          call->Write(chunk);
        }
        call->WritesDone();
      });
      pb::StreamScoreResponse reply;
      int results = 0;
      while (call->Read(&reply)) results += reply.result().has_log_likelihood();
      writer.join();
      good += call->Finish().ok() && results == 12;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 6);
}

TEST_F(StreamEndsTest, ACancelledStreamCostsNothingMore) {
  ASSERT_TRUE(StartWith("batching { batch_rows_max: 1 worker_threads: 1 }").ok());
  control_->delay_ms = 20;
  const int64_t before = control_->rows;
  {
    grpc::ClientContext context;
    const std::unique_ptr<ScoreCall> call = flow_->StreamScore(&context);
    call->Write(OpenRequest());
    for (uint64_t c = 0; c < 3; ++c) call->Write(ChunkRequest(c, std::vector<int16_t>(50, 1)));
    pb::StreamScoreResponse reply;
    ASSERT_TRUE(call->Read(&reply));
    context.TryCancel();
    EXPECT_EQ(call->Finish().error_code(), StatusCode::CANCELLED);
  }
  while (!app_->Idle()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_LT(control_->rows - before, 100) << "of 150";
  EXPECT_EQ(Gauge("butterflyflow_open_streams{operation=\"log_likelihood\"}"), 0);
  EXPECT_LE(Gauge("butterflyflow_stream_pending_chunks{operation=\"log_likelihood\"}"), 0)
      << "-1: no chunk had been read";
  control_->delay_ms = 0;
  EXPECT_EQ(LogLikelihood(Request({1})).code, StatusCode::OK);
}

TEST_F(StreamEndsTest, ADeadlineEndsAStream) {
  ASSERT_TRUE(StartWith("batching { batch_rows_max: 1 worker_threads: 1 }").ok());
  control_->delay_ms = 50;
  const Outcome outcome = Run({OpenRequest(), ChunkRequest(0, std::vector<int16_t>(40, 1))}, 200);
  EXPECT_EQ(outcome.end.code, StatusCode::DEADLINE_EXCEEDED);
  // The client gives up first, by the time that its request took.
  EXPECT_THAT(Handled("StreamScore", "bidi_stream"),
              testing::AnyOf("DeadlineExceeded", "Canceled"));
}

// A cancellation first shows as a read that failed, as the client's last word does.
TEST_F(StreamEndsTest, CancelledIdleStreamsAreCountedAsCancelled) {
  ASSERT_TRUE(StartWith("").ok());
  for (int i = 0; i < 30; ++i) {
    grpc::ClientContext context;
    const std::unique_ptr<ScoreCall> call = flow_->StreamScore(&context);
    call->Write(OpenRequest());
    pb::StreamScoreResponse reply;
    ASSERT_TRUE(call->Read(&reply));
    context.TryCancel();
    EXPECT_EQ(call->Finish().error_code(), StatusCode::CANCELLED);
  }
  EXPECT_EQ(Handled("StreamScore", "bidi_stream"), "Canceled");
}

TEST_F(StreamEndsTest, TooManyStreamsAreToldToComeBack) {
  ASSERT_TRUE(StartWith("stream { max_streams: 1 }").ok());
  grpc::ClientContext context;
  const std::unique_ptr<ScoreCall> call = flow_->StreamScore(&context);
  call->Write(OpenRequest());
  pb::StreamScoreResponse reply;
  ASSERT_TRUE(call->Read(&reply));
  const Outcome second = Run({OpenRequest()});
  EXPECT_EQ(second.end.reason, "SERVER_BUSY");
  EXPECT_TRUE(second.end.retry_info);
  EXPECT_EQ(LogLikelihood(Request({1})).code, StatusCode::OK) << "unary calls are not streams";
  context.TryCancel();
  call->Finish();
}

TEST_F(StreamEndsTest, DrainAnswersWhatWasRead) {
  ASSERT_TRUE(StartWith("batching { worker_threads: 1 }").ok());
  control_->delay_ms = 100;
  grpc::ClientContext context, idle_context;
  const std::unique_ptr<ScoreCall> call = flow_->StreamScore(&context);
  const std::unique_ptr<ScoreCall> idle = flow_->StreamScore(&idle_context);
  call->Write(OpenRequest());
  idle->Write(OpenRequest());
  pb::StreamScoreResponse reply;
  ASSERT_TRUE(call->Read(&reply));
  ASSERT_TRUE(idle->Read(&reply));
  call->Write(ChunkRequest(0, {4}));
  while (Gauge("butterflyflow_stream_pending_chunks{operation=\"log_likelihood\"}") != 1) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  app_->StopServing();
  app_->RefuseNewCalls();
  ASSERT_TRUE(call->Read(&reply));
  EXPECT_EQ(reply.result().index(), 0u);
  EXPECT_FALSE(call->Read(&reply));
  EXPECT_EQ(Explain(call->Finish()).reason, "DRAINING");
  EXPECT_FALSE(idle->Read(&reply));
  EXPECT_EQ(Explain(idle->Finish()).reason, "DRAINING");
  while (!app_->Idle()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST_F(StreamEndsTest, AnIdleStreamIsEnded) {
  ASSERT_TRUE(StartWith("stream { idle_timeout_ms: 100 }").ok());
  grpc::ClientContext context;
  const std::unique_ptr<ScoreCall> call = flow_->StreamScore(&context);
  call->Write(OpenRequest());
  pb::StreamScoreResponse reply;
  ASSERT_TRUE(call->Read(&reply));
  EXPECT_FALSE(call->Read(&reply));
  const grpc::Status end = call->Finish();
  EXPECT_EQ(end.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Explain(end).reason, "STREAM_IDLE");
  EXPECT_TRUE(Explain(end).retry_info);
}

TEST_F(StreamEndsTest, AClientThatTakesNoRepliesIsCutOff) {
  ASSERT_TRUE(StartWith("stream { idle_timeout_ms: 200 }").ok());
  pb::StreamSampleRequest request;
  request.mutable_sample()->mutable_model()->set_name("ecg");
  request.mutable_sample()->set_num_samples(4'000'000'000u);
  grpc::ClientContext context;
  const auto call = flow_->StreamSample(&context, request);
  pb::StreamSampleResponse reply;
  ASSERT_TRUE(call->Read(&reply));
  while (!app_->Idle()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  while (call->Read(&reply)) {
  }
  // A status would wait behind the samples that are not read: the stream is broken off.
  EXPECT_EQ(call->Finish().error_code(), StatusCode::CANCELLED);
  EXPECT_EQ(Handled("StreamSample", "server_stream"), "Canceled");
}

TEST_F(StreamEndsTest, ADefectEndsTheStreamAndTellsNothing) {
  ASSERT_TRUE(StartWith("batching { worker_threads: 1 }").ok());
  control_->fail = true;
  const Outcome outcome = Run({OpenRequest(), ChunkRequest(0, {1}), ChunkRequest(1, {1})});
  EXPECT_EQ(outcome.end.code, StatusCode::INTERNAL);
  EXPECT_EQ(outcome.end.message.find("canary"), std::string::npos);
  EXPECT_EQ(outcome.replies.size(), 1u);
  EXPECT_EQ(Handled("StreamScore", "bidi_stream"), "");
  EXPECT_GE(app_->metrics().internal_errors.Value(), 1);
}

}  // namespace
}  // namespace bflow
