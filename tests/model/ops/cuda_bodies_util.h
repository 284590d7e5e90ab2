// What the tests of the CUDA kernels' bodies share: numbers, schedules, comparison with float64.
#ifndef BFLOW_TESTS_MODEL_OPS_CUDA_BODIES_UTIL_H_
#define BFLOW_TESTS_MODEL_OPS_CUDA_BODIES_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <type_traits>
#include <vector>

#include "tests/support/simt_host.h"

namespace bflow::testing {

using Values = std::vector<double>;
using Buffers = std::vector<Values>;

inline Values Random(size_t count, uint64_t seed, double scale = 1) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  Values values(count);
  for (double& v : values) v = normal(generator);
  return values;
}

template <typename T>
std::vector<T> As(const Values& values) {
  return {values.begin(), values.end()};
}

template <typename T>
Values AsDouble(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

// Runs `kernels` (which write fresh buffers) under every schedule: the bits must be the same.
template <typename Run>
auto UnderEverySchedule(const Run& run) {
  const auto expected = run(SimtSchedule::kForward, uint64_t{1});
  EXPECT_EQ(expected, run(SimtSchedule::kReverse, uint64_t{1}));
  EXPECT_EQ(expected, run(SimtSchedule::kSeeded, uint64_t{7}));
  EXPECT_EQ(expected, run(SimtSchedule::kSeeded, uint64_t{8}));
  EXPECT_EQ(expected, run(SimtSchedule::kThreads, uint64_t{1}));
  return expected;
}

inline void ExpectNear(const Values& got, const Values& expected, double tolerance,
                       const char* what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  double norm = 1;
  for (const double e : expected) norm = std::max(norm, std::abs(e));
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance * norm) << what << " at " << i;
  }
}

template <typename T>
inline constexpr double kTolerance = std::is_same_v<T, float> ? 2e-5 : 1e-12;

// d(sum grad_y y + grad_log_det log_det) / d values, by central differences.
template <typename Numbers, typename Objective>
Values Differences(Numbers n, Values Numbers::*field, const Objective& objective) {
  Values grad((n.*field).size());
  for (size_t i = 0; i < grad.size(); ++i) {
    const double at = (n.*field)[i], h = 1e-5;
    (n.*field)[i] = at + h;
    const double up = objective(n);
    (n.*field)[i] = at - h;
    grad[i] = (up - objective(n)) / (2 * h);
    (n.*field)[i] = at;
  }
  return grad;
}

}  // namespace bflow::testing

#endif  // BFLOW_TESTS_MODEL_OPS_CUDA_BODIES_UTIL_H_
