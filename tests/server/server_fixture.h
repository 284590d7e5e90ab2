// A whole server in this process: real gRPC and HTTP on free ports, fake scorers instead of files.
#ifndef BFLOW_TESTS_SERVER_SERVER_FIXTURE_H_
#define BFLOW_TESTS_SERVER_SERVER_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "butterflyflow/v1/server_config.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/app/server_app.h"
#include "tests/support/fake_scorer.h"

namespace bflow {

namespace pb = ::butterflyflow::v1;

// What a failed call says.
struct Answer {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string reason, field, message;
  bool retry_info = false;
};

inline Answer Explain(const grpc::Status& status) {
  Answer answer{status.error_code(), "", "", status.error_message(), false};
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    if (detail.UnpackTo(&info) && info.domain() == "butterflyflow") answer.reason = info.reason();
    if (detail.UnpackTo(&bad)) answer.field = bad.field_violations(0).field();
    answer.retry_info |= detail.Is<google::rpc::RetryInfo>();
  }
  return answer;
}

inline pb::Tensor CodeTensor(const std::vector<int16_t>& firsts) {
  pb::Tensor tensor;
  tensor.set_dtype(pb::DATA_TYPE_INT16);
  for (int64_t d : {static_cast<int64_t>(firsts.size()), int64_t{4}, int64_t{2}}) {
    tensor.add_shape(d);
  }
  std::vector<int16_t> values(firsts.size() * 8);
  for (size_t i = 0; i < firsts.size(); ++i) values[i * 8] = firsts[i];
  tensor.set_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * 2));
  return tensor;
}

inline pb::Tensor FloatTensor(const std::vector<float>& values) {
  pb::Tensor tensor;
  tensor.set_dtype(pb::DATA_TYPE_FP32);
  for (int64_t d : {static_cast<int64_t>(values.size() / 8), int64_t{4}, int64_t{2}}) {
    tensor.add_shape(d);
  }
  tensor.set_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  return tensor;
}

// log p in FP64 of "ecg", rows that start with `firsts`.
inline pb::LogLikelihoodRequest Request(const std::vector<int16_t>& firsts) {
  pb::LogLikelihoodRequest request;
  request.mutable_model()->set_name("ecg");
  *request.mutable_x() = CodeTensor(firsts);
  request.mutable_options()->set_score_dtype(pb::DATA_TYPE_FP64);
  return request;
}

template <typename T>
std::vector<T> Values(const pb::Tensor& tensor) {
  std::vector<T> values(tensor.data().size() / sizeof(T));
  std::memcpy(values.data(), tensor.data().data(), tensor.data().size());
  return values;
}

// Models: "ecg" (calibrated), "plain" (no calibration, no sampling), "secret" (patient-sensitive,
// and its name must appear nowhere), "real" (continuous), "pixels" (images [3, 2, 2]), "broken"
// (refused), each version 1; "ecg" also has 2.
class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("bflow_server_test_" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    for (const char* version :
         {"ecg/1", "ecg/2", "plain/1", "canary-secret/1", "real/1", "pixels/1", "broken/1"}) {
      std::filesystem::create_directories(folder_ / version);
      std::ofstream(folder_ / version / "manifest.json") << "{}";
    }
  }
  void TearDown() override {
    app_.reset();
    std::filesystem::remove_all(folder_);
  }

  // Starts with a textproto laid over the defaults.
  absl::Status StartWith(const std::string& text) {
    pb::ServerConfig config = DefaultConfig();
    config.mutable_repository()->set_path(folder_.string());
    config.mutable_public_()->set_listen("127.0.0.1:0");
    config.mutable_metrics()->set_listen("127.0.0.1:0");
    EXPECT_TRUE(MergeTextproto(text, &config).ok());
    const auto converted = ConvertConfig(config);
    if (!converted.ok()) return converted.status();
    app_ = std::make_unique<ServerApp>(
        *converted, [this](const std::string& directory) { return Load(directory); },
        BackendFacts{}, Clock::Real());
    if (absl::Status started = app_->Start(); !started.ok()) return started;
    app_->WaitUntilLoaded();
    channel_ = grpc::CreateChannel(app_->listen().ToString(), grpc::InsecureChannelCredentials());
    flow_ = pb::FlowService::NewStub(channel_);
    models_ = pb::ModelService::NewStub(channel_);
    return absl::OkStatus();
  }

  absl::StatusOr<LoadedVersion> Load(const std::string& directory) {
    const std::filesystem::path path(directory);
    const std::string name = path.parent_path().filename();
    if (name == "broken") return absl::DataLossError("model.safetensors: hash differs");
    ModelSignature signature = name == "pixels" ? FakeScorer::Pixels() : FakeScorer::Quantised();
    if (name == "plain") signature.can_score_anomaly = signature.can_sample = false;
    if (name == "canary-secret") signature.patient_sensitive = true;
    if (name == "real") {
      signature.attribution_stride = 0;
      signature.quantised = false;
      for (ChannelSignature& channel : signature.channels) {
        channel.input_min = -1;
        channel.input_max = 1;
      }
    }
    LoadedVersion loaded;
    loaded.scorer = std::make_unique<FakeScorer>(signature, control_);
    loaded.self_test.rows = 1;
    loaded.self_test.x.resize(static_cast<size_t>(signature.event_size()));
    loaded.self_test.log_prob = {self_test_log_prob_};
    loaded.manifest_sha256 = std::string(64, 'a');
    loaded.card["notes"] = "fake";
    return loaded;
  }

  Answer LogLikelihood(const pb::LogLikelihoodRequest& request,
                       pb::LogLikelihoodResponse* response = nullptr, int deadline_ms = 10'000) {
    pb::LogLikelihoodResponse unused;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(deadline_ms));
    const grpc::Status status =
        flow_->LogLikelihood(&context, request, response ? response : &unused);
    trailers_.clear();
    for (const auto& [key, value] : context.GetServerTrailingMetadata()) {
      trailers_[std::string(key.data(), key.size())] = std::string(value.data(), value.size());
    }
    return Explain(status);
  }
  Answer Anomaly(const pb::AnomalyScoreRequest& request,
                 pb::AnomalyScoreResponse* response = nullptr) {
    pb::AnomalyScoreResponse unused;
    grpc::ClientContext context;
    return Explain(flow_->AnomalyScore(&context, request, response ? response : &unused));
  }
  Answer Sample(const pb::SampleRequest& request, pb::SampleResponse* response = nullptr) {
    pb::SampleResponse unused;
    grpc::ClientContext context;
    return Explain(flow_->Sample(&context, request, response ? response : &unused));
  }

  std::filesystem::path folder_;
  std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  double self_test_log_prob_ = 0;
  std::unique_ptr<ServerApp> app_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::FlowService::Stub> flow_;
  std::unique_ptr<pb::ModelService::Stub> models_;
  std::map<std::string, std::string> trailers_;
};

}  // namespace bflow

#endif  // BFLOW_TESTS_SERVER_SERVER_FIXTURE_H_
