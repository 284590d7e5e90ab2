// The codes that a converter delivers may be fewer than the numbers between them: a gain that was
// applied to integers leaves gaps, and a density over all integers pays for every one of them. The
// lattice gives each code that the training saw its rank, on the same grid, so that the layers
// after it see a signal without gaps:
//   a seen code c with the next one c + g:  [c, c + 1)     -> [r, r + 1 - eps)
//   what lies between, for g > 1:           [c + 1, c + g) -> [r + 1 - eps, r + 1)
// piecewise linear, eps = 0.001, the identity where g = 1; beyond the first and the last seen code
// unit steps go on. The first seen code is its own rank. log_det = sum log slope.
#ifndef BFLOW_MODEL_LAYERS_LATTICE_H_
#define BFLOW_MODEL_LAYERS_LATTICE_H_

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "model/checkpoint/flow_spec.h"
#include "model/layers/bijector.h"
#include "model/layers/code_grid.h"

namespace bflow {

// Of a channel's cell of a seen code with a gap after it, what the codes of the gap get.
inline constexpr double kLatticeGap = 0.001;

// Buffers: codes.C I64 [sizes[C]], ascending indices of the grid; 0, 1, 2, .. (the identity) until
// they are fitted or loaded. Computes in float64; takes x of any dtype and returns float64.
class LatticeLayer : public Bijector {
 public:
  // `shape` has channels_of_event.
  LatticeLayer(const LatticeSpec& spec, const LevelShape& shape);

  Transformed Forward(const at::Tensor& x) override;
  Transformed Inverse(const at::Tensor& z) override;

  // The rank of each code of channel `channel`, seen or not: where its cell goes.
  at::Tensor Ranks(int64_t channel, const at::Tensor& codes) const;

 private:
  Transformed Apply(const at::Tensor& x, bool inverse) const;

  CodeGrid grid_;
  std::vector<at::Tensor> codes_;  // of each channel
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_LATTICE_H_
