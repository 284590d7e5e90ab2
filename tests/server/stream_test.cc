// StreamScore and StreamSample through real gRPC: what they answer, in which order, and what they
// refuse.
#include "tests/server/stream_fixture.h"

namespace bflow {
namespace {

using grpc::StatusCode;

TEST_F(StreamTest, AnswersEachChunkInOrderAsAUnaryCallWould) {
  ASSERT_TRUE(StartWith("batching { batch_rows_max: 2 worker_threads: 3 }").ok());
  control_->delay_ms = 2;
  std::vector<pb::StreamScoreRequest> messages = {OpenRequest()};
  messages[0].mutable_open()->mutable_dequantization()->set_seed(7);
  std::vector<std::vector<int16_t>> rows;
  for (int16_t c = 0; c < 20; ++c) {
    std::vector<int16_t> chunk;
    for (int16_t r = 0; r <= c % 5; ++r) chunk.push_back(static_cast<int16_t>(c + r));
    messages.push_back(
        ChunkRequest(static_cast<uint64_t>(c), chunk, 100u * static_cast<uint64_t>(c)));
    messages.back().mutable_chunk()->set_row_keys("key " + std::to_string(c));
    rows.push_back(chunk);
  }
  const Outcome outcome = Run(messages);
  ASSERT_EQ(outcome.end.code, StatusCode::OK) << outcome.end.message;
  ASSERT_EQ(outcome.replies.size(), 21u);
  const auto& opened = outcome.replies[0].opened();
  EXPECT_EQ(opened.model().version(), 2);
  EXPECT_EQ(opened.window_chunks(), 4u);
  EXPECT_EQ(opened.max_chunk_bytes(), 4u << 20);
  EXPECT_EQ(opened.dequantization().kind(), pb::Dequantization::KIND_UNIFORM);
  EXPECT_EQ(opened.dequantization().seed(), 7u);
  for (size_t c = 0; c < rows.size(); ++c) {
    const auto& result = outcome.replies[c + 1].result();
    EXPECT_EQ(result.index(), c);
    EXPECT_EQ(result.row_keys(), "key " + std::to_string(c));
    pb::LogLikelihoodRequest unary = Request(rows[c]);
    unary.mutable_dequantization()->set_seed(7);
    unary.mutable_dequantization()->set_row_offset(100 * c);
    pb::LogLikelihoodResponse expected;
    ASSERT_EQ(LogLikelihood(unary, &expected).code, StatusCode::OK);
    EXPECT_EQ(result.log_likelihood().SerializeAsString(), expected.SerializeAsString());
  }
  EXPECT_EQ(Handled("StreamScore", "bidi_stream"), "OK");
  EXPECT_EQ(outcome.trailers.at("butterflyflow-model-version"), "2");
  EXPECT_EQ(outcome.trailers.at("butterflyflow-call-id").size(), 16u);
  EXPECT_EQ(Gauge("butterflyflow_open_streams{operation=\"log_likelihood\"}"), 0);
  EXPECT_EQ(Gauge("butterflyflow_stream_pending_chunks{operation=\"log_likelihood\"}"), 0);
  EXPECT_EQ(Gauge("butterflyflow_requests_total{api=\"typed\",model=\"ecg\",operation="
                  "\"log_likelihood\",outcome=\"ok\",version=\"2\"}"),
            40)
      << "20 chunks and 20 unary calls";
}

TEST_F(StreamTest, OneSeedForAllChunksWhereTheServerDrawsIt) {
  ASSERT_TRUE(StartWith("").ok());
  const Outcome outcome = Run({OpenRequest(), ChunkRequest(0, {5}), ChunkRequest(1, {5})});
  ASSERT_EQ(outcome.replies.size(), 3u);
  ASSERT_TRUE(outcome.replies[0].opened().dequantization().has_seed());
  EXPECT_EQ(outcome.replies[1].result().log_likelihood().log_prob().data(),
            outcome.replies[2].result().log_likelihood().log_prob().data())
      << "the same random-number row of the same seed";
}

TEST_F(StreamTest, ScoresAnomaliesAndMarksBadRows) {
  ASSERT_TRUE(StartWith("").ok());
  pb::StreamScoreRequest open = OpenRequest();
  open.mutable_open()->set_want_anomaly(true);
  open.mutable_open()->set_want_contributions(true);
  open.mutable_open()->set_want_attribution(true);
  open.mutable_open()->set_alpha(0.02);
  const Outcome outcome = Run({open, ChunkRequest(0, {100, 3, 128})});
  ASSERT_EQ(outcome.end.code, StatusCode::OK) << outcome.end.message;
  ASSERT_EQ(outcome.replies.size(), 2u);
  EXPECT_EQ(outcome.replies[0].opened().dequantization().kind(), pb::Dequantization::KIND_CENTER);
  const pb::AnomalyScoreResponse& anomaly = outcome.replies[1].result().anomaly();
  EXPECT_EQ(anomaly.flagged(), std::string("\1\0\1", 3));
  EXPECT_EQ(anomaly.row_status(), std::string("\0\0\3", 3)) << "MARK is a stream's default";
  EXPECT_EQ(anomaly.contributions().shape(1), 2);
  EXPECT_EQ(anomaly.attribution().shape(0), 3);
  EXPECT_EQ(anomaly.alpha(), 0.02);
}

TEST_F(StreamTest, AFaultOfOneChunkIsItsAnswerAndTheStreamGoesOn) {
  ASSERT_TRUE(StartWith("stream { max_chunk_bytes: 1024 } limits { max_rows: 40 }").ok());
  pb::StreamScoreRequest open = OpenRequest();
  open.mutable_open()->mutable_options()->set_invalid_rows(pb::INVALID_ROW_POLICY_REJECT);
  std::vector<pb::StreamScoreRequest> messages = {open};
  messages.push_back(ChunkRequest(0, {1}));
  messages.push_back(ChunkRequest(1, {1}));
  messages.back().mutable_chunk()->mutable_x()->set_shape(1, 5);
  messages.push_back(ChunkRequest(2, {128}));
  messages.push_back(ChunkRequest(3, std::vector<int16_t>(65, 1)));
  messages.back().mutable_chunk()->set_row_keys("mine");
  messages.push_back(ChunkRequest(4, std::vector<int16_t>(41, 1)));
  messages.push_back(ChunkRequest(5, {1}));
  messages.back().mutable_chunk()->mutable_row_keys()->resize((256 << 10) + 1);
  messages.push_back(ChunkRequest(6, {1}, ~uint64_t{0}));
  messages.push_back(ChunkRequest(7, {2}));
  const Outcome outcome = Run(messages);
  EXPECT_EQ(outcome.end.code, StatusCode::OK) << outcome.end.message;
  ASSERT_EQ(outcome.replies.size(), 9u);
  const auto reason = [&](size_t index) {
    const auto& error = outcome.replies[index + 1].result().error();
    EXPECT_EQ(outcome.replies[index + 1].result().index(), index);
    google::rpc::ErrorInfo info;
    return error.details_size() > 0 && error.details(0).UnpackTo(&info) ? info.reason() : "";
  };
  EXPECT_EQ(reason(0), "");
  EXPECT_EQ(reason(1), "SHAPE_MISMATCH");
  EXPECT_EQ(reason(2), "VALUE_OUT_OF_RANGE");
  EXPECT_EQ(reason(3), "LIMIT_EXCEEDED");
  EXPECT_EQ(outcome.replies[4].result().row_keys(), "mine");
  EXPECT_EQ(reason(4), "LIMIT_EXCEEDED");
  EXPECT_EQ(reason(5), "LIMIT_EXCEEDED");
  EXPECT_EQ(reason(6), "BAD_OPTION");
  EXPECT_EQ(Values<double>(outcome.replies[8].result().log_likelihood().log_prob()).size(), 1u);
}

TEST_F(StreamTest, ABrokenProtocolEndsTheStreamAfterTheAnswersBeforeIt) {
  ASSERT_TRUE(StartWith("").ok());
  struct Case {
    std::vector<pb::StreamScoreRequest> messages;
    size_t replies;
  };
  pb::StreamScoreRequest resumed = OpenRequest();
  resumed.mutable_open()->set_resume_from(5);
  const std::vector<Case> cases = {
      {{ChunkRequest(0, {1})}, 0},
      {{pb::StreamScoreRequest()}, 0},
      {{OpenRequest(), OpenRequest()}, 1},
      {{OpenRequest(), pb::StreamScoreRequest()}, 1},
      {{OpenRequest(), ChunkRequest(1, {1})}, 1},
      {{OpenRequest(), ChunkRequest(0, {1}), ChunkRequest(0, {1})}, 2},
      {{OpenRequest(), ChunkRequest(0, {1}), ChunkRequest(2, {1})}, 2},
      {{resumed, ChunkRequest(0, {1})}, 1},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const Outcome outcome = Run(cases[i].messages);
    EXPECT_EQ(outcome.end.code, StatusCode::INVALID_ARGUMENT) << i;
    EXPECT_EQ(outcome.end.reason, "STREAM_PROTOCOL") << i;
    EXPECT_EQ(outcome.replies.size(), cases[i].replies) << i;
  }
  const Outcome good = Run({resumed, ChunkRequest(5, {1}), ChunkRequest(6, {2})});
  EXPECT_EQ(good.end.code, StatusCode::OK);
  EXPECT_EQ(good.replies.size(), 3u);
}

TEST_F(StreamTest, WhatAStreamCannotOpenWith) {
  ASSERT_TRUE(StartWith("").ok());
  const auto refused = [&](const char* reason, const char* field, auto change) {
    pb::StreamScoreRequest request = OpenRequest();
    change(*request.mutable_open());
    const Outcome outcome = Run({request, ChunkRequest(0, {1})});
    EXPECT_EQ(outcome.end.reason, reason) << outcome.end.message;
    EXPECT_EQ(outcome.end.field, field);
    EXPECT_EQ(outcome.replies.size(), 0u);
  };
  using Open = pb::StreamScoreRequest::Open;
  refused("BAD_NAME", "model.name", [](Open& o) { o.mutable_model()->set_name("../canary"); });
  refused("MODEL_NOT_FOUND", "", [](Open& o) { o.mutable_model()->set_name("canary"); });
  refused("NO_CALIBRATION", "", [](Open& o) {
    o.mutable_model()->set_name("plain");
    o.set_want_anomaly(true);
  });
  refused("BAD_OPTION", "open.alpha", [](Open& o) { o.set_alpha(0.1); });
  refused("BAD_OPTION", "open.want_contributions", [](Open& o) { o.set_want_contributions(true); });
  refused("BAD_OPTION", "open.want_attribution", [](Open& o) { o.set_want_attribution(true); });
  refused("BAD_OPTION", "open.dequantization", [](Open& o) {
    o.set_want_anomaly(true);
    o.mutable_dequantization();
  });
  refused("BAD_OPTION", "open.dequantization.row_offset",
          [](Open& o) { o.mutable_dequantization()->set_row_offset(1); });
  refused("BAD_OPTION", "dequantization.draws",
          [](Open& o) { o.mutable_dequantization()->set_draws(65); });
  refused("BAD_OPTION", "options.priority", [](Open& o) { o.mutable_options()->set_priority(3); });
  refused("BAD_OPTION", "alpha", [](Open& o) {
    o.set_want_anomaly(true);
    o.set_alpha(1);
  });
}

TEST_F(StreamTest, SamplesComeInChunksOfConsecutiveRows) {
  ASSERT_TRUE(StartWith("stream { max_chunk_bytes: 5000 } limits { max_samples: 50 }").ok());
  pb::StreamSampleRequest request;
  pb::SampleRequest& sample = *request.mutable_sample();
  sample.mutable_model()->set_name("ecg");
  sample.set_num_samples(1000);
  sample.set_first_row(3);
  sample.set_seed(9);
  sample.set_want_log_prob(true);
  grpc::ClientContext context;
  const auto call = flow_->StreamSample(&context, request);
  pb::StreamSampleResponse reply;
  uint64_t next = 3;
  while (call->Read(&reply)) {
    const pb::SampleResponse& chunk = reply.chunk();
    EXPECT_EQ(chunk.first_row(), next);
    EXPECT_EQ(chunk.seed(), 9u);
    EXPECT_LE(reply.ByteSizeLong(), 5000u);
    const auto values = Values<int16_t>(chunk.samples());
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], (next + i / 8) % 100);
    next += static_cast<uint64_t>(chunk.samples().shape(0));
  }
  EXPECT_TRUE(call->Finish().ok());
  EXPECT_EQ(next, 1003u);
  EXPECT_EQ(Handled("StreamSample", "server_stream"), "OK");
  const auto refused = [&](const char* reason, auto change) {
    pb::StreamSampleRequest bad = request;
    change(*bad.mutable_sample());
    grpc::ClientContext bad_context;
    const auto bad_call = flow_->StreamSample(&bad_context, bad);
    EXPECT_FALSE(bad_call->Read(&reply));
    EXPECT_EQ(Explain(bad_call->Finish()).reason, reason);
  };
  refused("BAD_OPTION", [](pb::SampleRequest& r) { r.set_num_samples(0); });
  refused("BAD_OPTION", [](pb::SampleRequest& r) { r.set_temperature(5); });
  refused("BAD_OPTION", [](pb::SampleRequest& r) { r.set_first_row(~uint64_t{0}); });
  refused("MODEL_NOT_FOUND", [](pb::SampleRequest& r) { r.mutable_model()->set_name("none"); });
  refused("SAMPLING_NOT_ALLOWED",
          [](pb::SampleRequest& r) { r.mutable_model()->set_name("plain"); });
}

}  // namespace
}  // namespace bflow
