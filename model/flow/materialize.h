// From the bytes of a checked model file to tensors: the only place where the two meet.
#ifndef BFLOW_MODEL_FLOW_MATERIALIZE_H_
#define BFLOW_MODEL_FLOW_MATERIALIZE_H_

#include <string>

#include "ATen/core/Tensor.h"
#include "model/checkpoint/safetensors.h"

namespace bflow {

// A copy of `view` in memory of its own, of the dtype it is stored in (F32, F64 or I64).
at::Tensor ToTensor(const TensorView& view);

// The bytes of a contiguous float32, float64 or int64 CPU tensor under `name`; they stay the
// tensor's.
TensorToWrite ToWritable(const std::string& name, const at::Tensor& tensor);

}  // namespace bflow

#endif  // BFLOW_MODEL_FLOW_MATERIALIZE_H_
