// The operators of the box layer against their references, the distribution that they define, and
// the way back against one that computes everything anew for every value.
#include "model/ops/box.h"

#include <cmath>

#include "ATen/ops/cat.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/softmax.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "tests/model/ops/op_cases.h"
#include "tests/model/ops/ops_test_util.h"

namespace bflow::testing {
namespace {

struct NetCase {
  int64_t rows, steps, channels, width, kernel;
  std::vector<int64_t> dilations;
};
const NetCase kCases[] = {{3, 40, 2, 8, 5, {1, 3, 9}},
                          {2, 33, 1, 5, 1, {}},
                          {1, 7, 3, 6, 4, {2, 30}},
                          {17, 16, 2, 32, 5, {1}}};

std::vector<at::Tensor> NetTensors(const NetCase& c, double size) {
  std::vector<at::Tensor> net;
  const auto add = [&](int64_t outputs, int64_t inputs, int64_t taps) {
    const double scale = size / std::sqrt(static_cast<double>(inputs * taps));
    net.push_back(Randn({outputs, inputs, taps}) * scale);
    net.push_back(Randn({outputs}) * 0.3);
  };
  add(c.width, 3 * c.channels + 1, c.kernel);
  for (size_t n = 0; n < c.dilations.size(); ++n) {
    add(c.width, c.width, 3);
    add(c.width, c.width, 1);
  }
  for (int64_t head = 0; head < c.channels; ++head) {
    add(c.width, c.width + 2 + 2 * head, 1);
    add(kBoxOutputs, c.width, 1);
  }
  return net;
}

Op NetOp(bool reference, const NetCase& c, const at::Tensor& features, const at::Tensor& heads) {
  return [=](const std::vector<at::Tensor>& net) {
    const at::ScalarType dtype = net[0].scalar_type();
    return std::make_tuple((reference ? BoxNetReference : box_net)(
                               features.to(dtype), heads.to(dtype), net, c.dilations),
                           at::zeros({1}, dtype));
  };
}

TEST(BoxNetOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(1);
  for (const NetCase& c : kCases) {
    SCOPED_TRACE(c.steps);
    const at::Tensor features = Randn({c.rows, c.steps, 3 * c.channels + 1}).to(at::kFloat);
    const at::Tensor heads = Randn({c.rows, c.steps, c.channels, 4}).to(at::kFloat);
    ExpectAgrees(NetOp(false, c, features, heads), NetOp(true, c, features, heads),
                 NetTensors(c, 1));
  }
}

TEST(BoxNetOp, GradCheckRowsAndThePastAlone) {
  at::manual_seed(2);
  const NetCase& c = kCases[0];
  const at::Tensor features = Randn({c.rows, c.steps, 7}), heads = Randn({c.rows, c.steps, 2, 4});
  const std::vector<at::Tensor> net = NetTensors(c, 1);
  EXPECT_TRUE(GradCheck(
      [&](const std::vector<at::Tensor>& in) {
        return std::vector<at::Tensor>{box_net(features, heads, in, c.dilations)};
      },
      net, 1e-6, 6));
  ForEachSimd([&] {
    const at::Tensor all = box_net(features, heads, net, c.dilations);
    EXPECT_TRUE(at::equal(
        box_net(features.narrow(0, 1, 1), heads.narrow(0, 1, 1), net, c.dilations)[0], all[1]));
    // What lies ahead changes nothing, to the bit; nor does a shorter row.
    at::Tensor later = features.clone();
    later.narrow(1, 20, 20) += 1;
    EXPECT_TRUE(
        at::equal(box_net(later, heads, net, c.dilations).narrow(1, 0, 20), all.narrow(1, 0, 20)));
    EXPECT_FALSE(at::equal(box_net(later, heads, net, c.dilations)[0][20], all[0][20]));
  });
  EXPECT_EQ(box_net(features.narrow(0, 0, 0), heads.narrow(0, 0, 0), net, c.dilations).size(0), 0);
}

TEST(BoxNetOp, NamesWhatDoesNotFit) {
  const NetCase& c = kCases[0];
  const at::Tensor features = Randn({1, 9, 7}), heads = Randn({1, 9, 2, 4});
  const std::vector<at::Tensor> net = NetTensors(c, 1);
  for (size_t i = 0; i < net.size(); ++i) {
    std::vector<at::Tensor> wrong = net;
    wrong[i] = wrong[i].narrow(0, 0, 1);
    EXPECT_THROW(box_net(features, heads, wrong, c.dilations), c10::Error) << i;
  }
  EXPECT_THROW(box_net(features, heads, net, {1, 3}), c10::Error);
}

// raw, frame, u of `count` values around their predictions.
std::vector<at::Tensor> CellInputs(int64_t count, bool adaptive) {
  at::Tensor frame = Randn({2, count, 2, adaptive ? kAdaptiveBoxFrame : kBoxFrame}) * 3;
  frame.select(3, 0).floor_();
  frame.select(3, 3).copy_((Randn({2, count, 2}) * 0.7).exp());
  if (adaptive) frame.select(3, 5).copy_((Randn({2, count, 2}) * 0.7).exp());
  return {Randn({2, count, 2, kBoxOutputs}), frame, at::rand({2, count, 2}, at::kDouble)};
}

// With and without an expert.
class BoxCellsOp : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Adaptive, BoxCellsOp, ::testing::Bool());

TEST_P(BoxCellsOp, AgreesWithTheReferenceForwardAndBackward) {
  at::manual_seed(3);
  const std::vector<at::Tensor> in = CellInputs(50, GetParam());
  const auto op = [&](bool reference) {
    return Op([&in, reference](const std::vector<at::Tensor>& leaves) {
      const auto [z, log_det, share] =
          (reference ? BoxCellsReference : box_cells)(leaves[0], in[1], leaves[1]);
      return std::make_tuple(z, log_det);
    });
  };
  const std::vector<at::Tensor> wanted = RunOp(op(true), {in[0], in[2]}, at::kDouble);
  const std::vector<at::Tensor> got = RunOp(op(false), {in[0], in[2]}, at::kDouble);
  ASSERT_EQ(wanted.size(), 4u);
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_LE(Error(got[i], wanted[i]), 1e-9) << i;
  EXPECT_LE(Error(std::get<2>(box_cells(in[0], in[1], in[2])),
                  std::get<2>(BoxCellsReference(in[0], in[1], in[2]))),
            1e-12);
  EXPECT_TRUE(GradCheck(
      [&](const std::vector<at::Tensor>& leaves) {
        auto [z, log_det, share] = box_cells(leaves[0], in[1], leaves[1]);
        return std::vector<at::Tensor>{z, log_det};
      },
      {in[0], in[2] * 0.8 + 0.1}, 1e-6, 200));
}

// log p of each row under the standard logistic base.
at::Tensor LogProb(const std::vector<at::Tensor>& in, const at::Tensor& u) {
  const auto [z, log_det, share] = box_cells(in[0], in[1], u);
  const at::Tensor size = z.abs();
  return log_det - (size + 2 * at::log1p((-size).exp())).flatten(1).sum(1);
}

TEST_P(BoxCellsOp, LogPDoesNotDependOnTheNoiseAndTheCodesSumToOne) {
  at::manual_seed(4);
  std::vector<at::Tensor> in = CellInputs(40, GetParam());
  const at::Tensor wanted = LogProb(in, in[2]);
  for (const double u : {0.0, 0.25, 1 - 0x1p-24}) {
    EXPECT_LE(Error(LogProb(in, at::full_like(in[2], u)), wanted), 1e-12) << u;
  }
  // One value per row, every code that is not too unlikely to count.
  const at::Tensor raw = in[0][0][0].narrow(0, 0, 1).view({1, 1, 1, kBoxOutputs});
  const int64_t width = in[1].size(3);
  at::Tensor frame =
      in[1][0][0].narrow(0, 0, 1).view({1, 1, 1, width}).expand({40001, 1, 1, width}).clone();
  frame.select(3, 0).copy_(at::arange(-20000, 20001, at::kDouble).view({-1, 1, 1}));
  const at::Tensor u = at::full_like(frame.select(3, 0), 0.5);
  const at::Tensor log_p = LogProb({raw.expand({40001, 1, 1, kBoxOutputs}), frame}, u);
  EXPECT_NEAR(log_p.exp().sum().item<double>(), 1, 1e-12);
  EXPECT_TRUE(log_p.isfinite().all().item<bool>());  // of the least likely one too
}

// However wrong the net is, a row costs little more than by the expert alone, and the other way
// round: the bounds of the fixed share, 0.05 to start with and 0.02 to change.
TEST(BoxCells, ARowCostsLittleMoreThanByTheBetterOfNetAndExpert) {
  at::manual_seed(8);
  const int64_t steps = 300;
  std::vector<at::Tensor> in = CellInputs(steps, true);
  in[0].slice(1, 0, steps / 2).select(3, kBoxComponents) += 40;  // shifts of the first half
  in[0].select(3, 0) += 30;                                      // all on that distribution
  in[1].select(3, 4).copy_(in[1].select(3, 0) + 0.5);            // the expert is right
  const at::Tensor together = LogProb(in, in[2]);
  const at::Tensor by_net = LogProb({in[0], in[1].narrow(3, 0, kBoxFrame)}, in[2]);
  const auto bound = [&](double start, double other) {
    return 2 * (std::log(start) + static_cast<double>(steps - 1) * std::log1p(-0.02 * other));
  };
  EXPECT_TRUE((together >= by_net + bound(0.95, 0.05)).all().item<bool>());
  // By the expert alone: a net of the same distributions.
  at::Tensor expert = at::zeros({2, steps, 2, kBoxOutputs}, at::kDouble);
  expert.select(3, 0).fill_(std::log(0.9));
  expert.select(3, 1).fill_(std::log(0.09));
  expert.select(3, 2).fill_(std::log(0.01));
  expert.narrow(3, 3, 2).fill_(-1000);
  const at::Tensor scales = at::tensor({1 / 0.3, 4 / 0.8, 32 / 4.0}, at::kDouble);
  expert.narrow(3, 2 * kBoxComponents, 3).copy_((scales.log() / 4).atanh() * 2);
  at::Tensor frame = in[1].narrow(3, 0, kBoxFrame).clone();
  frame.select(3, 1).copy_(in[1].select(3, 4));
  frame.select(3, 3).copy_(in[1].select(3, 5));
  const at::Tensor by_expert = LogProb({expert, frame}, in[2]);
  EXPECT_TRUE((together >= by_expert + bound(0.05, 0.95)).all().item<bool>());
  EXPECT_TRUE((by_expert > by_net + 1000).all().item<bool>());
}

// A map that predicts, and moments.
BoxFit Fit(int64_t channels, bool adaptive) {
  BoxFit fit;
  fit.map = WhiteningMapInputs(channels, 3);
  fit.map[0] += 0.1;
  fit.mean = Randn({channels});
  fit.log_deviation = Randn({channels}) * 0.3 + 1;
  fit.adaptive = adaptive;
  return fit;
}

// F(v) of one value.
double Cdf(const at::Tensor& raw, const at::Tensor& frame, double share, double v) {
  const double s = frame[3].item<double>(), p = frame[1].item<double>(),
               last = frame[2].item<double>();
  const at::Tensor base = at::tensor({0.3 * s, 0.8 * s, 4 * s, 0.15, 0.6}, at::kDouble);
  const at::Tensor centre = at::tensor({p, p, p, last, last}, at::kDouble);
  const at::Tensor mean = centre + 3 * base * raw.narrow(0, 5, 5);
  const at::Tensor scale = base * (4 * at::tanh(raw.narrow(0, 10, 5) / 2)).exp();
  const double by_net =
      (at::softmax(raw.narrow(0, 0, 5), 0) * at::sigmoid((v - mean) / scale)).sum().item<double>();
  if (share == 0) return by_net;
  const double x = v - frame[4].item<double>(), wide = frame[5].item<double>();
  const auto logistic = [](double a) { return 1 / (1 + std::exp(-a)); };
  const double by_expert =
      0.9 * logistic(x / wide) + 0.09 * logistic(x / (4 * wide)) + 0.01 * logistic(x / (32 * wide));
  return (1 - share) * by_net + share * by_expert;
}

class BoxInverseOf : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Adaptive, BoxInverseOf, ::testing::Bool());

