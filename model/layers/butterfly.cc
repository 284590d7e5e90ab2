#include "model/layers/butterfly.h"

#include <algorithm>
#include <numbers>
#include <string>

#include "ATen/ops/cat.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "model/ops/butterfly.h"

namespace bflow {
namespace {

// Rotations by angles uniform in [0, 2 pi): w00 = w11 = cos, w01 = -sin, w10 = +sin.
at::Tensor RandomRotations(int64_t blocks, int64_t matrices, at::Generator& generator) {
  const at::Tensor angle =
      at::rand({blocks, matrices}, generator, at::kDouble) * (2 * std::numbers::pi);
  const at::Tensor cosine = angle.cos(), sine = angle.sin();
  return at::stack({at::stack({cosine, -sine}, 2), at::stack({sine, cosine}, 2)}, 1).contiguous();
}

// d = w00 w11 - w10 w01 of every 2x2, [2^level, matrices].
at::Tensor Determinants(const at::Tensor& w) {
  const at::Tensor w0 = w.select(1, 0), w1 = w.select(1, 1);
  return w0.select(2, 0) * w1.select(2, 1) - w1.select(2, 0) * w0.select(2, 1);
}

}  // namespace

ButterflyLayer::ButterflyLayer(const ButterflySpec& spec, int64_t size, at::Generator& generator,
                               at::ScalarType dtype)
    : ButterflyLayer(ButterflyRounds(spec, size), spec.shared, !spec.partitions.empty(), generator,
                     dtype) {
  flatten_ = spec.flatten;
}

ButterflyLayer::ButterflyLayer(const std::vector<std::vector<ButterflyPart>>& rounds, bool shared,
                               bool partitioned, at::Generator& generator, at::ScalarType dtype) {
  const auto child = [](torch::nn::Module& parent, const std::string& name) {
    return parent.register_module(name, std::make_shared<torch::nn::Module>(name));
  };
  std::shared_ptr<torch::nn::Module> rounds_module = partitioned ? child(*this, "rounds") : nullptr;
  for (size_t r = 0; r < rounds.size(); ++r) {
    std::vector<Part>& parts = rounds_.emplace_back();
    std::shared_ptr<torch::nn::Module> parts_module =
        partitioned ? child(*child(*rounds_module, absl::StrCat(r)), "parts") : nullptr;
    for (size_t p = 0; p < rounds[r].size(); ++p) {
      const ButterflyPart& shape = rounds[r][p];
      Part& part = parts.emplace_back();
      part.size = shape.size;
      auto factors = partitioned ? child(*child(*parts_module, absl::StrCat(p)), "factors")
                                 : child(*this, "factors");
      for (size_t f = 0; f < shape.levels.size(); ++f) {
        const int64_t blocks = int64_t{1} << shape.levels[f];
        const at::Tensor start =
            RandomRotations(blocks, shared ? 1 : shape.size / (2 * blocks), generator);
        part.factors.push_back(factors->register_parameter(absl::StrCat(f), start.to(dtype)));
      }
    }
  }
}

Transformed ButterflyLayer::ApplyPart(const at::Tensor& x,
                                      const std::vector<at::Tensor>& factors) const {
  auto [y, log_det] = butterfly(x, factors);
  return {y, log_det};
}

// w00' = w11/d, w01' = -w01/d, w10' = -w10/d, w11' = w00/d.
std::vector<at::Tensor> ButterflyLayer::InverseFactors(const std::vector<at::Tensor>& factors) {
  std::vector<at::Tensor> inverse;
  for (auto factor = factors.rbegin(); factor != factors.rend(); ++factor) {
    const at::Tensor w = factor->to(at::kDouble);
    const at::Tensor w0 = w.select(1, 0), w1 = w.select(1, 1);
    const at::Tensor row0 = at::stack({w1.select(2, 1), -w0.select(2, 1)}, 2);
    const at::Tensor row1 = at::stack({-w1.select(2, 0), w0.select(2, 0)}, 2);
    const at::Tensor d = Determinants(w).unsqueeze(1).unsqueeze(3);
    inverse.push_back((at::stack({row0, row1}, 1) / d).to(factor->scalar_type()));
  }
  return inverse;
}

Transformed ButterflyLayer::Apply(const at::Tensor& x, bool inverse) const {
  const bool hwc = flatten_ == ImageFlattening::kHwc;
  const at::Tensor input = hwc ? x.permute({0, 2, 3, 1}) : x;
  at::Tensor h = input.flatten(1);
  at::Tensor log_det = at::zeros({}, x.options().dtype(at::kDouble));
  for (size_t i = 0; i < rounds_.size(); ++i) {
    const std::vector<Part>& parts = rounds_[inverse ? rounds_.size() - 1 - i : i];
    std::vector<at::Tensor> values;
    int64_t begin = 0;
    for (const Part& part : parts) {
      const bool frozen = part.log_det.defined();
      const at::Tensor piece = parts.size() == 1 ? h : h.narrow(1, begin, part.size).contiguous();
      begin += part.size;
      if (part.factors.empty()) {  // the identity
        values.push_back(piece);
        continue;
      }
      const Transformed y = ApplyPart(piece, !inverse ? part.factors
                                             : frozen ? part.inverse_factors
                                                      : InverseFactors(part.factors));
      values.push_back(y.value);
      if (!frozen) {
        log_det = log_det + y.log_det;
      } else {
        log_det = inverse ? log_det - part.log_det : log_det + part.log_det;
      }
    }
    h = values.size() == 1 ? values[0] : at::cat(values, 1);
  }
  const at::Tensor output = h.reshape(input.sizes());
  return {hwc ? output.permute({0, 3, 1, 2}) : output, log_det.expand({x.size(0)})};
}

Transformed ButterflyLayer::Forward(const at::Tensor& x) { return Apply(x, /*inverse=*/false); }

Transformed ButterflyLayer::Inverse(const at::Tensor& z) { return Apply(z, /*inverse=*/true); }

void ButterflyLayer::StartNearIdentity(int64_t /*block*/) {
  const c10::NoGradGuard no_grad;
  for (at::Tensor& w : parameters()) {  // of shape [blocks, 2, matrices, 2]
    w.zero_();
    w.select(1, 0).select(2, 0).fill_(1);
    w.select(1, 1).select(2, 1).fill_(1);
  }
}

void ButterflyLayer::Freeze() {
  const c10::NoGradGuard no_grad;
  for (std::vector<Part>& parts : rounds_) {
    for (Part& part : parts) {
      part.inverse_factors = InverseFactors(part.factors);
      if (part.factors.empty()) continue;  // the identity, which Apply passes by
      part.log_det = at::zeros({}, part.factors[0].options().dtype(at::kDouble));
      for (const at::Tensor& factor : part.factors) {
        const at::Tensor log_d = Determinants(factor.to(at::kDouble)).abs().log();
        // A 2x2 that is shared counts once per pair: size / 2 pairs in all.
        part.log_det += log_d.sum() * (part.size / (2 * log_d.numel()));
      }
    }
  }
}

}  // namespace bflow
