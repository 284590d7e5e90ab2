// Reader of NumPy's .npy files, and the header of those that are written, versions 1 and 2:
// little-endian, C order, one array.
#ifndef BFLOW_MODEL_DATA_NPY_H_
#define BFLOW_MODEL_DATA_NPY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bflow {

struct NpyArray {
  std::vector<int64_t> shape;
  bool is_integer = false;    // integers are converter codes, floats are NONE
  std::vector<float> values;  // row-major
};

// An array as it lies in the file.
struct NpyView {
  std::vector<int64_t> shape;
  std::string dtype;      // u1, i1, u2, i2, i4, i8, f4 or f8
  std::string_view data;  // row-major, of exactly the size that shape and dtype say
};

// At most 4 dimensions and `max_bytes` of data; the data lie in `bytes`. Errors: InvalidArgument
// naming the place and the header field, DataLoss (short or too long), ResourceExhausted.
absl::StatusOr<NpyView> ParseNpyView(std::string_view bytes, int64_t max_bytes);

// dtypes u1, i1, i2, i4, f4, f8; at most 4 dimensions and 2 GiB. Integers beyond 2^24 in size,
// which a float cannot hold, are an error. Errors as ParseNpyView.
absl::StatusOr<NpyArray> ParseNpy(std::string_view bytes);
absl::StatusOr<NpyArray> ReadNpy(const std::string& path);

// Windows [N, T, C] of an array [N, T, C] or [T', C]; the latter is cut every `hop` frames.
struct NpyWindows {
  int64_t count = 0;
  bool is_integer = false;
  std::vector<float> values;         // [count, window, channels]
  std::vector<int64_t> start_frame;  // of each window: n T for [N, T, C]
};

// A window of an [T', C] array with a NaN is left out. Errors: InvalidArgument (dimensions, fewer
// frames than one window).
absl::StatusOr<NpyWindows> WindowsOfNpy(const NpyArray& array, int64_t window, int64_t channels,
                                        int64_t hop);

enum class NpyType { kUint8, kInt16, kFloat32 };

// What stands before the values in a file of that type and shape, version 1: the values follow as
// they lie in memory, row-major. At most 4 dimensions.
std::string NpyHeader(NpyType type, const std::vector<int64_t>& shape);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_NPY_H_
