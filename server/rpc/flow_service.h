// FlowService on the callback API: a handler checks the request on gRPC's thread, hands a ScoreTask
// to the Batcher and returns; the worker that finishes the task fills the response and finishes the
// call. No model code runs on gRPC's threads and no handler waits. Streams are ScoreStream and
// SampleStream; the reactors here only carry their operations to gRPC.
#ifndef BFLOW_SERVER_RPC_FLOW_SERVICE_H_
#define BFLOW_SERVER_RPC_FLOW_SERVICE_H_

#include "butterflyflow/v1/flow.grpc.pb.h"
#include "server/rpc/call.h"

namespace bflow {

class FlowServiceImpl final : public butterflyflow::v1::FlowService::CallbackService {
 public:
  explicit FlowServiceImpl(const ServiceContext& services);

  grpc::ServerUnaryReactor* LogLikelihood(
      grpc::CallbackServerContext* context, const butterflyflow::v1::LogLikelihoodRequest* request,
      butterflyflow::v1::LogLikelihoodResponse* response) override;
  grpc::ServerUnaryReactor* AnomalyScore(
      grpc::CallbackServerContext* context, const butterflyflow::v1::AnomalyScoreRequest* request,
      butterflyflow::v1::AnomalyScoreResponse* response) override;
  grpc::ServerUnaryReactor* Sample(grpc::CallbackServerContext* context,
                                   const butterflyflow::v1::SampleRequest* request,
                                   butterflyflow::v1::SampleResponse* response) override;
  grpc::ServerBidiReactor<butterflyflow::v1::StreamScoreRequest,
                          butterflyflow::v1::StreamScoreResponse>*
  StreamScore(grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<butterflyflow::v1::StreamSampleResponse>* StreamSample(
      grpc::CallbackServerContext* context,
      const butterflyflow::v1::StreamSampleRequest* request) override;

 private:
  const ServiceContext services_;
  const Metrics::RpcMetrics log_likelihood_, anomaly_score_, sample_, stream_score_, stream_sample_;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_FLOW_SERVICE_H_
