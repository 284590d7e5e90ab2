#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/json.h"
#include "client/cli/commands.h"
#include "client/model_name.h"
#include "model/data/npy.h"

namespace bflow::client {
namespace {

namespace v1 = ::butterflyflow::v1;

// All samples of a call are in memory until they are written.
constexpr int64_t kMaxBytes = int64_t{4} << 30;

struct Flags : CommonFlags {
  std::string model;
  uint64_t num = 0;
  std::optional<uint64_t> seed;
  std::optional<double> temperature;
  std::string unit;
  std::string out;
};

// Appends the values of a reply; false for a type that samples never have.
bool AppendValues(const v1::Tensor& tensor, std::vector<float>* values) {
  const std::string& data = tensor.data();
  if (tensor.dtype() == v1::DATA_TYPE_FP32) {
    const size_t old = values->size();
    values->resize(old + data.size() / sizeof(float));
    std::memcpy(values->data() + old, data.data(), data.size());
    return true;
  }
  if (tensor.dtype() != v1::DATA_TYPE_INT16) return false;
  for (size_t i = 0; i + 1 < data.size(); i += sizeof(int16_t)) {
    int16_t code;
    std::memcpy(&code, data.data() + i, sizeof(code));
    values->push_back(code);
  }
  return true;
}

// Without --out: one line per value and channel of each sample, as CSV.
void PrintCsv(const PinnedModel& model, const std::vector<float>& values) {
  std::string header = "sample,step";
  for (const auto& channel : model.info.channels()) absl::StrAppend(&header, ",", channel.name());
  std::printf("%s\n", header.c_str());
  const int64_t steps = model.info.event_shape(0);
  const int64_t per_step = model.EventValues() / steps;
  const int64_t rows = static_cast<int64_t>(values.size()) / per_step;
  for (int64_t r = 0; r < rows; ++r) {
    std::string line = absl::StrCat(r / steps, ",", r % steps);
    for (int64_t c = 0; c < per_step; ++c) {
      absl::StrAppendFormat(&line, ",%.7g", values[static_cast<size_t>(r * per_step + c)]);
    }
    std::printf("%s\n", line.c_str());
  }
}

int Finish(const Flags& flags, const PinnedModel& model, const SampleOptions& options,
           const std::vector<float>& values, bool codes) {
  if (!flags.out.empty()) {
    std::vector<int64_t> shape = {static_cast<int64_t>(flags.num)};
    shape.insert(shape.end(), model.info.event_shape().begin(), model.info.event_shape().end());
    const absl::Status written =
        WriteNpy(flags.out, shape, values, codes ? NpyType::kInt16 : NpyType::kFloat32);
    if (!written.ok()) {
      return Fail("--out: " + std::string(written.message().data(), written.message().size()),
                  kExitCannotWrite);
    }
  }
  if (flags.json) {
    Json out;
    out["model"] = model.info.name();
    out["version"] = model.version.version();
    out["manifest_sha256"] = model.version.manifest_sha256();
    out["num"] = flags.num;
    out["seed"] = options.seed;
    out["unit"] = codes ? "code" : "scaled";
    out["event_shape"] =
        std::vector<int64_t>(model.info.event_shape().begin(), model.info.event_shape().end());
    if (flags.out.empty()) out["samples"] = values;
    std::printf("%s\n", out.dump().c_str());
    return kExitOk;
  }
  if (flags.out.empty()) {
    PrintCsv(model, values);
    std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(options.seed));
  } else {
    std::printf("model %s@%lld  samples %llu  unit %s  seed %llu\n", model.info.name().c_str(),
                static_cast<long long>(model.version.version()),
                static_cast<unsigned long long>(flags.num), codes ? "code" : "scaled",
                static_cast<unsigned long long>(options.seed));
  }
  return kExitOk;
}

int Run(const Flags& flags) {
  const auto client_options = flags.Options();
  if (!client_options.ok()) return Fail(client_options.status());
  const auto selector = ParseModelName(flags.model);
  if (!selector.ok()) return Fail(selector.status());
  if (flags.temperature.has_value() && !(*flags.temperature > 0 && *flags.temperature <= 4)) {
    return Fail("--temperature: takes a number above 0, at most 4", kExitUsage);
  }
  if (flags.num < 1) return Fail("--num: takes 1 or more", kExitUsage);
  if (!flags.out.empty() && !CanWrite(flags.out)) {
    return Fail("--out: the file cannot be created there", kExitCannotWrite);
  }
  FlowClient client(*client_options);
  const auto model = client.Pin(*selector);
  if (!model.ok()) return Fail(model.status());
  const int64_t samples_max =
      kMaxBytes / (std::max<int64_t>(model->EventValues(), 1) * int64_t{sizeof(float)});
  if (flags.num > static_cast<uint64_t>(samples_max)) {
    return Fail(
        absl::StrCat("--num: at most ", samples_max,
                     " samples of this model are held in memory; draw them in several calls"),
        kExitUsage);
  }
  SampleOptions options;
  options.seed = flags.seed.has_value() ? *flags.seed : RandomSeed();
  options.temperature = flags.temperature;
  if (flags.unit == "code") options.unit = v1::SampleRequest::UNIT_CODE;
  if (flags.unit == "scaled") options.unit = v1::SampleRequest::UNIT_SCALED;
  std::vector<float> values;
  bool codes = false;
  ProgressBar bar("samples", static_cast<int64_t>(flags.num));
  int64_t done = 0;
  auto consume = [&](const v1::SampleResponse& reply) -> absl::Status {
    codes = reply.samples().dtype() == v1::DATA_TYPE_INT16;
    if (!AppendValues(reply.samples(), &values)) {
      return absl::InternalError("samples: the reply is neither FP32 nor INT16");
    }
    bar.Update(done += reply.samples().shape(0));
    return absl::OkStatus();
  };
  const absl::Status status = client.Sample(*model, flags.num, options, consume);
  if (!status.ok()) return Fail(status);
  return Finish(flags, *model, options, values, codes);
}

}  // namespace

Command AddSample(CLI::App* program) {
  CLI::App* app = program->add_subcommand("sample", "draw samples from a model");
  auto flags = std::make_shared<Flags>();
  app->add_option("MODEL", flags->model, "name, name@version or name:label")->required();
  flags->Add(app);
  app->add_option("--num", flags->num, "samples to draw")->required()->check(WholeNumber());
  app->add_option("--seed", flags->seed, "random if not given; printed")->check(WholeNumber());
  app->add_option("--temperature", flags->temperature, "scale of the latent, above 0, at most 4");
  app->add_option("--unit", flags->unit, "code or scaled; the model's own if not given")
      ->check(CLI::IsMember({"code", "scaled"}));
  app->add_option("--out", flags->out, ".npy file: int16 codes or float32");
  return {app, [flags] { return Run(*flags); }};
}

}  // namespace bflow::client
