// The bodies of act_norm's and lu_matmul's kernels, run on the host against float64. No GPU, no
// torch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "model/ops/cuda/per_step.cuh"
#include "tests/model/ops/cuda_bodies_util.h"

namespace bflow::testing {
namespace {

struct PerStepNumbers {
  int64_t rows = 3, steps = 7;
  int channels = 4;
  Values x, grad_y, a, b, c, d;
  std::vector<int64_t> permutation;
  double grad_log_det = -0.3;
  int64_t total() const { return rows * steps; }
};

PerStepNumbers MakePerStep(int channels) {
  PerStepNumbers n;
  n.channels = channels;
  const size_t c = static_cast<size_t>(channels), count = static_cast<size_t>(n.total()) * c;
  n.x = Random(count, 31);
  n.grad_y = Random(count, 32);
  n.a = Random(c * c, 33, 0.5);
  n.b = Random(c * c, 34, 0.5);
  n.c = Random(c, 35, 0.5);
  n.d.resize(c);
  for (size_t i = 0; i < c; ++i) n.d[i] = i % 2 == 0 ? 1 : -1;
  n.permutation.resize(c);
  std::iota(n.permutation.begin(), n.permutation.end(), int64_t{0});
  std::shuffle(n.permutation.begin(), n.permutation.end(), std::mt19937_64(36));
  return n;
}

template <typename T>
void ExpectActNorm(const PerStepNumbers& n) {
  const size_t c = static_cast<size_t>(n.channels);
  const std::vector<T> x = As<T>(n.x), grad_y = As<T>(n.grad_y), log_scale = As<T>(n.c);
  const std::vector<T> bias = As<T>(Values(n.a.begin(), n.a.begin() + n.channels));
  const T grad_log_det = static_cast<T>(n.grad_log_det);
  const auto got = UnderEverySchedule([&](SimtSchedule schedule, uint64_t seed) {
    std::vector<T> y(x.size()), log_det(1), grad_x(x.size()), grad_scale(c), grad_bias(c);
    const int grid = 2;
    std::vector<double> partial(grid * 2 * c);
    const auto run = [&](size_t shared, const SimtBody& body) {
      EXPECT_EQ(RunSimt({grid, 32, shared}, schedule, body, seed), "");
    };
    run(c * sizeof(T), [&](const HostLane& lane) {
      cuda::ActNormBody(lane, x.data(), log_scale.data(), bias.data(), y.data(), n.total(),
                        n.channels, n.steps, log_det.data());
    });
    run(c * sizeof(T), [&](const HostLane& lane) {
      cuda::ActNormBody(lane, grad_y.data(), log_scale.data(), static_cast<const T*>(nullptr),
                        grad_x.data(), n.total(), n.channels, n.steps, static_cast<T*>(nullptr));
    });
    run(32 * sizeof(double), [&](const HostLane& lane) {
      cuda::ActNormSumsBody(lane, x.data(), grad_y.data(), n.total(), n.channels, partial.data());
    });
    run(0, [&](const HostLane& lane) {
      cuda::ActNormGradBody(lane, partial.data(), grid, log_scale.data(), &grad_log_det, n.channels,
                            n.steps, grad_scale.data(), grad_bias.data());
    });
    return std::vector<std::vector<T>>{y, log_det, grad_x, grad_scale, grad_bias};
  });
  Buffers expected = {Values(x.size()), {0}, Values(x.size()), Values(c), Values(c)};
  for (size_t i = 0; i < c; ++i) {
    expected[1][0] += n.c[i] * static_cast<double>(n.steps);
    expected[3][i] = n.grad_log_det * static_cast<double>(n.steps);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const double scale = std::exp(n.c[i % c]);
    expected[0][i] = n.x[i] * scale + n.a[i % c];
    expected[2][i] = n.grad_y[i] * scale;
    expected[3][i % c] += n.grad_y[i] * n.x[i] * scale;
    expected[4][i % c] += n.grad_y[i];
  }
  const char* const names[] = {"y", "log_det", "grad_x", "grad_log_scale", "grad_bias"};
  for (size_t i = 0; i < 5; ++i) {
    ExpectNear(AsDouble(got[i]), expected[i], kTolerance<T>, names[i]);
  }
}

TEST(PerStepBodies, ActNorm) {
  for (const int channels : {1, 2, 4, 6, 40}) {
    SCOPED_TRACE(channels);
    ExpectActNorm<double>(MakePerStep(channels));
    ExpectActNorm<float>(MakePerStep(channels));
  }
}

// y, log_det of lu_matmul from its definition.
std::pair<Values, double> NaiveLu(const PerStepNumbers& n) {
  const size_t c = static_cast<size_t>(n.channels);
  Values lower(c * c), upper(c * c), w(c * c), y(n.x.size());
  double log_det = 0;
  for (size_t i = 0; i < c; ++i) {
    log_det += n.c[i] * static_cast<double>(n.steps);
    for (size_t j = 0; j < c; ++j) {
      lower[i * c + j] = i == j ? 1 : j < i ? n.a[i * c + j] : 0;
      upper[i * c + j] = i == j ? n.d[i] * std::exp(n.c[i]) : i < j ? n.b[i * c + j] : 0;
    }
  }
  for (size_t i = 0; i < c; ++i) {
    for (size_t j = 0; j < c; ++j) {
      for (size_t k = 0; k < c; ++k) {
        w[i * c + j] += lower[static_cast<size_t>(n.permutation[i]) * c + k] * upper[k * c + j];
      }
    }
  }
  for (size_t t = 0; t < n.x.size() / c; ++t) {
    for (size_t j = 0; j < c; ++j) {
      for (size_t k = 0; k < c; ++k) y[t * c + j] += n.x[t * c + k] * w[k * c + j];
    }
  }
  return {y, log_det};
}

template <typename T>
void ExpectLu(const PerStepNumbers& n) {
  const size_t c = static_cast<size_t>(n.channels);
  const std::vector<T> x = As<T>(n.x), grad_y = As<T>(n.grad_y), lower = As<T>(n.a),
                       upper = As<T>(n.b), log_diagonal = As<T>(n.c), sign = As<T>(n.d);
  const T grad_log_det = static_cast<T>(n.grad_log_det);
  const cuda::LuArgs<T> lu = {lower.data(), upper.data(),         log_diagonal.data(),
                              sign.data(),  n.permutation.data(), n.channels};
  const auto got = UnderEverySchedule([&](SimtSchedule schedule, uint64_t seed) {
    std::vector<T> y(x.size()), log_det(1), grad_x(x.size()), grad_lower(c * c), grad_upper(c * c),
        grad_log(c), weight(c * c), transposed(c * c);
    const int grid = 2;
    std::vector<double> partial(grid * c * c);
    const auto run = [&](int blocks, size_t shared, const SimtBody& body) {
      EXPECT_EQ(RunSimt({blocks, 32, shared}, schedule, body, seed), "");
    };
    run(1, 0, [&](const HostLane& lane) {
      cuda::LuWeightBody(lane, lu, false, weight.data(), n.steps, log_det.data());
    });
    run(1, 0, [&](const HostLane& lane) {
      cuda::LuWeightBody(lane, lu, true, transposed.data(), n.steps, static_cast<T*>(nullptr));
    });
    run(grid, c * c * sizeof(T), [&](const HostLane& lane) {
      cuda::MatmulBody(lane, x.data(), weight.data(), y.data(), n.total(), n.channels);
    });
    run(grid, c * c * sizeof(T), [&](const HostLane& lane) {
      cuda::MatmulBody(lane, grad_y.data(), transposed.data(), grad_x.data(), n.total(),
                       n.channels);
    });
    run(grid, 32 * sizeof(double), [&](const HostLane& lane) {
      cuda::MatmulSumsBody(lane, x.data(), grad_y.data(), n.total(), n.channels, partial.data());
    });
    run(1, c * c * sizeof(double), [&](const HostLane& lane) {
      cuda::LuGradBody(lane, lu, partial.data(), grid, &grad_log_det, n.steps, grad_lower.data(),
                       grad_upper.data(), grad_log.data());
    });
    return std::vector<std::vector<T>>{y, log_det, grad_x, grad_lower, grad_upper, grad_log};
  });
  const auto objective = [](const PerStepNumbers& m) {
    const auto [y, log_det] = NaiveLu(m);
    return std::inner_product(y.begin(), y.end(), m.grad_y.begin(), m.grad_log_det * log_det);
  };
  const auto [y, log_det] = NaiveLu(n);
  const double differences = std::max(1e-8, kTolerance<T>);
  ExpectNear(AsDouble(got[0]), y, kTolerance<T>, "y");
  ExpectNear(AsDouble(got[1]), {log_det}, kTolerance<T>, "log_det");
  ExpectNear(AsDouble(got[2]), Differences(n, &PerStepNumbers::x, objective), differences, "x");
  ExpectNear(AsDouble(got[3]), Differences(n, &PerStepNumbers::a, objective), differences, "lower");
  ExpectNear(AsDouble(got[4]), Differences(n, &PerStepNumbers::b, objective), differences, "upper");
  ExpectNear(AsDouble(got[5]), Differences(n, &PerStepNumbers::c, objective), differences, "log");
}

TEST(PerStepBodies, LuMatmul) {
  for (const int channels : {1, 2, 4, 6}) {
    SCOPED_TRACE(channels);
    ExpectLu<double>(MakePerStep(channels));
    ExpectLu<float>(MakePerStep(channels));
  }
}

TEST(PerStepBodies, APermutationOutOfRangeGivesNaNsAndReadsNothing) {
  const Values a(4, 1);
  const std::vector<int64_t> permutation = {0, 5};
  Values weight(4);
  const cuda::LuArgs<double> lu = {a.data(), a.data(), a.data(), a.data(), permutation.data(), 2};
  EXPECT_EQ(RunSimt({1, 32, 0}, SimtSchedule::kForward,
                    [&](const HostLane& lane) {
                      cuda::LuWeightBody(lane, lu, false, weight.data(), 1,
                                         static_cast<double*>(nullptr));
                    }),
            "");
  EXPECT_FALSE(std::isnan(weight[0]));
  EXPECT_TRUE(std::isnan(weight[2]));
}

}  // namespace
}  // namespace bflow::testing
