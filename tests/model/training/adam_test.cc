// Adam and the moving average against their definitions in double precision, and the one tensor
// that they go over.
#include "model/training/adam.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "ATen/ops/arange.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/full.h"
#include "ATen/ops/tensor.h"
#include "gtest/gtest.h"
#include "model/training/flat_parameters.h"

namespace bflow {
namespace {

// Adam as its authors write it, in double precision.
struct ReferenceAdam {
  double m = 0, v = 0;
  void Step(int t, double rate, double gradient, double* p) {
    m = 0.9 * m + 0.1 * gradient;
    v = 0.999 * v + 0.001 * gradient * gradient;
    const double m_hat = m / (1 - std::pow(0.9, t)), v_hat = v / (1 - std::pow(0.999, t));
    *p -= rate * m_hat / (std::sqrt(v_hat) + 1e-8);
  }
};

TEST(Adam, AgreesWithTheReference) {
  std::mt19937_64 generator(1);
  std::normal_distribution<double> normal;
  at::Tensor p = at::empty({42}, at::kFloat), g = at::empty({42}, at::kFloat);
  std::vector<double> expected(42);
  for (size_t i = 0; i < 42; ++i) {
    p.data_ptr<float>()[i] = static_cast<float>(normal(generator));
    expected[i] = p.data_ptr<float>()[i];
  }
  Adam adam(p);
  std::vector<ReferenceAdam> reference(42);
  for (int t = 1; t <= 200; ++t) {
    const double rate = 1e-2 / t;
    for (size_t i = 0; i < 42; ++i) {
      // From 1e-6 to 10: epsilon counts for the small ones.
      const float of_i =
          static_cast<float>(normal(generator) * std::pow(10.0, static_cast<double>(i % 8) - 6));
      g.data_ptr<float>()[i] = of_i;
      reference[i].Step(t, rate, of_i, &expected[i]);
    }
    adam.Step(rate, g);
  }
  EXPECT_EQ(adam.state().updates, 200);
  for (size_t i = 0; i < 42; ++i) EXPECT_NEAR(p.data_ptr<float>()[i], expected[i], 2e-6) << i;
}

TEST(Adam, GoesOnFromItsState) {
  at::Tensor p = at::full({3}, 1.0, at::kFloat);
  Adam adam(p);
  adam.Step(0.1, at::full({3}, 2.0, at::kFloat));
  const Adam::State state = adam.CopyState();
  const at::Tensor before = p.clone(), g = at::tensor({1.0f, -3.0f, 0.0f});
  adam.Step(0.1, g);
  const at::Tensor after = p.clone();
  p.copy_(before);
  adam.Restore(state);
  adam.Step(0.1, g);
  EXPECT_TRUE(at::equal(p, after));
}

TEST(ExponentialAverage, FollowsItsDefinitionAndSwaps) {
  at::Tensor p = at::tensor({1.0f, -2.0f, 3.0f});
  ExponentialAverage average(p, 0.5);
  std::vector<double> expected = {1, -2, 3};
  float* const values = p.data_ptr<float>();
  for (int t = 1; t <= 20; ++t) {
    const double d = std::min(0.5, (1.0 + t) / (10.0 + t));
    for (size_t i = 0; i < 3; ++i) {
      values[i] += static_cast<float>(t * (i + 1));
      expected[i] = d * expected[i] + (1 - d) * values[i];
    }
    average.Update();
  }
  const at::Tensor raw = p.clone();
  average.Swap();
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(values[i], expected[i], 1e-4 * expected[i]);
  average.Swap();
  EXPECT_TRUE(at::equal(p, raw));
}

TEST(FlatParameters, AreViewsOfOneTensor) {
  at::Tensor a = at::arange(6, at::kFloat).view({2, 3}), b = at::full({17}, 7.0, at::kFloat);
  const at::Tensor same_a = a;  // another handle, as a layer has
  const FlatParameters flat({a, b});
  EXPECT_EQ(flat.packed_size(), 23u);
  EXPECT_EQ(flat.values().numel(), 16 + 32);
  EXPECT_EQ(same_a[1][2].item<float>(), 5);
  flat.values().mul_(2);
  EXPECT_EQ(same_a[1][2].item<float>(), 10);
  EXPECT_EQ(b[16].item<float>(), 14);
  EXPECT_EQ(flat.values().sum().item<float>(), 30 + 17 * 14) << "zeros between";

  // A gradient may have another layout in memory.
  const at::Tensor ga = at::arange(6, at::kFloat).view({3, 2}).t();
  const at::Tensor gathered = flat.Gather({ga, b});
  std::vector<float> packed = flat.ToHost(gathered);
  ASSERT_EQ(packed.size(), 23u);
  EXPECT_EQ(packed[1], 2);
  EXPECT_EQ(packed[6], 14);
  EXPECT_TRUE(at::equal(flat.FromHost(packed), gathered));
}

}  // namespace
}  // namespace bflow
