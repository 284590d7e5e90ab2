#include "model/flow/materialize.h"

#include <cstring>
#include <span>

#include "ATen/ops/empty.h"

namespace bflow {
namespace {

at::ScalarType ScalarTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kF64:
      return at::kDouble;
    case DType::kI64:
      return at::kLong;
  }
  TORCH_CHECK(false, "unknown DType");
}

DType DTypeOf(at::ScalarType type) {
  if (type == at::kFloat) return DType::kF32;
  if (type == at::kDouble) return DType::kF64;
  TORCH_CHECK(type == at::kLong, "a model file holds float32, float64 and int64 only");
  return DType::kI64;
}

}  // namespace

at::Tensor ToTensor(const TensorView& view) {
  at::Tensor tensor = at::empty(view.shape, ScalarTypeOf(view.dtype));
  TORCH_CHECK(tensor.nbytes() == view.data.size(), "tensor view of a wrong size");
  if (!view.data.empty())
    std::memcpy(tensor.mutable_data_ptr(), view.data.data(), view.data.size());
  return tensor;
}

TensorToWrite ToWritable(const std::string& name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous() && tensor.is_cpu(),
              "only contiguous CPU tensors can be written");
  return {name, DTypeOf(tensor.scalar_type()), tensor.sizes().vec(),
          std::span(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes())};
}

}  // namespace bflow
