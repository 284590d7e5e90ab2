// The bodies of the CUDA kernels, run on the host: against plain float64 loops, in several orders
// of a block's threads (which must give the same bits) and as threads. No GPU, no torch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "model/ops/cuda/butterfly.cuh"
#include "model/ops/cuda/coupling.cuh"
#include "model/ops/cuda/per_step.cuh"
#include "tests/support/simt_host.h"

namespace bflow::testing {
namespace {

using Values = std::vector<double>;
using Buffers = std::vector<Values>;

Values Random(size_t count, uint64_t seed, double scale = 1) {
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

void ExpectNear(const Values& got, const Values& expected, double tolerance, const char* what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  double norm = 1;
  for (const double e : expected) norm = std::max(norm, std::abs(e));
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance * norm) << what << " at " << i;
  }
}

template <typename T>
constexpr double kTolerance = std::is_same_v<T, float> ? 2e-5 : 1e-12;

// ---- butterfly ----

struct FactorShape {
  int level;
  bool shared;
};

struct ButterflyCase {
  int size;
  std::vector<FactorShape> factors;
  int64_t rows;
  int threads = 32;
  int rows_per_block = 2;
  bool staged = false;
  bool tiles = false;
};

int64_t WeightCount(const ButterflyCase& c, const FactorShape& f) {
  return f.shared ? int64_t{4} << f.level : int64_t{2} * c.size;
}

struct ButterflyNumbers {
  Values x, grad_y;
  std::vector<Values> weights;
  double grad_log_det = 0.7;
};

ButterflyNumbers MakeNumbers(const ButterflyCase& c) {
  ButterflyNumbers n;
  const size_t count = static_cast<size_t>(c.rows * c.size);
  n.x = Random(count, 11);
  n.grad_y = Random(count, 12);
  uint64_t seed = 20;
  for (const FactorShape& f : c.factors) {
    const int64_t matrices = f.shared ? 1 : c.size >> (f.level + 1);
    Values w = Random(static_cast<size_t>(WeightCount(c, f)), ++seed, 0.2);
    for (int64_t i = 0; i < static_cast<int64_t>(w.size()); ++i) {
      const bool o = i & 1, h = (i / 2 / matrices) & 1;
      w[static_cast<size_t>(i)] += o == h ? 0.8 : h ? 0.5 : -0.5;
    }
    n.weights.push_back(w);
  }
  return n;
}

// y, log_det, grad_x, grads of the weights; straight from the definition.
Buffers NaiveButterfly(const ButterflyCase& c, const ButterflyNumbers& n) {
  std::vector<Values> inputs = {n.x};
  double log_det = 0;
  std::vector<Values> grads;
  const auto each_pair = [&](const FactorShape& f, const auto& visit) {
    const int64_t half = c.size >> (f.level + 1), matrices = f.shared ? 1 : half;
    for (int64_t b = 0; b < int64_t{1} << f.level; ++b) {
      for (int64_t j = 0; j < half; ++j) {
        const int64_t w = 2 * (2 * b * matrices + (f.shared ? 0 : j));
        visit(b * 2 * half + j, half, static_cast<size_t>(w), static_cast<size_t>(2 * matrices));
      }
    }
  };
  for (size_t k = 0; k < c.factors.size(); ++k) {
    const Values& in = inputs.back();
    const Values& w = n.weights[k];
    Values out = in;
    each_pair(c.factors[k], [&](int64_t at, int64_t half, size_t i, size_t stride) {
      log_det += std::log(std::abs(w[i] * w[i + stride + 1] - w[i + stride] * w[i + 1]));
      for (int64_t r = 0; r < c.rows; ++r) {
        const size_t p = static_cast<size_t>(r * c.size + at), q = p + static_cast<size_t>(half);
        out[p] = w[i] * in[p] + w[i + stride] * in[q];
        out[q] = w[i + 1] * in[p] + w[i + stride + 1] * in[q];
      }
    });
    inputs.push_back(out);
  }
  Values g = n.grad_y;
  Values all_grads;
  std::vector<Values> by_factor(c.factors.size());
  for (size_t k = c.factors.size(); k-- > 0;) {
    const Values& in = inputs[k];
    const Values& w = n.weights[k];
    Values grad_w(w.size()), grad_in = g;
    each_pair(c.factors[k], [&](int64_t at, int64_t half, size_t i, size_t stride) {
      const double d = w[i] * w[i + stride + 1] - w[i + stride] * w[i + 1];
      grad_w[i] += n.grad_log_det * w[i + stride + 1] / d;
      grad_w[i + 1] -= n.grad_log_det * w[i + stride] / d;
      grad_w[i + stride] -= n.grad_log_det * w[i + 1] / d;
      grad_w[i + stride + 1] += n.grad_log_det * w[i] / d;
      for (int64_t r = 0; r < c.rows; ++r) {
        const size_t p = static_cast<size_t>(r * c.size + at), q = p + static_cast<size_t>(half);
        grad_w[i] += in[p] * g[p];
        grad_w[i + 1] += in[p] * g[q];
        grad_w[i + stride] += in[q] * g[p];
        grad_w[i + stride + 1] += in[q] * g[q];
        grad_in[p] = w[i] * g[p] + w[i + 1] * g[q];
        grad_in[q] = w[i + stride] * g[p] + w[i + stride + 1] * g[q];
      }
    });
    by_factor[k] = grad_w;
    g = grad_in;
  }
  for (const Values& grad : by_factor) all_grads.insert(all_grads.end(), grad.begin(), grad.end());
  return {inputs.back(), {log_det}, g, all_grads};
}

template <typename T>
std::vector<std::vector<T>> RunButterfly(const ButterflyCase& c, const ButterflyNumbers& n,
                                         SimtSchedule schedule, uint64_t seed) {
  std::vector<std::vector<T>> weights;
  for (const Values& w : n.weights) weights.push_back(As<T>(w));
  cuda::ButterflyLayerPlan<T> plan;
  plan.size = c.size;
  plan.factor_count = static_cast<int>(c.factors.size());
  for (size_t f = 0; f < c.factors.size(); ++f) {
    plan.factors[f].weights = weights[f].data();
    plan.factors[f].level = c.factors[f].level;
    plan.factors[f].shared = c.factors[f].shared;
  }
  cuda::PlanPasses(plan, cuda::kRegisterFactors);
  const std::vector<T> x = As<T>(n.x), grad_y = As<T>(n.grad_y);
  std::vector<T> y(x.size()), log_det(1), grad_x(x.size());
  const int grid = 2;
  const size_t tile = static_cast<size_t>(c.rows_per_block * c.size);
  const size_t weight_count = static_cast<size_t>(plan.weight_count);
  std::vector<T> tiles(c.tiles ? grid * tile : 0);
  cuda::ButterflyForwardArgs<T> forward;
  forward.plan = plan;
  forward.x = x.data();
  forward.y = y.data();
  forward.tiles = c.tiles ? tiles.data() : nullptr;
  forward.rows = c.rows;
  forward.rows_per_block = c.rows_per_block;
  forward.staged_weights = c.staged ? static_cast<int>(weight_count) : 0;
  const auto run = [&](SimtLaunch launch, const SimtBody& body) {
    EXPECT_EQ(RunSimt(launch, schedule, body, seed), "");
  };
  run({grid, c.threads, ((c.staged ? weight_count : 0) + (c.tiles ? 0 : tile)) * sizeof(T)},
      [&](const HostLane& lane) { cuda::ButterflyForwardBody(lane, forward); });
  run({1, c.threads, c.threads / 32 * sizeof(double)},
      [&](const HostLane& lane) { cuda::ButterflyLogDetBody(lane, plan, log_det.data()); });
  cuda::ButterflyBackwardArgs<T> backward;
  backward.plan = plan;
  cuda::PlanPasses(backward.plan, cuda::kBackwardRegisterFactors);
  backward.slots = c.threads / 32;
  const int64_t parts = grid * backward.slots;
  std::vector<T> saved(grid * tile * static_cast<size_t>(backward.plan.pass_count));
  std::vector<T> partial(static_cast<size_t>(parts) * weight_count), grads(weight_count);
  backward.x = x.data();
  backward.grad_y = grad_y.data();
  backward.grad_x = grad_x.data();
  backward.saved = saved.data();
  backward.partial = partial.data();
  backward.rows = c.rows;
  backward.rows_per_block = c.rows_per_block;
  run({grid, c.threads, 0},
      [&](const HostLane& lane) { cuda::ButterflyBackwardBody(lane, backward); });
  const T grad_log_det = static_cast<T>(n.grad_log_det);
  run({grid, c.threads, 0}, [&](const HostLane& lane) {
    cuda::ButterflyWeightGradBody(lane, backward.plan, partial.data(), parts, &grad_log_det,
                                  grads.data());
  });
  return {y, log_det, grad_x, grads};
}

template <typename T>
void ExpectButterfly(const ButterflyCase& c) {
  const ButterflyNumbers n = MakeNumbers(c);
  const Buffers expected = NaiveButterfly(c, n);
  const auto got = UnderEverySchedule(
      [&](SimtSchedule schedule, uint64_t seed) { return RunButterfly<T>(c, n, schedule, seed); });
  const char* const names[] = {"y", "log_det", "grad_x", "grad_weights"};
  for (size_t i = 0; i < 4; ++i) {
    ExpectNear(AsDouble(got[i]), expected[i], kTolerance<T>, names[i]);
  }
}

std::vector<FactorShape> Levels(int count, bool shared, bool widest_first) {
  std::vector<FactorShape> factors;
  for (int i = 0; i < count; ++i) factors.push_back({widest_first ? i : count - 1 - i, shared});
  return factors;
}

TEST(ButterflyBodies, EverySizeOrderAndSharing) {
  const std::pair<int, int> shapes[] = {{2, 1},  {6, 1},  {12, 2}, {20, 2}, {24, 3},
                                        {30, 1}, {32, 5}, {96, 5}, {256, 8}};
  for (const auto& [size, levels] : shapes) {
    for (const bool shared : {false, true}) {
      for (const bool widest_first : {false, true}) {
        SCOPED_TRACE(::testing::Message()
                     << "D " << size << " shared " << shared << " widest first " << widest_first);
        const ButterflyCase c = {size, Levels(levels, shared, widest_first), 5};
        ExpectButterfly<double>(c);
        ExpectButterfly<float>(c);
      }
    }
  }
}

TEST(ButterflyBodies, MixedSharingMirroredOrderAndRepeatedLevels) {
  ButterflyCase c = {64, Levels(6, true, true), 3};
  for (const FactorShape& f : Levels(6, false, false)) c.factors.push_back(f);
  c.factors.push_back({2, true});
  c.factors.push_back({2, false});
  c.factors.push_back({0, false});
  ExpectButterfly<double>(c);
  c.size = 192;
  ExpectButterfly<double>(c);
}

TEST(ButterflyBodies, GroupsWiderThanAWarpStagedWeightsAndTilesInGlobalMemory) {
  ButterflyCase c = {512, Levels(9, true, true), 3};
  c.threads = 64;
  c.staged = true;
  ExpectButterfly<float>(c);
  c.tiles = true;
  c.rows_per_block = 1;
  ExpectButterfly<double>(c);
}

TEST(ButterflyBodies, NoRowsAndOneRow) {
  for (const int64_t rows : {0, 1}) ExpectButterfly<double>({64, Levels(6, true, true), rows});
}

// What the plan promises for the published flow: two passes in registers, one by shuffles.
TEST(ButterflyPlan, ThePublishedLayerTakesThreePasses) {
  cuda::ButterflyLayerPlan<float> plan;
  plan.size = 2048;
  plan.factor_count = 10;
  for (int f = 0; f < 10; ++f) plan.factors[f].level = f, plan.factors[f].shared = true;
  cuda::PlanPasses(plan, cuda::kRegisterFactors);
  ASSERT_EQ(plan.pass_count, 3);
  EXPECT_EQ(plan.passes[1].low, 3);
  EXPECT_TRUE(plan.passes[2].shuffle);
  EXPECT_EQ(plan.passes[2].count, 4);
  EXPECT_EQ(plan.weight_count, 4 * 1023);
}

TEST(ButterflyPlan, LaunchesFitTheDevice) {
  for (const int64_t rows : {int64_t{1}, int64_t{3}, int64_t{128}, int64_t{100'000}}) {
    for (const int size : {2, 48, 2048, 1 << 20}) {
      for (const bool shared : {false, true}) {
        SCOPED_TRACE(::testing::Message() << rows << " x " << size << " shared " << shared);
        cuda::ButterflyLayerPlan<double> plan;
        plan.size = size;
        plan.factor_count = 1;
        plan.factors[0].shared = shared;
        cuda::PlanPasses(plan, cuda::kRegisterFactors);
        const cuda::ButterflyLaunch forward = cuda::ForwardLaunch(plan, rows, 132);
        EXPECT_LE(forward.shared_bytes, cuda::kSharedBytes);
        EXPECT_GE(forward.rows_per_block, 1);
        EXPECT_GE(forward.grid, 1);
        EXPECT_EQ(forward.tile_values == 0, static_cast<size_t>(size) * 8 <= cuda::kSharedBytes);
        const cuda::ButterflyLaunch backward = cuda::BackwardLaunch(plan, rows, 132);
        EXPECT_GE(backward.rows_per_block, 1);
        EXPECT_EQ(backward.slots > 1, shared && size > 128);
      }
    }
  }
}

// ---- act_norm, lu_matmul ----

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

// ---- affine_coupling ----

struct CouplingNumbers {
  int64_t rows = 3, steps = 21;
  int half = 2, hidden = 16;
  bool inverse = false;
  Values x, grad_y, grad_log_det, weights;
};

template <typename Shape>
CouplingNumbers MakeCoupling(const Shape& shape, bool inverse) {
  CouplingNumbers n;
  n.half = shape.half();
  n.hidden = shape.hidden();
  n.inverse = inverse;
  const size_t count = static_cast<size_t>(n.rows * n.steps * 2 * n.half);
  n.x = Random(count, 41);
  n.grad_y = Random(count, 42);
  n.grad_log_det = Random(static_cast<size_t>(n.rows), 43);
  n.weights = Random(static_cast<size_t>(2 * shape.parameters()), 44, 0.3);
  return n;
}

// y, log_det per row.
std::pair<Values, Values> NaiveCoupling(const CouplingNumbers& n) {
  const size_t half = static_cast<size_t>(n.half), hidden = static_cast<size_t>(n.hidden);
  Values y(n.x.size()), log_det(static_cast<size_t>(n.rows));
  const auto layer = [](const double*& w, const Values& in, size_t out) {
    Values sums(out);
    for (size_t o = 0; o < out; ++o) {
      for (size_t i = 0; i < in.size(); ++i) sums[o] += w[o * in.size() + i] * in[i];
    }
    w += out * in.size();
    for (size_t o = 0; o < out; ++o) sums[o] += w[o];
    w += out;
    return sums;
  };
  for (size_t t = 0; t < n.x.size() / (2 * half); ++t) {
    const double* x = n.x.data() + t * 2 * half;
    const double* w = n.weights.data();
    Values out[2];
    for (int net = 0; net < 2; ++net) {
      Values h(x, x + half);
      for (int l = 0; l < 2; ++l) {
        h = layer(w, h, hidden);
        for (double& v : h) v = net == 0 ? std::tanh(v) : std::max(v, 0.0);
      }
      out[net] = layer(w, h, half);
    }
    for (size_t i = 0; i < half; ++i) {
      const double s = out[0][i], z2 = x[half + i];
      y[t * 2 * half + i] = x[i];
      y[t * 2 * half + half + i] =
          n.inverse ? (z2 - out[1][i]) * std::exp(-s) : z2 * std::exp(s) + out[1][i];
      log_det[t / static_cast<size_t>(n.steps)] += n.inverse ? -s : s;
    }
  }
  return {y, log_det};
}

template <typename T, typename Shape>
void ExpectCoupling(const Shape& shape, bool inverse) {
  const CouplingNumbers n = MakeCoupling(shape, inverse);
  const std::vector<T> x = As<T>(n.x), grad_y = As<T>(n.grad_y), weights = As<T>(n.weights),
                       grad_log_det = As<T>(n.grad_log_det);
  const size_t parameters = static_cast<size_t>(2 * shape.parameters());
  const auto got = UnderEverySchedule([&](SimtSchedule schedule, uint64_t seed) {
    std::vector<T> y(x.size()), log_det(static_cast<size_t>(n.rows)), grad_x(x.size()),
        grads(parameters);
    const int grid = 2, threads = 32;
    std::vector<double> partial(grid * parameters);
    const auto run = [&](size_t shared, const SimtBody& body) {
      EXPECT_EQ(RunSimt({grid, threads, shared}, schedule, body, seed), "");
    };
    const cuda::CouplingArgs<T> forward = {weights.data(), x.data(), y.data(), log_det.data(),
                                           n.rows,         n.steps,  inverse};
    run(((parameters * sizeof(T) + 7) / 8 + threads / 32) * 8,
        [&](const HostLane& lane) { cuda::CouplingBody(lane, shape, forward); });
    const cuda::CouplingBackwardArgs<T> backward = {
        weights.data(), x.data(), grad_y.data(), grad_log_det.data(), grad_x.data(), partial.data(),
        n.rows,         n.steps,  inverse};
    run((parameters + static_cast<size_t>(shape.features() * (threads + 1))) * sizeof(T),
        [&](const HostLane& lane) { cuda::CouplingBackwardBody(lane, shape, backward); });
    run(0, [&](const HostLane& lane) {
      cuda::SumPartsBody(lane, partial.data(), grid, static_cast<int64_t>(parameters),
                         grads.data());
    });
    return std::vector<std::vector<T>>{y, log_det, grad_x, grads};
  });
  const auto objective = [](const CouplingNumbers& m) {
    const auto [y, log_det] = NaiveCoupling(m);
    return std::inner_product(
        y.begin(), y.end(), m.grad_y.begin(),
        std::inner_product(log_det.begin(), log_det.end(), m.grad_log_det.begin(), 0.0));
  };
  const auto [y, log_det] = NaiveCoupling(n);
  const double differences = std::max(1e-7, kTolerance<T>);
  ExpectNear(AsDouble(got[0]), y, kTolerance<T>, "y");
  ExpectNear(AsDouble(got[1]), log_det, kTolerance<T>, "log_det");
  ExpectNear(AsDouble(got[2]), Differences(n, &CouplingNumbers::x, objective), differences,
             "grad_x");
  ExpectNear(AsDouble(got[3]), Differences(n, &CouplingNumbers::weights, objective), differences,
             "grad_weights");
}

TEST(CouplingBodies, ForwardInverseAndBackward) {
  for (const bool inverse : {false, true}) {
    SCOPED_TRACE(inverse);
    ExpectCoupling<double>(cuda::CouplingShape<2, 16>(), inverse);
    ExpectCoupling<float>(cuda::CouplingShape<2, 16>(), inverse);
    ExpectCoupling<double>(cuda::CouplingShape<0, 0>{1, 5}, inverse);
    ExpectCoupling<double>(cuda::CouplingShape<0, 0>{3, 7}, inverse);
  }
}

// ---- the shim itself ----

TEST(SimtHost, NamesThreadsThatMeetAtDifferentBarriers) {
  const std::string block = RunSimt({1, 32, 0}, SimtSchedule::kForward, [](const HostLane& lane) {
    if (lane.thread() != 5) lane.Sync();
  });
  EXPECT_NE(block.find("thread 4 waits at a block barrier, thread 5 has returned"),
            std::string::npos)
      << block;
  const std::string mixed = RunSimt({1, 64, 0}, SimtSchedule::kReverse, [](const HostLane& lane) {
    int value[1] = {lane.thread()};
    if (lane.thread() % 2 == 0) lane.ShuffleXor(value, 1);
    lane.Sync();
  });
  EXPECT_NE(mixed.find("divergent barrier"), std::string::npos);
}

TEST(SimtHost, AMissingBarrierShowsInTheOrder) {
  const auto run = [](SimtSchedule schedule) {
    std::vector<int> out(32);
    RunSimt({1, 32, 32 * sizeof(int)}, schedule, [&](const HostLane& lane) {
      int* shared = lane.shared<int>();
      shared[lane.thread()] = lane.thread();
      out[static_cast<size_t>(lane.thread())] = shared[31 - lane.thread()];  // no Sync
    });
    return out;
  };
  EXPECT_NE(run(SimtSchedule::kForward), run(SimtSchedule::kReverse));
}

}  // namespace
}  // namespace bflow::testing
