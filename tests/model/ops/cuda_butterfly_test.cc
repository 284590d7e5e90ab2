// The bodies of the butterfly kernels, run on the host against plain float64 loops. No GPU, no
// torch.
#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "model/ops/cuda/butterfly.cuh"
#include "model/ops/cuda/butterfly_backward.cuh"
#include "tests/model/ops/cuda_bodies_util.h"

namespace bflow::testing {
namespace {

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

}  // namespace
}  // namespace bflow::testing