TEST_P(BoxInverseOf, EqualsOneThatComputesEverythingAnew) {
  at::manual_seed(5);
  for (const NetCase& c : {NetCase{2, 30, 2, 6, 5, {1, 3}}, NetCase{1, 12, 3, 4, 2, {5}},
                           NetCase{1, 9, 1, 3, 1, {}}}) {
    const BoxFit fit = Fit(c.channels, GetParam());
    const std::vector<at::Tensor> net = NetTensors(c, 2);
    const at::Tensor z = Randn({c.rows, c.steps, c.channels}) * 1.5;
    const BoxCodes got = BoxInverse(z, fit, net, c.dilations);
    at::Tensor codes = at::zeros_like(z);
    for (int64_t i = 0; i < z.numel(); ++i) {
      const int64_t r = i / (c.steps * c.channels), t = i / c.channels % c.steps,
                    channel = i % c.channels;
      const BoxContext context = MakeBoxContext(codes, fit);
      const at::Tensor raws = BoxNetReference(context.features, context.heads, net, c.dilations);
      const auto [latents, log_dets, shares] =
          BoxCellsReference(raws, context.frame, at::full_like(z, 0.5));
      const at::Tensor raw = raws[r][t][channel], frame = context.frame[r][t][channel];
      const double share = shares[r][t][channel].item<double>();
      const double y = 1 / (1 + std::exp(-z[r][t][channel].item<double>()));
      double v = got.codes[r][t][channel].item<double>();
      const double low = Cdf(raw, frame, share, v), high = Cdf(raw, frame, share, v + 1);
      EXPECT_LE(low, y + 1e-12);
      EXPECT_GT(high, y - 1e-12);
      EXPECT_NEAR(low + got.u[r][t][channel].item<double>() * (high - low), y, 1e-7);
      codes[r][t][channel].fill_(v);
    }
    EXPECT_GT(codes.abs().max().item<double>(), 1);
  }
}

