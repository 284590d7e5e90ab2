// FlowService and ModelService in the test's own process, on a free loopback port: answers that
// follow from the request by simple rules, a record of every request, and failures on demand.
#ifndef BFLOW_TESTS_CLIENT_FAKE_SERVER_H_
#define BFLOW_TESTS_CLIENT_FAKE_SERVER_H_

#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "butterflyflow/v1/flow.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"

namespace bflow::client {

namespace v1 = ::butterflyflow::v1;

// An error as bflow-server makes it.
inline grpc::Status RichError(grpc::StatusCode code, const std::string& text,
                              const std::string& reason, const std::string& field) {
  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(text);
  google::rpc::ErrorInfo info;
  info.set_domain("butterflyflow");
  info.set_reason(reason);
  rich.add_details()->PackFrom(info);
  if (!field.empty()) {
    google::rpc::BadRequest bad;
    bad.add_field_violations()->set_field(field);
    rich.add_details()->PackFrom(bad);
  }
  return grpc::Status(code, text, rich.SerializeAsString());
}

class FakeServer : public v1::FlowService::Service, public v1::ModelService::Service {
 public:
  // Two channels II and ABP of `frames` samples, gain 81/mV and 11/mmHg, 125 Hz.
  explicit FakeServer(int64_t frames) {
    v1::ModelInfo* info = model.mutable_model();
    info->set_name("ecg");
    info->set_architecture("waveform");
    info->add_event_shape(frames);
    info->add_event_shape(2);
    info->set_quantised(true);
    info->set_sampling_rate_hz(125);
    info->add_input_dtypes(v1::DATA_TYPE_FP32);
    info->add_input_dtypes(v1::DATA_TYPE_INT16);
    AddChannel("II", 81, 29);
    AddChannel("ABP", 11, 0);
    v1::VersionInfo* version = info->add_versions();
    version->set_version(3);
    version->set_state(v1::VERSION_STATE_READY);
    version->set_manifest_sha256(std::string(64, 'a'));
    version->set_can_score_anomaly(true);
    version->set_calibration_rows(150);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(static_cast<v1::FlowService::Service*>(this));
    builder.RegisterService(static_cast<v1::ModelService::Service*>(this));
    builder.SetMaxReceiveMessageSize(64 << 20);
    server_ = builder.BuildAndStart();
    server_->GetHealthCheckService()->SetServingStatus("liveness", true);
    server_->GetHealthCheckService()->SetServingStatus("readiness", true);
  }
  ~FakeServer() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  void SetReady(bool ready) {
    server_->GetHealthCheckService()->SetServingStatus("readiness", ready);
  }

  v1::GetModelResponse model;
  std::deque<grpc::Status> failures;  // answers of the next data calls
  std::chrono::milliseconds delay{0};
  int calls = 0;  // data calls, failed ones too
  std::vector<v1::LogLikelihoodRequest> likelihood_requests;
  std::vector<v1::AnomalyScoreRequest> anomaly_requests;
  std::vector<v1::SampleRequest> sample_requests;  // one per stream
  std::vector<v1::StreamScoreRequest::Open> opens;
  int64_t sample_chunk_rows = 4;
  std::string answering_manifest = std::string(64, 'a');

