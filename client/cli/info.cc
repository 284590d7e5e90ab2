#include <cstdio>
#include <memory>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/exit_code.h"
#include "client/cli/commands.h"
#include "client/model_name.h"
#include "google/protobuf/util/json_util.h"

namespace bflow::client {
namespace {

namespace v1 = ::butterflyflow::v1;

void PrintVersion(const v1::VersionInfo& version, const char* rows) {
  std::printf("\nversion %lld  %s%s%s\n", static_cast<long long>(version.version()),
              VersionStateName(version.state()).c_str(), version.reason().empty() ? "" : "  ",
              version.reason().c_str());
  if (version.labels_size() > 0) {
    std::printf("  labels             %s\n", absl::StrJoin(version.labels(), ", ").c_str());
  }
  std::printf("  manifest           %s\n", version.manifest_sha256().c_str());
  std::printf("  can sample         %s\n", version.can_sample() ? "yes" : "no");
  if (version.can_score_anomaly()) {
    std::printf("  anomaly score      %s, %u calibration %s, alpha %g\n",
                version.score_definition().c_str(), version.calibration_rows(), rows,
                version.alpha());
    if (version.calibration_rows() < 200) {
      std::printf("  warning            fewer than 200 calibration %s: p-values are coarse\n",
                  rows);
    }
    std::printf("  features           %s\n", absl::StrJoin(version.feature_names(), ", ").c_str());
    std::printf("  reference          %.4f +- %.4f nats/dim\n", version.reference_mean(),
                version.reference_stddev());
  } else {
    std::printf("  anomaly score      not calibrated\n");
  }
  for (const auto& [key, value] : version.card()) {
    std::printf("  %-18s %s\n", key.c_str(), value.c_str());
  }
}

void PrintWaveformChannels(const v1::ModelInfo& model) {
  if (model.sampling_rate_hz() > 0) std::printf("sampling rate %g Hz\n", model.sampling_rate_hz());
  std::printf("%-16s %-8s %10s %10s %6s %10s %10s\n", "CHANNEL", "UNIT", "GAIN", "BASELINE", "STEP",
              "MIN", "MAX");
  for (const v1::Channel& c : model.channels()) {
    std::printf("%-16s %-8s %10g %10g %6g %10g %10g\n", c.name().c_str(), c.unit().c_str(),
                c.gain(), c.baseline(), c.step(), c.input_min(), c.input_max());
  }
}

void PrintImageChannels(const v1::ModelInfo& model) {
  std::printf("%-16s %6s %10s %10s\n", "CHANNEL", "STEP", "MIN", "MAX");
  for (const v1::Channel& c : model.channels()) {
    std::printf("%-16s %6g %10g %10g\n", c.name().c_str(), c.step(), c.input_min(), c.input_max());
  }
}

void PrintModel(const v1::GetModelResponse& reply) {
  const v1::ModelInfo& model = reply.model();
  if (model.event_shape_size() == 0) {  // what it takes is known from a version that is READY
    std::printf("%s: no version is READY\n", model.name().c_str());
    for (const v1::VersionInfo& version : model.versions()) {
      std::printf("version %lld  %s  %s\n", static_cast<long long>(version.version()),
                  VersionStateName(version.state()).c_str(), version.reason().c_str());
    }
    return;
  }
  const bool is_image = model.architecture() == "image";
  std::printf("%s: %s %s, %s, on %s%s\n", model.name().c_str(), model.architecture().c_str(),
              absl::StrJoin(model.event_shape(), "x").c_str(),
              !model.quantised() ? "real values"
              : is_image         ? "pixel values"
                                 : "converter codes",
              reply.device().c_str(), model.patient_sensitive() ? ", patient-sensitive" : "");
  is_image ? PrintImageChannels(model) : PrintWaveformChannels(model);
  for (const v1::VersionInfo& version : model.versions()) {
    PrintVersion(version, is_image ? "images" : "windows");
  }
}

}  // namespace

Command AddInfo(CLI::App* program) {
  CLI::App* app = program->add_subcommand("info", "channels, versions and model card of a model");
  struct Flags : CommonFlags {
    std::string model;
  };
  auto flags = std::make_shared<Flags>();
  app->add_option("MODEL", flags->model, "name, name@version or name:label")->required();
  flags->Add(app);
  auto run = [flags]() -> int {
    const auto options = flags->Options();
    if (!options.ok()) return Fail(options.status());
    const auto selector = ParseModelName(flags->model);
    if (!selector.ok()) return Fail(selector.status());
    auto reply = FlowClient(*options).GetModel(selector->name());
    if (!reply.ok()) return Fail(reply.status());
    if (selector->has_version() || selector->has_label()) {
      const auto version = ChooseVersion(reply->model(), *selector);
      if (!version.ok()) return Fail(version.status());
      reply->mutable_model()->clear_versions();
      *reply->mutable_model()->add_versions() = *version;
    }
    if (flags->json) {
      google::protobuf::util::JsonPrintOptions print;
      print.add_whitespace = true;
      print.preserve_proto_field_names = true;
      print.always_print_primitive_fields = true;
      std::string text;
      if (!google::protobuf::util::MessageToJsonString(*reply, &text, print).ok()) {
        return Fail("the reply cannot be printed as JSON", kExitInternal);
      }
      std::printf("%s", text.c_str());
    } else {
      PrintModel(*reply);
    }
    return kExitOk;
  };
  return {app, run};
}

}  // namespace bflow::client
