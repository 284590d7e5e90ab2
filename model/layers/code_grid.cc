#include "model/layers/code_grid.h"

#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/tensor.h"

namespace bflow {
namespace {

constexpr double kRounding = 1e-9;  // of k + u, in steps
constexpr double kBelowOne = 1 - 0x1p-53;

}  // namespace

CodeGrid::CodeGrid(const LevelShape& shape) {
  TORCH_CHECK(static_cast<int64_t>(shape.channels_of_event.size()) == shape.channels, "codes of ",
              shape.channels_of_event.size(), " channels, expected ", shape.channels);
  std::vector<double> scale;
  for (const ChannelSpec& channel : shape.channels_of_event) {
    scale.push_back((channel.hi - channel.lo) / (2 * channel.step));
  }
  scale_ = at::tensor(scale, at::kDouble);
  scale_ = shape.is_image ? scale_.view({1, -1, 1, 1}) : scale_.view({1, 1, -1});
}

CodePosition CodeGrid::Split(const at::Tensor& x) const {
  const at::Tensor steps = (x.to(at::kDouble) + 1) * scale_.to(x.device());
  const at::Tensor index = (steps.detach() + kRounding).floor();
  return {index, (steps - index).clamp(0, kBelowOne)};
}

at::Tensor CodeGrid::Join(const CodePosition& position) const {
  return (position.index + position.noise) / scale_.to(position.index.device()) - 1;
}

}  // namespace bflow