TEST_P(BoxInverseOf, GivesBackCodesAndNoise) {
  at::manual_seed(6);
  const NetCase c = {3, 60, 2, 8, 5, {1, 3, 9}};
  const BoxFit fit = Fit(2, GetParam());
  const std::vector<at::Tensor> net = NetTensors(c, 1);
  at::Tensor codes = (Randn({3, 60, 2}) * 4).cumsum(1).floor();
  // Far from every prediction, at the end: the one after it would lie between two far modes, where
  // a probability below 1e-16 has no digits left in z.
  codes[0][59][1].fill_(3000);
  codes[1][59][1].fill_(-3000);
  const at::Tensor u = at::rand({3, 60, 2}, at::kDouble) * 0.98 + 0.01;
  const BoxContext context = MakeBoxContext(codes, fit);
  const at::Tensor raw = box_net(context.features, context.heads, net, c.dilations);
  const auto [z, log_det, share] = box_cells(raw, context.frame, u);
  const BoxCodes back = BoxInverse(z, fit, net, c.dilations);
  EXPECT_TRUE(at::equal(back.codes, codes));
  EXPECT_LE(Error(back.u, u), 1e-6);
  EXPECT_LE(Error(back.log_det, -log_det), 1e-9);
  const BoxCodes one = BoxInverse(z.narrow(0, 1, 1), fit, net, c.dilations);
  EXPECT_TRUE(at::equal(one.u[0], back.u[1]));
}

TEST_P(BoxInverseOf, LatentsBeyondReasonEnd) {
  at::manual_seed(7);
  const NetCase c = {1, 9, 1, 3, 2, {1}};
  const BoxFit fit = Fit(1, GetParam());
  const std::vector<at::Tensor> net = NetTensors(c, 1);
  for (const double z : {1e30, -1e30, 1e4, -1e4}) {
    const BoxCodes back = BoxInverse(at::full_like(Randn({1, 9, 1}), z), fit, net, c.dilations);
    EXPECT_TRUE(back.codes.isfinite().all().item<bool>()) << z;
    EXPECT_LE(back.codes.abs().max().item<double>(), 0x1p40) << z;
  }
  const BoxCodes none = BoxInverse(at::full_like(Randn({1, 9, 1}), NAN), fit, net, c.dilations);
  EXPECT_TRUE(none.u.isnan().all().item<bool>());
}

}  // namespace
}  // namespace bflow::testing
