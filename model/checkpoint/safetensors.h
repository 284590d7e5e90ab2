// Strict reader and writer of the safetensors format: 8 bytes little-endian header length N, N
// bytes of JSON, then the data. There is no state in which a tensor exists unvalidated.
#ifndef BFLOW_MODEL_CHECKPOINT_SAFETENSORS_H_
#define BFLOW_MODEL_CHECKPOINT_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/checkpoint/flow_spec.h"

namespace bflow {

// A tensor inside a SafetensorsFile, which owns the bytes. `data` need not be aligned: copy it out.
struct TensorView {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

class SafetensorsFile {
 public:
  // Takes ownership of the whole file. Rules and bounds: docs/checkpoint_format.md. Errors:
  // DataLoss naming the tensor (by index where the name itself is at fault).
  static absl::StatusOr<SafetensorsFile> Parse(std::string bytes);

  SafetensorsFile(SafetensorsFile&&) = default;
  SafetensorsFile& operator=(SafetensorsFile&&) = default;

  // In the order of their data.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const TensorView* Find(std::string_view name) const;  // nullptr: absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;

  // On the heap: moving the file keeps the addresses that `data` points to.
  std::unique_ptr<const std::string> bytes_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// A tensor to be written; the caller owns the bytes (little-endian, row-major).
struct TensorToWrite {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// The bytes of a file that Parse accepts. Errors: InvalidArgument (name, shape against size,
// duplicate).
absl::StatusOr<std::string> SerializeSafetensors(
    const std::vector<TensorToWrite>& tensors, const std::map<std::string, std::string>& metadata);

// The values of a float tensor widened to double / of an index tensor. Errors: InvalidArgument
// (dtype).
absl::StatusOr<std::vector<double>> ToDoubles(const TensorView& tensor);
absl::StatusOr<std::vector<int64_t>> ToIndices(const TensorView& tensor);

}  // namespace bflow

#endif  // BFLOW_MODEL_CHECKPOINT_SAFETENSORS_H_
