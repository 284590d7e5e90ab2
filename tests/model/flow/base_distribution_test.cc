// The densities of the latents.
#include "model/flow/base_distribution.h"

#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/full.h"
#include "ATen/ops/linspace.h"
#include "c10/core/GradMode.h"
#include "gtest/gtest.h"
#include "tests/model/layers/bijector_laws.h"
#include "tests/support/gradcheck.h"

namespace bflow {
namespace {

// Two levels of a waveform of 2 channels: 2 latent channels, then 4.
FlowSpec Spec() {
  FlowSpec spec;
  spec.event_shape = {8, 2};
  spec.channels.resize(2);
  spec.levels.resize(2);
  spec.levels[0].split = true;
  spec.base = BaseKind::kStudentT;
  return spec;
}

// Sets channel c of level 0 to `degrees` and `scale`.
void Set(BaseDistribution& base, int64_t c, double degrees, double scale) {
  const c10::NoGradGuard no_grad;
  base.named_parameters()["0.log_degrees"][c].fill_(std::log(degrees - 1));
  base.named_parameters()["0.log_scale"][c].fill_(std::log(scale));
}

TEST(StudentTBase, EqualsScipy) {
  struct Case {
    double z, degrees, scale, log_density;
  };
  // scipy.stats.t.logpdf(z, degrees, scale=scale)
  const std::vector<Case> cases = {{0, 6, 1, -0.9604182557515987},
                                   {0.7, 6, 1, -1.2351789709594012},
                                   {-3.2, 1.5, 0.4, -4.881090846124038},
                                   {40, 3, 2, -11.494684576740601},
                                   {1e-3, 200, 1.3, -1.1825530898013135}};
  StudentTBase base(Spec(), at::kDouble);
  for (const Case& c : cases) {
    Set(base, 0, 7, 3);  // the other channel must not matter
    Set(base, 1, c.degrees, c.scale);
    const at::Tensor z = at::full({1, 1, 2}, c.z, at::kDouble);
    EXPECT_NEAR(base.LogDensity(0, z)[0][0][1].item<double>(), c.log_density, 1e-12) << c.z;
  }
}

TEST(LogisticBase, EqualsItsDensity) {
  LogisticBase base;
  EXPECT_TRUE(base.parameters().empty());
  for (const double z : {0.0, 0.7, -3.2, 40.0, -900.0}) {
    const double size = std::abs(z), wanted = -size - 2 * std::log1p(std::exp(-size));
    const at::Tensor density = base.LogDensity(0, at::full({1, 1, 1}, z, at::kDouble));
    EXPECT_NEAR(density.item<double>(), wanted, 1e-12) << z;
  }
}

TEST(StudentTBase, StartsWithSixDegreesPerLatentChannelOfEachLevel) {
  StudentTBase base(Spec(), at::kDouble);
  const auto parameters = base.named_parameters();
  ASSERT_EQ(parameters.keys(), (std::vector<std::string>{"0.log_degrees", "0.log_scale",
                                                         "1.log_degrees", "1.log_scale"}));
  EXPECT_EQ(parameters["0.log_degrees"].sizes(), at::IntArrayRef({2}));
  EXPECT_EQ(parameters["1.log_degrees"].sizes(), at::IntArrayRef({4}));
  const BaseDistribution::Marginals marginals = base.LevelMarginals(1);
  for (int64_t c = 0; c < 4; ++c) {
    EXPECT_DOUBLE_EQ(marginals.degrees[c].item<double>(), 6);
    EXPECT_DOUBLE_EQ(marginals.scale[c].item<double>(), 1);
  }
}

TEST(StudentTBase, IntegratesToOne) {
  StudentTBase base(Spec(), at::kDouble);
  const c10::NoGradGuard no_grad;
  Set(base, 0, 2.5, 0.7);
  Set(base, 1, 30, 1.8);
  // z = sinh(s): the tails of 2.5 degrees of freedom reach far.
  const at::Tensor s = at::linspace(-16, 16, 20001, at::kDouble);
  const at::Tensor z = s.sinh().view({-1, 1, 1}).expand({-1, 1, 2});
  const at::Tensor density = base.LogDensity(0, z).exp().squeeze(1) * s.cosh().unsqueeze(1);
  const at::Tensor integral = density.sum(0) * (32.0 / 20000);
  for (int64_t c = 0; c < 2; ++c) EXPECT_NEAR(integral[c].item<double>(), 1, 1e-9) << c;
}

TEST(StudentTBase, GradCheckOfLatentsAndParameters) {
  StudentTBase base(Spec(), at::kDouble);
  const auto function = [&base](const std::vector<at::Tensor>& in) {
    const auto parameters = base.named_parameters();
    for (const char* name : {"log_degrees", "log_scale"}) {
      const size_t index = name == std::string("log_degrees") ? 1 : 2;
      parameters[std::string("1.") + name].set_data(in[index].detach());
    }
    return std::vector<at::Tensor>{base.LogDensity(1, in[0])};
  };
  // Against differences of what the parameters hold: autograd's gradients are theirs.
  const at::Tensor z = Gauss({2, 3, 4}, 1) * 2;
  const at::Tensor degrees = Gauss({4}, 2), scale = Gauss({4}, 3) * 0.3;
  EXPECT_TRUE(testing::GradCheck(
      [&](const std::vector<at::Tensor>& in) {
        return std::vector<at::Tensor>{function({in[0], degrees, scale})[0]};
      },
      {z}));
  const at::Tensor loss = function({z, degrees, scale})[0].sum();
  base.zero_grad();
  loss.backward();
  const double step = 1e-6;
  for (const auto& [name, at_start] :
       {std::pair<std::string, at::Tensor>{"1.log_degrees", degrees}, {"1.log_scale", scale}}) {
    const at::Tensor gradient = base.named_parameters()[name].grad();
    for (int64_t c = 0; c < 4; ++c) {
      const auto value = [&](double moved) {
        at::Tensor changed = at_start.clone();
        changed[c] += moved;
        const bool of_degrees = name == "1.log_degrees";
        return function({z, of_degrees ? changed : degrees, of_degrees ? scale : changed})[0]
            .sum()
            .item<double>();
      };
      EXPECT_NEAR(gradient[c].item<double>(), (value(step) - value(-step)) / (2 * step), 1e-7)
          << name << " " << c;
    }
  }
}

TEST(BaseDistribution, SumsOverLevelsAndIgnoresEmptyOnes) {
  FlowSpec spec = Spec();
  spec.levels[0].split = false;
  const std::shared_ptr<BaseDistribution> base = MakeBase(spec, at::kDouble);
  const std::vector<at::Tensor> latents = {Gauss({3, 4, 0}, 4), Gauss({3, 2, 8}, 5)};
  const at::Tensor expected = base->LogDensity(1, latents[1]).flatten(1).sum(1);
  EXPECT_LT((base->LogProb(latents) - expected).abs().max().item<double>(), 1e-12);
  spec.base = BaseKind::kNormal;
  const at::Tensor normal = MakeBase(spec, at::kDouble)->LogProb(latents);
  const at::Tensor by_hand =
      -0.5 * (latents[1].square() + std::log(2 * std::numbers::pi)).flatten(1).sum(1);
  EXPECT_LT((normal - by_hand).abs().max().item<double>(), 1e-12);
}

}  // namespace
}  // namespace bflow
