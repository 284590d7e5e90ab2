// Where a quantised event stands among the codes. In the scaled unit a value is x = 2 (v + step u -
// lo) / (hi - lo) - 1 with a code v = lo + k step and its noise u in [0, 1): k + u = (x + 1) (hi -
// lo) / (2 step). The index k is whole; it may be negative or beyond that of hi.
#ifndef BFLOW_MODEL_LAYERS_CODE_GRID_H_
#define BFLOW_MODEL_LAYERS_CODE_GRID_H_

#include "ATen/core/Tensor.h"
#include "model/checkpoint/flow_spec.h"

namespace bflow {

// Values of an event as code and noise, float64, both of the event's shape.
struct CodePosition {
  at::Tensor index;  // k
  at::Tensor noise;  // u
};

// Of the channels of an event: [B, T, C] or [B, C, H, W], as `shape` says, which must have
// channels_of_event. Computes in float64 on the device of what it is given.
class CodeGrid {
 public:
  explicit CodeGrid(const LevelShape& shape);

  // The index carries no gradient; the noise is that of x, below 1. A value up to 1e-9 steps below
  // a code counts as that code with u = 0, since x was rounded.
  CodePosition Split(const at::Tensor& x) const;
  at::Tensor Join(const CodePosition& position) const;

  // Steps per scaled unit, (hi - lo) / (2 step): one per channel, shaped so that it multiplies a
  // batch. On the CPU.
  const at::Tensor& scale() const { return scale_; }

 private:
  at::Tensor scale_;
};

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_CODE_GRID_H_
