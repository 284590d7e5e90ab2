#include "server/rpc/model_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/names.h"
#include "base/status.h"
#include "server/exec/reason.h"
#include "server/rpc/tensor_codec.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

constexpr char kService[] = "butterflyflow.v1.ModelService";
constexpr int kPageDefault = 100;
constexpr int kPageMax = 1000;

pb::VersionState ToState(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return pb::VERSION_STATE_LOADING;
    case ModelState::kReady:
      return pb::VERSION_STATE_READY;
    case ModelState::kDraining:
      return pb::VERSION_STATE_DRAINING;
    case ModelState::kRetired:
      return pb::VERSION_STATE_RETIRED;
    case ModelState::kFailed:
      return pb::VERSION_STATE_FAILED;
  }
  return pb::VERSION_STATE_UNSPECIFIED;
}

void FillVersion(const VersionSnapshot& from, pb::VersionInfo* to) {
  to->set_version(from.version);
  to->set_state(ToState(from.state));
  to->set_reason(from.reason);
  for (const std::string& label : from.labels) to->add_labels(label);
  if (!from.handle) return;
  const ModelSignature& signature = from.handle->scorer->signature();
  to->set_manifest_sha256(from.handle->manifest_sha256);
  to->set_can_sample(signature.can_sample);
  to->set_can_score_anomaly(signature.can_score_anomaly);
  to->set_calibration_rows(static_cast<uint32_t>(signature.calibration_rows));
  to->set_alpha(signature.alpha);
  to->set_score_definition(signature.score_definition);
  for (const std::string& name : signature.feature_names) to->add_feature_names(name);
  to->set_reference_mean(signature.reference_mean);
  to->set_reference_stddev(signature.reference_stddev);
  for (const auto& [key, value] : from.handle->card) (*to->mutable_card())[key] = value;
}

void FillSignature(const ModelSignature& signature, pb::ModelInfo* to) {
  to->set_architecture(signature.architecture);
  to->set_patient_sensitive(signature.patient_sensitive);
  for (int64_t dimension : signature.event_shape) to->add_event_shape(dimension);
  to->set_quantised(signature.quantised);
  for (const ChannelSignature& channel : signature.channels) {
    pb::Channel* added = to->add_channels();
    added->set_name(channel.name);
    added->set_unit(channel.unit);
    added->set_gain(channel.gain);
    added->set_baseline(channel.baseline);
    added->set_step(channel.step);
    added->set_input_min(channel.input_min);
    added->set_input_max(channel.input_max);
  }
  to->set_sampling_rate_hz(signature.sampling_rate_hz);
  for (pb::DataType dtype : InputTypes(signature)) to->add_input_dtypes(dtype);
  to->set_code_unit_offset_nats(signature.code_unit_offset_nats);
}

// The signature told is that of the newest ready version.
void FillModel(const ModelSnapshot& from, pb::ModelInfo* to) {
  to->set_name(from.name);
  ModelHandle newest;
  for (const VersionSnapshot& version : from.versions) {
    FillVersion(version, to->add_versions());
    if (version.handle) newest = version.handle;
  }
  if (newest) FillSignature(newest->scorer->signature(), to);
}

// The token is the name of the last model told.
absl::Status List(const pb::ListModelsRequest& request, const ModelRegistry& registry,
                  pb::ListModelsResponse* response) {
  if (request.page_size() < 0) {
    return MakeError(Reason::kBadOption, "page_size: takes 0 or more", "page_size");
  }
  if (!request.page_token().empty() && !IsValidModelName(request.page_token())) {
    return MakeError(Reason::kBadOption, "page_token: is not one of this server's", "page_token");
  }
  const int size =
      request.page_size() == 0 ? kPageDefault : std::min(request.page_size(), kPageMax);
  for (const ModelSnapshot& model : registry.Snapshot()) {
    if (model.name <= request.page_token()) continue;
    if (response->models_size() == size) {
      response->set_next_page_token(response->models(size - 1).name());
      break;
    }
    FillModel(model, response->add_models());
  }
  return absl::OkStatus();
}

absl::Status Get(const pb::GetModelRequest& request, const ModelRegistry& registry,
                 pb::GetModelResponse* response) {
  if (!IsValidModelName(request.name())) {
    return MakeError(Reason::kBadName, absl::StrCat("name: ", kModelNameSyntax), "name");
  }
  for (const ModelSnapshot& model : registry.Snapshot()) {
    if (model.name != request.name()) continue;
    FillModel(model, response->mutable_model());
    return absl::OkStatus();
  }
  return MakeError(Reason::kModelNotFound, "name: no such model; ListModels tells what there is");
}

}  // namespace

ModelServiceImpl::ModelServiceImpl(const ServiceContext& services, Facts facts)
    : services_(services),
      facts_(std::move(facts)),
      list_(services.metrics->ForRpc(kService, "ListModels")),
      get_(services.metrics->ForRpc(kService, "GetModel")),
      load_(services.metrics->ForRpc(kService, "LoadModel")),
      unload_(services.metrics->ForRpc(kService, "UnloadModel")),
      label_(services.metrics->ForRpc(kService, "SetVersionLabel")) {}

grpc::ServerUnaryReactor* ModelServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                       const pb::ListModelsRequest* request,
                                                       pb::ListModelsResponse* response) {
  Call* call = new Call(services_, context, "ListModels", list_);
  absl::Status status = call->record().Admit(0);
  if (status.ok()) status = List(*request, *services_.registry, response);
  call->FinishWith(status);
  return call;
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                     const pb::GetModelRequest* request,
                                                     pb::GetModelResponse* response) {
  Call* call = new Call(services_, context, "GetModel", get_);
  absl::Status status = call->record().Admit(0);
  if (status.ok()) status = Get(*request, *services_.registry, response);
  if (status.ok()) {
    *response->mutable_limits() = facts_.limits;
    response->set_device(facts_.device);
    response->set_backend_reason(facts_.backend_reason);
  }
  call->FinishWith(status);
  return call;
}

grpc::ServerUnaryReactor* ModelServiceImpl::Refuse(grpc::CallbackServerContext* context,
                                                   const char* method,
                                                   const Metrics::RpcMetrics& rpc) {
  Call* call = new Call(services_, context, method, rpc);
  call->FinishWith(MakeError(Reason::kAdminListenerOnly,
                             "models are not changed through this port; restart the server with "
                             "another repository.models"));
  return call;
}

grpc::ServerUnaryReactor* ModelServiceImpl::LoadModel(grpc::CallbackServerContext* context,
                                                      const pb::LoadModelRequest*,
                                                      pb::LoadModelResponse*) {
  return Refuse(context, "LoadModel", load_);
}

grpc::ServerUnaryReactor* ModelServiceImpl::UnloadModel(grpc::CallbackServerContext* context,
                                                        const pb::UnloadModelRequest*,
                                                        pb::UnloadModelResponse*) {
  return Refuse(context, "UnloadModel", unload_);
}

grpc::ServerUnaryReactor* ModelServiceImpl::SetVersionLabel(grpc::CallbackServerContext* context,
                                                            const pb::SetVersionLabelRequest*,
                                                            pb::SetVersionLabelResponse*) {
  return Refuse(context, "SetVersionLabel", label_);
}

}  // namespace bflow
