// A few steps of training on the GPU against the same on the CPU: what the trainer moves between
// the two, and what it writes.
#include <algorithm>
#include <cmath>

#include "ATen/ops/randn.h"
#include "model/training/adam.h"
#include "tests/gpu/gpu_test_util.h"
#include "tests/model/training/trainer_fixture.h"

namespace bflow {
namespace {

// The same optimiser and average on both devices.
TEST(GpuAdam, StepsAsOnTheCpu) {
  at::manual_seed(1);
  const at::Tensor p = at::randn({1000}), on_gpu = p.to(testing::Gpu());
  Adam cpu(p), gpu(on_gpu);
  ExponentialAverage cpu_average(p, 0.9), gpu_average(on_gpu, 0.9);
  for (int t = 1; t <= 50; ++t) {
    const at::Tensor g = at::randn({1000}) * std::pow(10.0, t % 8 - 6);
    cpu.Step(1e-2 / t, g);
    gpu.Step(1e-2 / t, g.to(testing::Gpu()));
    cpu_average.Update();
    gpu_average.Update();
  }
  cpu_average.Swap();
  gpu_average.Swap();
  EXPECT_LE(testing::Error(on_gpu.cpu(), p), 1e-6);
  EXPECT_LE(testing::Error(gpu_average.average().cpu(), cpu_average.average()), 1e-6);
}

class GpuTrainer : public TrainerTest {};

TEST_F(GpuTrainer, AFewStepsAsOnTheCpu) {
  for (const EmaScheme scheme : {EmaScheme::kPolyak, EmaScheme::kAlternating}) {
    options_.settings.ema_decay = 0.9;
    options_.settings.ema_scheme = scheme;
    device_ = at::kCPU;
    const Seen cpu = Train([](size_t batch) { return batch == 3; });
    device_ = testing::Gpu();
    const Seen gpu = Train([](size_t batch) { return batch == 3; });
    EXPECT_EQ(gpu.outcome.steps, 8);
    EXPECT_EQ(gpu.outcome.skipped_steps, 1);
    ASSERT_EQ(gpu.kept.size(), cpu.kept.size());
    for (size_t i = 0; i < cpu.kept.size(); ++i) {
      // Adam moves a weight whose gradient is near rounding by the sign of the rounding.
      EXPECT_NEAR(gpu.kept[i], cpu.kept[i], 2e-3) << i;
    }
    ASSERT_EQ(gpu.reports.size(), cpu.reports.size());
    for (size_t i = 0; i < cpu.reports.size(); ++i) {
      EXPECT_NEAR(gpu.reports[i].train_nll, cpu.reports[i].train_nll, 1e-3);
      EXPECT_NEAR(*gpu.reports[i].validation_nll, *cpu.reports[i].validation_nll, 1e-3);
      EXPECT_NEAR(gpu.reports[i].gradient_norm, cpu.reports[i].gradient_norm,
                  1e-2 * cpu.reports[i].gradient_norm);
    }
  }
}

// The state of a run is the same file wherever it was computed.
TEST_F(GpuTrainer, AStateGoesOnOnTheOtherDevice) {
  device_ = testing::Gpu();
  const Seen gpu = Train();
  const TrainState from = *ParseTrainState(*SerialiseTrainState(gpu.states[4]));
  EXPECT_EQ(Train({}, &from).outcome.steps, 8);
  device_ = at::kCPU;
  const Seen rest = Train({}, &from);
  EXPECT_EQ(rest.outcome.steps, 8);
  for (size_t i = 0; i < rest.kept.size(); ++i) EXPECT_NEAR(rest.kept[i], gpu.kept[i], 2e-3) << i;
}

TEST_F(GpuTrainer, WhatIsWrittenIsOnTheCpu) {
  device_ = testing::Gpu();
  const std::shared_ptr<Flow> flow = NewFlow();
  const std::shared_ptr<Flow> copy = *OnCpu(flow);
  EXPECT_TRUE(copy->device().is_cpu());
  EXPECT_EQ(ParameterValues(*copy), ParameterValues(*flow));
}

}  // namespace
}  // namespace bflow