  // First value of each row: what the fake's answers are made of.
  static std::vector<double> FirstValues(const v1::Tensor& x) {
    std::vector<double> out;
    const int64_t row = x.shape(1) * x.shape(2);
    for (int64_t i = 0; i < x.shape(0); ++i) {
      if (x.dtype() == v1::DATA_TYPE_INT16) {
        int16_t v;
        std::memcpy(&v, x.data().data() + i * row * 2, 2);
        out.push_back(v);
      } else {
        float v;
        std::memcpy(&v, x.data().data() + i * row * 4, 4);
        out.push_back(v);
      }
    }
    return out;
  }

  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* reply) override {
    // Two pages: the client must follow the token.
    *reply->add_models() = model.model();
    if (request->page_token().empty()) {
      reply->set_next_page_token("second");
    } else {
      reply->mutable_models(0)->set_name("other");
    }
    return grpc::Status::OK;
  }
  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest* request,
                        v1::GetModelResponse* reply) override {
    if (request->name() != "ecg") {
      return RichError(grpc::NOT_FOUND, "model: unknown", "MODEL_NOT_FOUND", "");
    }
    *reply = model;
    return grpc::Status::OK;
  }
  // log_prob = the row's first value; row status OUT_OF_RANGE where it is 99.
  grpc::Status LogLikelihood(grpc::ServerContext*, const v1::LogLikelihoodRequest* request,
                             v1::LogLikelihoodResponse* reply) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (grpc::Status status = Begin(); !status.ok()) return status;
    likelihood_requests.push_back(*request);
    const auto first = FirstValues(request->x());
    SetRef(reply->mutable_model());
    *reply->mutable_log_prob() = Doubles(first);
    *reply->mutable_nats_per_dim() = Doubles(first);
    *reply->mutable_bits_per_dim() = Doubles(first);
    for (const double v : first) reply->mutable_row_status()->push_back(v == 99 ? 3 : 0);
    return grpc::Status::OK;
  }
  // score = the row's first value, flagged from 50 on, p = 1 / (1 + score).
  grpc::Status AnomalyScore(grpc::ServerContext*, const v1::AnomalyScoreRequest* request,
                            v1::AnomalyScoreResponse* reply) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (grpc::Status status = Begin(); !status.ok()) return status;
    anomaly_requests.push_back(*request);
    const auto first = FirstValues(request->x());
    std::vector<double> p, contributions;
    for (const double v : first) {
      p.push_back(1 / (1 + v));
      contributions.insert(contributions.end(), {v / 4, v * 3 / 4});
      reply->mutable_flagged()->push_back(v >= 50 ? 1 : 0);
      reply->mutable_typicality()->push_back(v >= 50 ? 2 : 0);
      reply->mutable_row_status()->push_back(v == 99 ? 3 : 0);
    }
    SetRef(reply->mutable_model());
    for (v1::Tensor* t :
         {reply->mutable_log_prob(), reply->mutable_nats_per_dim(), reply->mutable_bits_per_dim(),
          reply->mutable_score(), reply->mutable_score_ratio(), reply->mutable_nll_rank()}) {
      *t = Doubles(first);
    }
    *reply->mutable_p_value() = Doubles(p);
    *reply->mutable_contributions() = Doubles(contributions);
    if (request->want_attribution()) {
      // z = the row's first value at the second segment of ABP, a jump.
      reply->set_attribution_stride(32);
      const int64_t entries = (model.model().event_shape(0) + 31) / 32 * 2;
      std::vector<double> z(first.size() * static_cast<size_t>(entries));
      for (size_t i = 0; i < first.size(); ++i) z[i * static_cast<size_t>(entries) + 3] = first[i];
      *reply->mutable_attribution() = Doubles(z);
      reply->set_attribution_cause(std::string(z.size(), '\3'));
    }
    reply->add_feature_names("step/II");
    reply->add_feature_names("flat_run/ABP");
    reply->set_calibration_rows(150);
    reply->set_score_definition("flow_quality_v1");
    reply->set_alpha(request->has_alpha() ? request->alpha() : 0.05);
    return grpc::Status::OK;
  }
  // Each chunk as the unary call would answer it; a failure of that ends the stream.
  grpc::Status StreamScore(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::StreamScoreResponse, v1::StreamScoreRequest>* stream) override {
    v1::StreamScoreRequest request;
    if (!stream->Read(&request) || !request.has_open()) return grpc::Status::CANCELLED;
    const v1::StreamScoreRequest::Open open = request.open();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      opens.push_back(open);
    }
    v1::StreamScoreResponse reply;
    SetRef(reply.mutable_opened()->mutable_model());
    stream->Write(reply);
    while (stream->Read(&request)) {
      v1::StreamScoreResponse::Result* result = reply.mutable_result();
      result->Clear();
      result->set_index(request.chunk().index());
      grpc::Status status;
      if (open.want_anomaly()) {
        v1::AnomalyScoreRequest unary;
        *unary.mutable_x() = request.chunk().x();
        if (open.has_alpha()) unary.set_alpha(open.alpha());
        unary.set_want_attribution(open.want_attribution());
        unary.set_want_contributions(open.want_contributions());
        status = AnomalyScore(context, &unary, result->mutable_anomaly());
      } else {
        v1::LogLikelihoodRequest unary;
        *unary.mutable_model() = open.model();
        *unary.mutable_x() = request.chunk().x();
        *unary.mutable_dequantization() = open.dequantization();
        unary.mutable_dequantization()->set_row_offset(request.chunk().first_row());
        status = LogLikelihood(context, &unary, result->mutable_log_likelihood());
      }
      if (status.error_code() == grpc::INVALID_ARGUMENT) {
        result->mutable_error()->ParseFromString(status.error_details());
      } else if (!status.ok()) {
        return status;
      }
      if (!stream->Write(reply)) break;
    }
    return grpc::Status::OK;
  }
  // Every value of sample r is first_row + r.
  grpc::Status StreamSample(grpc::ServerContext*, const v1::StreamSampleRequest* request,
                            grpc::ServerWriter<v1::StreamSampleResponse>* writer) override {
    v1::SampleRequest sample = request->sample();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      sample_requests.push_back(sample);
    }
    while (sample.num_samples() > 0) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (grpc::Status status = Begin(); !status.ok()) return status;
      v1::StreamSampleResponse reply;
      SetRef(reply.mutable_chunk()->mutable_model());
      v1::Tensor* x = reply.mutable_chunk()->mutable_samples();
      x->set_dtype(v1::DATA_TYPE_INT16);
      const uint32_t rows =
          std::min(static_cast<uint32_t>(sample_chunk_rows), sample.num_samples());
      x->add_shape(rows);
      for (const int64_t n : model.model().event_shape()) x->add_shape(n);
      const int64_t row = x->shape(1) * x->shape(2);
      for (int64_t i = 0; i < rows * row; ++i) {
        const int16_t v = static_cast<int16_t>(sample.first_row() + static_cast<uint64_t>(i / row));
        x->mutable_data()->append(reinterpret_cast<const char*>(&v), 2);
      }
      reply.mutable_chunk()->set_seed(sample.seed());
      reply.mutable_chunk()->set_first_row(sample.first_row());
      if (!writer->Write(reply)) break;
      sample.set_num_samples(sample.num_samples() - rows);
      sample.set_first_row(sample.first_row() + rows);
    }
    return grpc::Status::OK;
  }

 private:
  void AddChannel(const std::string& name, double gain, double baseline) {
    v1::Channel* channel = model.mutable_model()->add_channels();
    channel->set_name(name);
    channel->set_gain(gain);
    channel->set_baseline(baseline);
    channel->set_step(1);
  }
  grpc::Status Begin() {
    ++calls;
    std::this_thread::sleep_for(delay);
    if (failures.empty()) return grpc::Status::OK;
    const grpc::Status status = failures.front();
    failures.pop_front();
    return status;
  }
  void SetRef(v1::ModelRef* ref) const {
    ref->set_name("ecg");
    ref->set_version(3);
    ref->set_manifest_sha256(answering_manifest);
  }
  static v1::Tensor Doubles(const std::vector<double>& values) {
    v1::Tensor tensor;
    tensor.set_dtype(v1::DATA_TYPE_FP64);
    tensor.add_shape(static_cast<int64_t>(values.size()));
    tensor.set_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * 8));
    return tensor;
  }

  std::mutex mutex_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace bflow::client

#endif  // BFLOW_TESTS_CLIENT_FAKE_SERVER_H_
