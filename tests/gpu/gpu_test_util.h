// Tests that need a GPU: the CUDA plugin is loaded before the first test, and without a device that
// works everything fails with the reason. Built wherever nvcc is; run by ./dev gpu-check.
#ifndef BFLOW_TESTS_GPU_GPU_TEST_UTIL_H_
#define BFLOW_TESTS_GPU_GPU_TEST_UTIL_H_

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <tuple>
#include <vector>

#include "ATen/core/Tensor.h"
#include "gtest/gtest.h"
#include "model/ops/cuda/build_id.h"
#include "model/scoring/backend.h"
#include "tests/gpu/build_folder.h"
#include "tests/model/ops/ops_test_util.h"

namespace bflow::testing {

class GpuEnvironment : public ::testing::Environment {
 public:
  // Ends the process where a failed assertion would have the tests reported as skipped.
  void SetUp() override {
    const auto backend =
        LoadBackendFrom(BuildFolder() + "/bin/" + kCudaPluginFile, DevicePreference::kCuda);
    if (backend.ok()) return;
    std::fprintf(stderr, "no device: %s\n", backend.status().ToString().c_str());
    std::_Exit(1);
  }
};

inline ::testing::Environment* const kGpuEnvironment =
    ::testing::AddGlobalTestEnvironment(new GpuEnvironment);

inline at::Device Gpu() { return at::Device("cuda:0"); }

// The operator on the GPU as one of CPU tensors: what goes in and out is copied, also the
// gradients.
inline Op OnGpu(const Op& op) {
  return [op](const std::vector<at::Tensor>& in) -> std::tuple<at::Tensor, at::Tensor> {
    std::vector<at::Tensor> moved;
    for (const at::Tensor& tensor : in) moved.push_back(tensor.to(Gpu()));
    const auto [y, log_det] = op(moved);
    return {y.cpu(), log_det.cpu()};
  };
}

// As ExpectAgrees for the CPU kernels: equal in float64 to rounding, in float32 under twice the
// plain reference's own error; gradients of parameters, sums in another order, by the tensor.
inline void ExpectGpuAgrees(const Op& op, const Op& reference, std::vector<at::Tensor> inputs) {
  for (at::Tensor& input : inputs) {
    if (input.is_floating_point()) input = input.to(at::kFloat).to(at::kDouble);
  }
  const std::vector<at::Tensor> truth = RunOp(reference, inputs, at::kDouble);
  const std::vector<at::Tensor> plain = RunOp(reference, inputs, at::kFloat);
  const std::vector<at::Tensor> wide = RunOp(OnGpu(op), inputs, at::kDouble);
  const std::vector<at::Tensor> narrow = RunOp(OnGpu(op), inputs, at::kFloat);
  ASSERT_EQ(wide.size(), truth.size());
  for (size_t i = 0; i < truth.size(); ++i) {
    const bool parameter = i >= 3;  // after y, log_det and the gradient of x
    EXPECT_LE(Error(wide[i], truth[i], parameter), 1e-12) << "float64, result " << i;
    EXPECT_LE(Error(narrow[i], truth[i], parameter),
              2 * std::max(Error(plain[i], truth[i], parameter), 1e-6))
        << "float32, result " << i;
  }
}

}  // namespace bflow::testing

#endif  // BFLOW_TESTS_GPU_GPU_TEST_UTIL_H_
