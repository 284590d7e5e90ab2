// The bodies of affine_coupling's kernels, run on the host against float64. No GPU, no torch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "model/ops/cuda/coupling.cuh"
#include "tests/model/ops/cuda_bodies_util.h"

namespace bflow::testing {
namespace {

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

}  // namespace
}  // namespace bflow::testing
