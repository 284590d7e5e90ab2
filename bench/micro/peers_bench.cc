// Our operators against the same layers in eager ATen operators, alone and in a whole training
// step: one thread, one process, interleaved rounds; the median over the rounds of time per call
// and its quartiles. Outputs are compared first.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <time.h>

#include "ATen/Parallel.h"
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
// the preset's flow: windows of 1024 x 2.
class TrainingStep {
 public:
  TrainingStep(const Preset& preset, int64_t batch) {
    FlowSpec spec;
    spec.event_shape = {1024, 2};
    spec.sampling_rate_hz = 125;
    spec.dequantization = SpecDequantization::kNone;
    for (const char* name : {"MCL1", "V"}) {
      ChannelSpec& channel = spec.channels.emplace_back();
      channel.name = name;
      channel.input_min = -1;
      channel.input_max = 1;
    }
    WriteArchitecture(preset, 1024, 2, &spec);
    auto made = Flow::Create(spec, 1, at::kFloat);
    if (!made.ok()) {
      std::fprintf(stderr, "%s\n", made.status().ToString().c_str());
      std::exit(1);
    }
    flow_ = *std::move(made);
    x_ = at::rand({batch, 1024, 2}, at::TensorOptions(flow_->input_dtype())) * 2 - 1;
    flow_->InitialiseFrom(x_);
    updater_.emplace(flow_, /*decay=*/0, EmaScheme::kPolyak);
  }

  at::Tensor Loss() { return -flow_->LogProb(x_).mean() / static_cast<double>(x_[0].numel()); }
  void Run() { updater_->Step(x_, 1e-4); }

 private:
  std::shared_ptr<Flow> flow_;
  at::Tensor x_;
  std::optional<Updater> updater_;
};

void CompareTrainingStep(const char* preset, int64_t batch) {
  TrainingStep step(*FindPreset(preset), batch);
  const at::Tensor ours = step.Loss().detach();
  {
    const EagerOperators eager;
    CheckEqual("training step", ours, step.Loss().detach());
  }
  char name[64];
  std::snprintf(name, sizeof(name), "training step, %s 1024 x 2, B=%d", preset,
                static_cast<int>(batch));
  Compare(
      name, 7, 3, [&] { step.Run(); },
      [&] {
        const EagerOperators eager;
        step.Run();
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
  bflow::bench::CompareTrainingStep("waveform-published", 128);
  bflow::bench::CompareTrainingStep("waveform", 32);
  return 0;
}
