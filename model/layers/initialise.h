// Random starting values. Drawn in float64 from an explicit generator, so that a seed gives the
// same parameters (up to rounding) in float32 and float64.
#ifndef BFLOW_MODEL_LAYERS_INITIALISE_H_
#define BFLOW_MODEL_LAYERS_INITIALISE_H_

#include <cstdint>

#include "ATen/core/Generator.h"
#include "ATen/core/Tensor.h"

namespace bflow {

// A [rows, columns] float64 matrix with orthonormal rows or columns, whichever are fewer; uniform
// (Haar).
at::Tensor RandomOrthogonal(int64_t rows, int64_t columns, at::Generator& generator);

}  // namespace bflow

#endif  // BFLOW_MODEL_LAYERS_INITIALISE_H_
