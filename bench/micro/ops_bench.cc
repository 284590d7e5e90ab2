// Time per operator on one thread; rows per second in the counter.
#include <vector>

#include "ATen/Parallel.h"
#include "bench/micro/waveform_block.h"
#include "benchmark/benchmark.h"
#include "c10/core/GradMode.h"
#include "c10/core/InferenceMode.h"

namespace bflow::bench {
namespace {

void CountRows(benchmark::State& state, int64_t rows) {
  state.SetItemsProcessed(state.iterations() * rows);
}

// Arguments: batch, shared.
void BM_Butterfly(benchmark::State& state) {
  const c10::InferenceMode inference;
  const at::Tensor x = at::randn({state.range(0), 2048});
  const std::vector<at::Tensor> factors = RotationFactors(2048, 10, state.range(1) != 0);
  for (auto _ : state) benchmark::DoNotOptimize(butterfly(x, factors));
  CountRows(state, state.range(0));
}
BENCHMARK(BM_Butterfly)->ArgsProduct({{1, 32, 1024}, {0, 1}});

// Arguments: batch.
void BM_AffineCoupling(benchmark::State& state) {
  const at::Tensor x = at::randn({state.range(0), 512, 4});
  const WaveformBlock block(512, 1);
  const c10::NoGradGuard no_grad;
  for (auto _ : state) {
    benchmark::DoNotOptimize(affine_coupling(x, block.nets[0], block.nets[1], false));
  }
  CountRows(state, state.range(0));
}
BENCHMARK(BM_AffineCoupling)->Arg(1)->Arg(128);

void BM_LuMatmul(benchmark::State& state) {
  const at::Tensor x = at::randn({state.range(0), 512, 4});
  const WaveformBlock block(512, 1);
  const c10::NoGradGuard no_grad;
  for (auto _ : state) {
    benchmark::DoNotOptimize(lu_matmul(x, block.lower, block.upper, block.log_diagonal,
                                       block.diagonal_sign, block.permutation));
  }
  CountRows(state, state.range(0));
}
BENCHMARK(BM_LuMatmul)->Arg(128);

// Arguments: batch, backward too.
void BM_WaveformBlock(benchmark::State& state) {
  const at::Tensor x = at::randn({state.range(0), 512, 4});
  const WaveformBlock block(512, 10);
  const bool backward = state.range(1) != 0;
  const c10::AutoGradMode grad_mode(backward);
  for (auto _ : state) {
    const std::vector<at::Tensor> out = block.Run(x, /*eager=*/false);
    if (backward) (out[0].square().sum() - out[1].sum()).backward();
    benchmark::DoNotOptimize(out);
  }
  CountRows(state, state.range(0));
}
BENCHMARK(BM_WaveformBlock)->ArgsProduct({{1, 128}, {0, 1}});

}  // namespace
}  // namespace bflow::bench

int main(int argc, char** argv) {
  at::set_num_threads(1);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
