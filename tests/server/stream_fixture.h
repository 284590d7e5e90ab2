// What the tests of streams share: messages, and a client that sends them all and reads to the end.
#ifndef BFLOW_TESTS_SERVER_STREAM_FIXTURE_H_
#define BFLOW_TESTS_SERVER_STREAM_FIXTURE_H_

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/server_fixture.h"

namespace bflow {

using ScoreCall = grpc::ClientReaderWriter<pb::StreamScoreRequest, pb::StreamScoreResponse>;

inline pb::StreamScoreRequest OpenRequest(const std::string& model = "ecg") {
  pb::StreamScoreRequest request;
  request.mutable_open()->mutable_model()->set_name(model);
  request.mutable_open()->mutable_options()->set_score_dtype(pb::DATA_TYPE_FP64);
  return request;
}

inline pb::StreamScoreRequest ChunkRequest(uint64_t index, const std::vector<int16_t>& firsts,
                                           uint64_t first_row = 0) {
  pb::StreamScoreRequest request;
  request.mutable_chunk()->set_index(index);
  request.mutable_chunk()->set_first_row(first_row);
  *request.mutable_chunk()->mutable_x() = CodeTensor(firsts);
  return request;
}

class StreamTest : public ServerTest {
 protected:
  // Sends the messages, then reads to the end.
  struct Outcome {
    std::vector<pb::StreamScoreResponse> replies;
    Answer end;
    std::map<std::string, std::string> trailers;
  };
  Outcome Run(const std::vector<pb::StreamScoreRequest>& messages, int deadline_ms = 10'000) {
    Outcome outcome;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(deadline_ms));
    const std::unique_ptr<ScoreCall> call = flow_->StreamScore(&context);
    std::thread writer([&] {
      for (const pb::StreamScoreRequest& message : messages) {
        if (!call->Write(message)) return;
      }
      call->WritesDone();
    });
    pb::StreamScoreResponse reply;
    while (call->Read(&reply)) outcome.replies.push_back(reply);
    writer.join();
    outcome.end = Explain(call->Finish());
    for (const auto& [key, value] : context.GetServerTrailingMetadata()) {
      outcome.trailers[std::string(key.data(), key.size())] =
          std::string(value.data(), value.size());
    }
    return outcome;
  }
  // The codes under which the server counted the streams of a method, as "OK,Canceled".
  std::string Handled(const std::string& method, const std::string& type) {
    while (!app_->Idle()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::string codes;
    for (const char* code : {"OK", "Canceled", "DeadlineExceeded", "Unavailable"}) {
      const double count = Gauge(
          "grpc_server_handled_total{grpc_code=\"" + std::string(code) + "\",grpc_method=\"" +
          method + "\",grpc_service=\"butterflyflow.v1.FlowService\",grpc_type=\"" + type + "\"}");
      if (count > 0) codes += (codes.empty() ? "" : ",") + std::string(code);
    }
    return codes;
  }
  double Gauge(const std::string& line) {
    const std::string text = app_->metrics().Scrape();
    const size_t at = text.find(line + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size()));
  }
};

}  // namespace bflow

#endif  // BFLOW_TESTS_SERVER_STREAM_FIXTURE_H_
