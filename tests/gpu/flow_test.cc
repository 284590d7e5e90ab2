// Whole flows on the GPU against the same flow on the CPU in float64: density, latents, samples,
// gradients, and the scorer that a server uses.
#include <cmath>
#include <memory>
#include <vector>

#include "c10/core/GradMode.h"
#include "model/flow/flow.h"
#include "model/scoring/flow_scorer.h"
#include "model/training/presets.h"
#include "tests/gpu/gpu_test_util.h"
#include "tests/support/tiny_checkpoint.h"
#include "torch/csrc/autograd/autograd.h"

namespace bflow::testing {
namespace {

// Small flows of all layers; the published waveform flow and the default preset's at full size.
FlowSpec NamedSpec(const std::string& name, bool quantised) {
  if (name == "TinyHeavy") return TinyHeavySpec(quantised);
  if (name == "TinyImage") return TinyImageSpec();
  if (name == "Dequantised") return Dequantised(TinyHeavySpec());
  if (name == "DequantisedImage") return Dequantised(TinyImageSpec());
  if (name == "Exact") return TinyExactSpec();
  FlowSpec spec = TinySpec(quantised);
  if (name == "Tiny") return spec;
  spec.event_shape = {1024, 2};
  WriteArchitecture(*FindPreset(name == "Published" ? "waveform-published" : "waveform"), 1024, 2,
                    &spec);
  return spec;
}

// The same weights in another precision or place.
std::shared_ptr<Flow> Copy(const Flow& flow, at::ScalarType dtype, at::Device device) {
  std::shared_ptr<Flow> copy = *Flow::Create(flow.spec(), 0, dtype);
  const c10::NoGradGuard no_grad;
  const auto from = flow.NamedTensors(), to = copy->NamedTensors();
  for (size_t i = 0; i < from.size(); ++i) to[i].second.copy_(from[i].second);
  copy->MoveTo(device);
  return copy;
}

class GpuFlow : public ::testing::TestWithParam<std::string> {
 protected:
  GpuFlow() {
    at::manual_seed(1);
    const FlowSpec spec = NamedSpec(GetParam(), /*quantised=*/false);
    flow_ = TinyFlow(spec, 7);
    x_ = (at::rand(Batched(33, spec.event_shape)) * 2 - 1).to(flow_->input_dtype());
    flow_->InitialiseFrom(x_);
    wide_ = Copy(*flow_, at::kDouble, at::kCPU);
  }
  std::shared_ptr<Flow> flow_, wide_;
  at::Tensor x_;
};

TEST_P(GpuFlow, DensityAndLatents) {
  const c10::NoGradGuard no_grad;
  const at::Tensor expected = wide_->LogProb(x_.to(at::kDouble));
  for (const bool frozen : {false, true}) {
    for (const auto& [dtype, tolerance] : {std::pair{at::kDouble, 1e-11}, {at::kFloat, 2e-5}}) {
      const std::shared_ptr<Flow> gpu = Copy(*flow_, dtype, Gpu());
      if (frozen) gpu->Freeze();
      const at::Tensor x = x_.to(Gpu(), gpu->input_dtype());
      EXPECT_LE(Error(gpu->LogProb(x).cpu(), expected), tolerance) << dtype;
      const Encoded encoded = gpu->Encode(x);
      EXPECT_LE(Error(encoded.latent.cpu(), wide_->Encode(x_.to(at::kDouble)).latent),
                dtype == at::kFloat ? 1e-4 : 1e-10);
      const Transformed back = gpu->Decode(encoded.latent);
      EXPECT_LE(Error(back.value.to(at::kDouble), x.to(at::kDouble)),
                dtype == at::kFloat ? 1e-4 : 1e-10);
      EXPECT_LE(Error(back.log_det.cpu(), -encoded.log_det.cpu()),
                dtype == at::kFloat ? 1e-4 : 1e-10);
    }
  }
}

TEST_P(GpuFlow, Gradients) {
  const auto gradients = [](Flow& flow, const at::Tensor& x) {
    return torch::autograd::grad({-flow.LogProb(x).mean()}, flow.parameters());
  };
  const std::vector<at::Tensor> expected = gradients(*wide_, x_.to(at::kDouble));
  const std::vector<at::Tensor> plain = gradients(*flow_, x_);
  const std::vector<at::Tensor> wide =
      gradients(*Copy(*flow_, at::kDouble, Gpu()), x_.to(Gpu(), at::kDouble));
  const std::vector<at::Tensor> narrow = gradients(*Copy(*flow_, at::kFloat, Gpu()), x_.to(Gpu()));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_LE(Error(wide[i].cpu(), expected[i], true), 1e-9) << i;
    EXPECT_LE(Error(narrow[i].cpu(), expected[i], true),
              2 * std::max(Error(plain[i], expected[i], true), 1e-5))
        << i;
  }
}

const auto kNames = ::testing::Values("Tiny", "TinyHeavy", "TinyImage", "Published", "Default");
std::string NameOf(const ::testing::TestParamInfo<std::string>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Specs, GpuFlow, kNames, NameOf);

class GpuScorer : public ::testing::TestWithParam<std::string> {};

TEST_P(GpuScorer, ScoresAsOnTheCpu) {
  const FlowSpec spec = NamedSpec(GetParam(), /*quantised=*/true);
  const absl::StatusOr<Checkpoint> checkpoint = TinyCheckpoint(spec, 64);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ScorerOptions on_gpu;
  on_gpu.device = "cuda:0";
  const auto cpu = MakeFlowScorer(*checkpoint), gpu = MakeFlowScorer(*checkpoint, on_gpu);
  ASSERT_TRUE(cpu.ok() && gpu.ok()) << gpu.status();
  const HostBatch rows = TinyRows(spec, 300, 5);
  const auto expected = (*cpu)->Anomaly(rows, {.want_contributions = true}),
             got = (*gpu)->Anomaly(rows, {.want_contributions = true});
  ASSERT_TRUE(expected.ok() && got.ok()) << got.status();
  for (size_t i = 0; i < expected->log_prob.size(); ++i) {
    EXPECT_TRUE(Reproduces(got->log_prob[i], expected->log_prob[i], kSelfTestRtol)) << i;
    EXPECT_TRUE(Reproduces(got->score[i], expected->score[i], kSelfTestRtol)) << i;
  }
  SampleOptions sample;
  sample.rows = 5;
  sample.seed = 3;
  const auto drawn = (*gpu)->Sample(sample);
  ASSERT_TRUE(drawn.ok()) << drawn.status();
}

INSTANTIATE_TEST_SUITE_P(Specs, GpuScorer, kNames, NameOf);
INSTANTIATE_TEST_SUITE_P(CodeSpecs, GpuScorer,
                         ::testing::Values("Dequantised", "DequantisedImage", "Exact"), NameOf);

}  // namespace
}  // namespace bflow::testing
