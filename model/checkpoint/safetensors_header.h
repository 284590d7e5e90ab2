// The JSON header of a safetensors file, read event by event: nothing is built that the rules of
// docs/checkpoint_format.md do not admit, so a hostile header costs no more than the part before
// its fault.
#ifndef BFLOW_MODEL_CHECKPOINT_SAFETENSORS_HEADER_H_
#define BFLOW_MODEL_CHECKPOINT_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"

namespace bflow {

inline constexpr size_t kMaxSafetensorsHeader = size_t{16} << 20;
inline constexpr size_t kMaxSafetensorsTensors = 65536;
inline constexpr size_t kMaxSafetensorsRank = 8;

struct HeaderTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // in the data
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderTensor> tensors;  // in the order of the header
  std::map<std::string, std::string> metadata;
};

// [A-Za-z0-9_.]{1,128}.
bool IsValidTensorName(std::string_view name);
const char* DTypeName(DType dtype);

// `header`: exactly the N bytes. Errors: DataLoss naming the tensor. Offsets are not compared with
// each other or with the data here.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view header);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_SAFETENSORS_HEADER_H_
