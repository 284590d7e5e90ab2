// bflow::whitening, a linear prediction of every value from those before it: the residual divided
// by its scale, and back in the order of time. The first derivative exists for x alone: the map is
// fitted, not trained.
#ifndef BFLOW_MODEL_OPS_WHITENING_H_
#define BFLOW_MODEL_OPS_WHITENING_H_

#include <tuple>

#include "ATen/core/Tensor.h"

namespace bflow {

// x: [B, T, C], T >= K. map: {lags [C, C, K], instantaneous [C, C], bias [C], log_scale [C],
// head_weight [KC, KC], head_bias [KC], head_log_scale [KC]} of x's dtype, as WhiteningSpec
// (model/checkpoint/flow_spec.h) says; entries of instantaneous and head_weight on or above the
// diagonal are ignored. Returns y and the log-determinant of one row, a scalar of x's dtype:
// -+((T - K) sum log_scale + sum head_log_scale). Called through the dispatcher.
std::tuple<at::Tensor, at::Tensor> whitening(const at::Tensor& x, at::TensorList map, bool inverse);

// The same from plain ATen operators, the inverse by one dense triangular solve: the oracle of the
// tests.
std::tuple<at::Tensor, at::Tensor> WhiteningReference(const at::Tensor& x, at::TensorList map,
                                                      bool inverse);

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_WHITENING_H_
