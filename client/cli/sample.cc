#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/json.h"
#include "client/cli/commands.h"
#include "client/cli/sample_output.h"
#include "client/model_name.h"

namespace bflow::client {
namespace {

namespace v1 = ::butterflyflow::v1;

// Of the samples of a JSON document, which is made in memory.
constexpr int64_t kMaxJsonBytes = int64_t{1} << 30;

struct Flags : CommonFlags {
  std::string model;
  uint64_t num = 0;
  std::optional<uint64_t> seed;
  std::optional<double> temperature;
  std::string unit;
  std::string out;
  std::string png;

  bool to_files() const { return !out.empty() || !png.empty(); }
};

void Print(const Flags& flags, const PinnedModel& model, uint64_t seed,
           const SampleOutput& output) {
  const char* const unit = output.codes() ? "code" : "scaled";
  const auto printed_seed = static_cast<unsigned long long>(seed);
  if (flags.json) {
    Json out;
    out["model"] = model.info.name();
    out["version"] = model.version.version();
    out["manifest_sha256"] = model.version.manifest_sha256();
    out["num"] = flags.num;
    out["seed"] = seed;
    out["unit"] = unit;
    out["event_shape"] =
        std::vector<int64_t>(model.info.event_shape().begin(), model.info.event_shape().end());
    if (!flags.to_files()) out["samples"] = output.kept();
    std::printf("%s\n", out.dump().c_str());
  } else if (flags.to_files()) {
    std::printf("model %s@%lld  samples %llu  unit %s  seed %llu\n", model.info.name().c_str(),
                static_cast<long long>(model.version.version()),
                static_cast<unsigned long long>(flags.num), unit, printed_seed);
  } else {
    std::fprintf(stderr, "seed %llu\n", printed_seed);
  }
}

// What the command line alone can get wrong: an exit code, kExitOk if nothing.
int CheckFlags(const Flags& flags) {
  if (flags.temperature.has_value() && !(*flags.temperature > 0 && *flags.temperature <= 4)) {
    return Fail("--temperature: takes a number above 0, at most 4", kExitUsage);
  }
  if (flags.num < 1) return Fail("--num: takes 1 or more", kExitUsage);
  if (!flags.png.empty() && flags.unit == "scaled") {
    return Fail("--png: shows pixels, not --unit=scaled", kExitUsage);
  }
  for (const auto& [flag, path] : {std::pair("--out", flags.out), std::pair("--png", flags.png)}) {
    if (!path.empty() && !CanWrite(path)) {
      return Fail(absl::StrCat(flag, ": the file cannot be created there"), kExitCannotWrite);
    }
  }
  return kExitOk;
}

// What it gets wrong for this model.
int CheckModel(const Flags& flags, const PinnedModel& model) {
  if (!model.is_image() && !flags.png.empty()) {
    return Fail("--png: shows images, the model makes waveforms", kExitUsage);
  }
  if (model.is_image() && !flags.to_files() && !flags.json) {
    return Fail("--out or --png: one is needed, the model makes images", kExitUsage);
  }
  const int64_t samples_max =
      kMaxJsonBytes / (std::max<int64_t>(model.EventValues(), 1) * int64_t{sizeof(float)});
  if (flags.json && !flags.to_files() && flags.num > static_cast<uint64_t>(samples_max)) {
    return Fail(absl::StrCat("--num: at most ", samples_max,
                             " samples of this model fit a JSON document; use --out"),
                kExitUsage);
  }
  return kExitOk;
}

int Run(const Flags& flags) {
  const auto client_options = flags.Options();
  if (!client_options.ok()) return Fail(client_options.status());
  const auto selector = ParseModelName(flags.model);
  if (!selector.ok()) return Fail(selector.status());
  if (const int wrong = CheckFlags(flags); wrong != kExitOk) return wrong;
  FlowClient client(*client_options);
  const auto model = client.Pin(*selector);
  if (!model.ok()) return Fail(model.status());
  if (const int wrong = CheckModel(flags, *model); wrong != kExitOk) return wrong;
  SampleOptions options;
  options.seed = flags.seed.has_value() ? *flags.seed : RandomSeed();
  options.temperature = flags.temperature;
  if (flags.unit == "code") options.unit = v1::SampleRequest::UNIT_CODE;
  if (flags.unit == "scaled") options.unit = v1::SampleRequest::UNIT_SCALED;
  SampleOutput output(*model, {.samples = flags.num,
                               .npy = flags.out,
                               .png = flags.png,
                               .keep = flags.json && !flags.to_files()});
  absl::Status status;
  {
    // CSV would be printed over the bar.
    const bool quiet = flags.to_files() || flags.json;
    ProgressBar bar("samples", quiet ? static_cast<int64_t>(flags.num) : 0);
    int64_t done = 0;
    status = client.Sample(*model, flags.num, options, [&](const v1::SampleResponse& reply) {
      bar.Update(done += reply.samples().shape(0));
      return output.Add(reply.samples());
    });
  }
  if (status.ok()) status = output.Finish();
  if (!status.ok()) {
    return output.write_failed() ? Fail(std::string(status.message()), kExitCannotWrite)
                                 : Fail(status);
  }
  Print(flags, *model, options.seed, output);
  return kExitOk;
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
  app->add_option("--out", flags->out, ".npy file: codes (int16, of images uint8) or float32");
  app->add_option("--png", flags->png,
                  absl::StrCat("picture of the samples (the first ", kPictureSamples, "); images"));
  return {app, [flags] { return Run(*flags); }};
}

}  // namespace bflow::client
