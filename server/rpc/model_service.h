// ModelService: what is loaded. Changes are refused on this listener.
#ifndef BFLOW_SERVER_RPC_MODEL_SERVICE_H_
#define BFLOW_SERVER_RPC_MODEL_SERVICE_H_

#include <string>

#include "butterflyflow/v1/flow.grpc.pb.h"
#include "server/rpc/call.h"

namespace bflow {

class ModelServiceImpl final : public butterflyflow::v1::ModelService::CallbackService {
 public:
  // What GetModel tells beside the model.
  struct Facts {
    butterflyflow::v1::EffectiveLimits limits;
    std::string device;
    std::string backend_reason;
  };

  ModelServiceImpl(const ServiceContext& services, Facts facts);

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const butterflyflow::v1::ListModelsRequest* request,
                                       butterflyflow::v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const butterflyflow::v1::GetModelRequest* request,
                                     butterflyflow::v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const butterflyflow::v1::LoadModelRequest* request,
                                      butterflyflow::v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const butterflyflow::v1::UnloadModelRequest* request,
                                        butterflyflow::v1::UnloadModelResponse* response) override;
  grpc::ServerUnaryReactor* SetVersionLabel(
      grpc::CallbackServerContext* context,
      const butterflyflow::v1::SetVersionLabelRequest* request,
      butterflyflow::v1::SetVersionLabelResponse* response) override;

 private:
  grpc::ServerUnaryReactor* Refuse(grpc::CallbackServerContext* context, const char* method,
                                   const Metrics::RpcMetrics& rpc);

  const ServiceContext services_;
  const Facts facts_;
  const Metrics::RpcMetrics list_, get_, load_, unload_, label_;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_MODEL_SERVICE_H_
