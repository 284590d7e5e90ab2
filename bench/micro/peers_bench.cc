// Our operators against the same layers in eager ATen operators, alone and in a whole training
// step: one thread, one process, interleaved rounds; the median over the rounds of time per call
// and its quartiles. Outputs are compared first.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include <time.h>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "bench/micro/preset_flow.h"
#include "bench/micro/waveform_block.h"
#include "c10/core/GradMode.h"
#include "model/flow/flow.h"
#include "model/ops/conv1d_coupling.h"
#include "model/ops/whitening.h"
#include "model/training/presets.h"
#include "model/training/updater.h"
#include "torch/library.h"

namespace bflow::bench {
namespace {

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double SecondsPerCall(const std::function<void()>& call, int calls) {
  const double begin = CpuSeconds();
  for (int i = 0; i < calls; ++i) call();
  return (CpuSeconds() - begin) / calls;
}

struct Quartiles {
  explicit Quartiles(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    low = values[values.size() / 4];
    median = values[values.size() / 2];
    high = values[values.size() * 3 / 4];
  }
  double low, median, high;
};

void Compare(const char* name, int rounds, int our_calls, const std::function<void()>& ours,
             const std::function<void()>& eager) {
  ours();
  eager();
  std::vector<double> our_times, eager_times, ratios;
  for (int round = 0; round < rounds; ++round) {
    our_times.push_back(SecondsPerCall(ours, our_calls));
    eager_times.push_back(SecondsPerCall(eager, 1));
    ratios.push_back(eager_times.back() / our_times.back());
  }
  const Quartiles a(our_times), b(eager_times), r(ratios);
  std::printf(
      "%-44s ours %9.1f us [%.1f, %.1f]  eager %9.1f us [%.1f, %.1f]  ratio %.1f [%.1f, %.1f]\n",
      name, 1e6 * a.median, 1e6 * a.low, 1e6 * a.high, 1e6 * b.median, 1e6 * b.low, 1e6 * b.high,
      r.median, r.low, r.high);
}

void CheckEqual(const char* what, const at::Tensor& a, const at::Tensor& b) {
  const double error = ((a - b).abs() / b.abs().clamp_min(1)).max().item<double>();
  if (!(error <= 1e-4)) {
    std::fprintf(stderr, "%s: the outputs differ by %g: no speed is reported\n", what, error);
    std::exit(1);
  }
}

void CompareButterfly(bool shared) {
  const c10::NoGradGuard no_grad;
  const at::Tensor x = at::randn({32, 2048});
  const std::vector<at::Tensor> factors = RotationFactors(2048, 10, shared);
  CheckEqual("butterfly", std::get<0>(butterfly(x, factors)),
             std::get<0>(ButterflyReference(x, factors)));
  Compare(
      shared ? "butterfly D=2048, 10 shared factors, B=32" : "butterfly D=2048, 10 factors, B=32",
      15, 20, [&] { butterfly(x, factors); }, [&] { ButterflyReference(x, factors); });
}

void CompareBlock(bool backward) {
  const c10::AutoGradMode grad_mode(backward);
  const at::Tensor x = at::randn({128, 512, 4});
  WaveformBlock block(512, 10);
  const auto run = [&](bool eager) {
    const std::vector<at::Tensor> out = block.Run(x, eager);
    if (backward) (out[0].square().sum() - out[1].sum()).backward();
    return out;
  };
  CheckEqual("waveform block", run(false)[0].detach(), run(true)[0].detach());
  Compare(
      backward ? "waveform block, B=128, forward + backward" : "waveform block, B=128, forward", 7,
      3, [&] { run(false); }, [&] { run(true); });
}

// While it lives, every bflow operator called with gradients is its plain ATen reference, recorded
// by ATen's own autograd. AutogradCPU is looked up before the alias Autograd of our formulas.
class EagerOperators {
 public:
  EagerOperators()
      : library_(torch::Library::IMPL, "bflow", c10::DispatchKey::AutogradCPU, __FILE__, __LINE__) {
    library_.impl("butterfly", TORCH_FN(ButterflyReference));
    library_.impl("act_norm", TORCH_FN(ActNormReference));
    library_.impl("lu_matmul", TORCH_FN(LuMatmulReference));
    library_.impl("affine_coupling", TORCH_FN(AffineCouplingReference));
    library_.impl("conv1d_coupling", TORCH_FN(Conv1dCouplingReference));
    library_.impl("whitening", TORCH_FN(WhiteningReference));
  }

 private:
  torch::Library library_;
};

// Loss, gradients and the update by Adam (ours in both), as bflow-train does them for a batch of
// the preset's flow.
void CompareTrainingStep(const char* name, const Preset& preset,
                         const std::vector<int64_t>& event_shape, int64_t batch) {
  const PresetFlow made(preset, event_shape, batch, at::kCPU);
  Updater updater(made.flow, /*decay=*/0, EmaScheme::kPolyak);
  const auto log_prob = [&made] {
    const c10::NoGradGuard no_grad;
    return made.flow->LogProb(made.x);
  };
  const at::Tensor ours = log_prob();
  {
    const EagerOperators eager;
    CheckEqual("training step", ours, log_prob());
  }
  Compare(
      absl::StrCat("training step, ", name, ", B=", batch).c_str(), 7, 3,
      [&] { updater.Step(made.x, 1e-4); },
      [&] {
        const EagerOperators eager;
        updater.Step(made.x, 1e-4);
      });
}

}  // namespace
}  // namespace bflow::bench

int main() {
  at::set_num_threads(1);
  double load[3] = {};
  if (getloadavg(load, 3) == 3)
    std::printf("load average %.1f %.1f %.1f\n", load[0], load[1], load[2]);
  bflow::bench::CompareButterfly(true);
  bflow::bench::CompareButterfly(false);
  bflow::bench::CompareBlock(false);
  bflow::bench::CompareBlock(true);
  using bflow::FindPreset;
  bflow::bench::CompareTrainingStep("waveform-published", *FindPreset("waveform-published"),
                                    {1024, 2}, 128);
  bflow::bench::CompareTrainingStep("waveform", *FindPreset("waveform"), {1024, 2}, 32);
  bflow::Preset mnist = *FindPreset("mnist");
  mnist.image->hidden = 64;
  mnist.image->blocks = 4;
  bflow::bench::CompareTrainingStep("mnist (width 64, 4 blocks)", mnist, {1, 28, 28}, 64);
  return 0;
}
