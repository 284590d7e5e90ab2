// Our operators on a GPU against the same layers in eager ATen operators on the same GPU: one
// process, interleaved rounds, the median of each and of their ratio with its quartiles. Outputs
// are compared first. A line of JSON per workload on stdout; a missing device is exit code 78.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ATen/detail/CUDAHooksInterface.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/exit_code.h"
#include "bench/micro/preset_flow.h"
#include "bench/micro/waveform_block.h"
#include "c10/core/GradMode.h"
#include "model/flow/flow.h"
#include "model/scoring/backend.h"
#include "model/training/presets.h"
#include "model/training/updater.h"
#include "torch/library.h"

namespace bflow::bench {
namespace {

constexpr int kRounds = 15;

// While it lives, every bflow operator is its plain ATen reference, recorded by ATen's own
// autograd. AutogradCUDA is looked up before the alias Autograd of our formulas.
class EagerOperators {
 public:
  EagerOperators()
      : library_(torch::Library::IMPL, "bflow", c10::DispatchKey::AutogradCUDA, __FILE__,
                 __LINE__) {
    library_.impl("butterfly", TORCH_FN(ButterflyReference));
    library_.impl("act_norm", TORCH_FN(ActNormReference));
    library_.impl("lu_matmul", TORCH_FN(LuMatmulReference));
    library_.impl("affine_coupling", TORCH_FN(AffineCouplingReference));
  }

 private:
  torch::Library library_;
};

double Seconds(const std::function<void()>& call, int calls) {
  at::detail::getCUDAHooks().deviceSynchronize(0);
  const SteadyTime begin = Clock::Real()->Now();
  for (int i = 0; i < calls; ++i) call();
  at::detail::getCUDAHooks().deviceSynchronize(0);
  return SecondsBetween(begin, Clock::Real()->Now()) / calls;
}

double Quantile(std::vector<double> values, size_t of_four) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, values.size() * of_four / 4)];
}

void Compare(const std::string& name, int64_t rows, int calls, const std::function<void()>& ours,
             const std::function<void()>& eager) {
  for (int i = 0; i < 3; ++i) ours(), eager();
  std::vector<double> our_times, eager_times, ratios;
  for (int round = 0; round < kRounds; ++round) {
    our_times.push_back(Seconds(ours, calls));
    eager_times.push_back(Seconds(eager, std::max(1, calls / 5)));
    ratios.push_back(eager_times.back() / our_times.back());
  }
  std::printf(
      "{\"name\": \"%s\", \"rows\": %d, \"ours_us\": %.2f, \"eager_us\": %.2f, \"ratio\": %.3f, "
      "\"ratio_quartiles\": [%.3f, %.3f], \"rows_per_second\": %.0f}\n",
      name.c_str(), static_cast<int>(rows), 1e6 * Quantile(our_times, 2),
      1e6 * Quantile(eager_times, 2), Quantile(ratios, 2), Quantile(ratios, 1), Quantile(ratios, 3),
      static_cast<double>(rows) / Quantile(our_times, 2));
  std::fflush(stdout);
}

void CheckEqual(const char* what, const at::Tensor& a, const at::Tensor& b) {
  const double error = ((a - b).abs() / b.abs().clamp_min(1)).max().item<double>();
  if (error <= 1e-4) return;
  std::fprintf(stderr, "%s: the outputs differ by %g: no speed is reported\n", what, error);
  std::exit(kExitInternal);
}

void CompareButterfly(const at::Device& device, bool shared, int64_t rows) {
  const c10::NoGradGuard no_grad;
  const at::Tensor x = at::randn({rows, 2048}).to(device);
  std::vector<at::Tensor> factors;
  for (const at::Tensor& factor : RotationFactors(2048, 10, shared)) {
    factors.push_back(factor.to(device));
  }
  CheckEqual("butterfly", std::get<0>(butterfly(x, factors)),
             std::get<0>(ButterflyReference(x, factors)));
  Compare(
      shared ? "butterfly D=2048, 10 shared factors" : "butterfly D=2048, 10 factors", rows, 20,
      [&] { butterfly(x, factors); }, [&] { ButterflyReference(x, factors); });
}

void CompareFlow(const at::Device& device, const char* preset_name,
                 const std::vector<int64_t>& event_shape, int64_t rows, int calls) {
  const Preset preset = *FindPreset(preset_name);
  const PresetFlow made(preset, event_shape, rows, device);
  const std::shared_ptr<Flow>& flow = made.flow;
  const at::Tensor& x = made.x;
  const auto log_prob = [&](bool eager) {
    const c10::NoGradGuard no_grad;
    std::unique_ptr<EagerOperators> references;
    if (eager) references = std::make_unique<EagerOperators>();
    return flow->LogProb(x);
  };
  CheckEqual("density", log_prob(false), log_prob(true));
  Compare(
      absl::StrCat(preset_name, ", density"), rows, calls, [&] { log_prob(false); },
      [&] { log_prob(true); });
  Updater updater(flow, preset.settings.ema_decay, preset.settings.ema_scheme);
  Compare(
      absl::StrCat(preset_name, ", training step"), rows, calls, [&] { updater.Step(x, 1e-6); },
      [&] {
        const EagerOperators references;
        updater.Step(x, 1e-6);
      });
}

int Main() {
  const absl::StatusOr<BackendInfo> backend = LoadBackend(DevicePreference::kCuda);
  if (!backend.ok()) {
    std::fprintf(stderr, "no device: %s\n", backend.status().ToString().c_str());
    return kExitConfiguration;
  }
  const at::Device device(backend->device);
  for (const int64_t rows : {1, 128, 4096}) {
    for (const bool shared : {true, false}) CompareButterfly(device, shared, rows);
  }
  for (const int64_t rows : {1, 128, 1024}) {
    CompareFlow(device, "waveform-published", {1024, 2}, rows, 5);
  }
  for (const int64_t rows : {32, 1024}) CompareFlow(device, "waveform", {1024, 2}, rows, 5);
  for (const int64_t rows : {128}) CompareFlow(device, "cifar10", {3, 32, 32}, rows, 1);
  return kExitOk;
}

}  // namespace
}  // namespace bflow::bench

int main() { return bflow::bench::Main(); }
