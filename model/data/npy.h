// NumPy's .npy files (numpy.lib.format, versions 1.0 and 2.0): little-endian C-order arrays.
#ifndef BFLOW_MODEL_DATA_NPY_H_
#define BFLOW_MODEL_DATA_NPY_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace bflow {

struct NpyArray {
  std::vector<int64_t> shape;
  bool is_integer = false;    // codes; else real values
  std::vector<float> values;  // row-major
};

// dtypes u1, i1, i2, i4 (within float's exact integers), f4, f8. Errors: InvalidArgument naming the
// part of the header, never a value.
absl::StatusOr<NpyArray> ParseNpy(std::string_view bytes);
absl::StatusOr<NpyArray> ReadNpy(const std::string& path);

// The bytes of a version 1.0 file. product(shape) = values.size().
std::string SerializeNpy(std::span<const int64_t> shape, std::span<const float> values);
std::string SerializeNpy(std::span<const int64_t> shape, std::span<const int16_t> values);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_NPY_H_
