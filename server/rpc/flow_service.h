// FlowService on the callback API: a handler checks the request on gRPC's thread, hands a ScoreTask
// to the Batcher and returns; the worker that finishes the task fills the response and finishes the
// call. No model code runs on gRPC's threads and no handler waits.
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

 private:
  const ServiceContext services_;
  const Metrics::RpcMetrics log_likelihood_, anomaly_score_, sample_;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_FLOW_SERVICE_H_
