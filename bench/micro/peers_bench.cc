// Our operators against the same layers in eager ATen operators: one thread, one process,
// interleaved rounds; the median over the rounds of time per call and its quartiles. Outputs are
// compared first.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include <time.h>

#include "ATen/Parallel.h"
#include "bench/micro/waveform_block.h"
#include "c10/core/GradMode.h"

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
  return 0;
}
