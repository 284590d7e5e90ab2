// The tensors of a model file against its flow_spec: the set equals exactly what the spec implies,
// and every value keeps the flow finite and invertible.
#include <cmath>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/checkpoint/repository.h"
#include "model/checkpoint/safetensors_header.h"

namespace bflow {
namespace {

// Largest |log|det|| of a 2x2 and |log| of a scale: e^20 is 4.9e8, beyond it float32
// loses every digit on the way back.
constexpr double kMaxAbsLog = 20;
// Of a lattice: codes and their differences stay exact in float64, with room for noise.
constexpr int64_t kMostCode = int64_t{1} << 40;

absl::Status Fault(const std::string& tensor, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("tensor ", tensor, ": ", what));
}

// Reads elements one at a time, so that checking needs no second copy of the weights.
class FloatReader {
 public:
  explicit FloatReader(const TensorView& tensor)
      : data_(tensor.data.data()),
        is_double_(tensor.dtype == DType::kF64),
        size_(tensor.data.size() / static_cast<size_t>(ItemSize(tensor.dtype))) {}

  size_t size() const { return size_; }
  double operator[](size_t i) const {
    if (is_double_) {
      double value;
      std::memcpy(&value, data_ + i * sizeof(value), sizeof(value));
      return value;
    }
    float value;
    std::memcpy(&value, data_ + i * sizeof(value), sizeof(value));
    return value;
  }

 private:
  const std::byte* data_;
  bool is_double_;
  size_t size_;
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (int64_t d : shape) absl::StrAppend(&text, text.size() > 1 ? ", " : "", d);
  return text + "]";
}

// w [blocks, 2, pairs, 2], entry w[b, h, j, o]; det = w00 w11 - w10 w01 of each (b, j).
absl::Status CheckFactor(const TensorView& tensor) {
  const FloatReader w(tensor);
  const size_t blocks = static_cast<size_t>(tensor.shape[0]);
  const size_t pairs = static_cast<size_t>(tensor.shape[2]);
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t j = 0; j < pairs; ++j) {
      const size_t row0 = (2 * b * pairs + j) * 2;
      const size_t row1 = row0 + 2 * pairs;
      const double det = w[row0] * w[row1 + 1] - w[row1] * w[row0 + 1];
      // Not finite for det 0, overflow or NaN.
      if (!(std::fabs(std::log(std::fabs(det))) <= kMaxAbsLog)) {
        return Fault(tensor.name, absl::StrCat("2x2 matrix [", b, ",:,", j,
                                               ",:] has |log|det|| above 20 or is singular"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFinite(const TensorView& tensor) {
  const FloatReader values(tensor);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return Fault(tensor.name, absl::StrCat("element ", i, " is not finite"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLog(const TensorView& tensor) {
  const FloatReader values(tensor);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!(std::fabs(values[i]) <= kMaxAbsLog)) {
      return Fault(tensor.name, absl::StrCat("element ", i, " is beyond +-20"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSigns(const TensorView& tensor) {
  const FloatReader values(tensor);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::fabs(values[i]) != 1) {
      return Fault(tensor.name, absl::StrCat("element ", i, " is neither 1 nor -1"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPermutation(const TensorView& tensor) {
  BFLOW_ASSIGN_OR_RETURN(std::vector<int64_t> indices, ToIndices(tensor));
  std::vector<bool> seen(indices.size(), false);
  for (size_t i = 0; i < indices.size(); ++i) {
    const uint64_t index = static_cast<uint64_t>(indices[i]);  // a negative one becomes too large
    if (index >= seen.size() || seen[index]) {
      return Fault(tensor.name, absl::StrCat("is not a permutation: entry ", i,
                                             " is out of range or appears twice"));
    }
    seen[index] = true;
  }
  return absl::OkStatus();
}

absl::Status CheckIncreasing(const TensorView& tensor) {
  BFLOW_ASSIGN_OR_RETURN(std::vector<int64_t> codes, ToIndices(tensor));
  for (size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] < -kMostCode || codes[i] > kMostCode) {
      return Fault(tensor.name, absl::StrCat("element ", i, " is beyond +-2^40"));
    }
    if (i > 0 && codes[i] <= codes[i - 1]) {
      return Fault(tensor.name, absl::StrCat("element ", i, " is not above the one before it"));
    }
  }
  return absl::OkStatus();
}

// log|det| by elimination with partial pivoting, compared as a mean over the rows.
absl::Status CheckInvertible(const TensorView& tensor) {
  const FloatReader values(tensor);
  const size_t n = static_cast<size_t>(tensor.shape[0]);
  std::vector<double> a(n * n);
  for (size_t i = 0; i < a.size(); ++i) a[i] = values[i];
  double log_det = 0;
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t i = k + 1; i < n; ++i) {
      if (std::fabs(a[i * n + k]) > std::fabs(a[pivot * n + k])) pivot = i;
    }
    for (size_t j = 0; j < n && pivot != k; ++j) std::swap(a[k * n + j], a[pivot * n + j]);
    log_det += std::log(std::fabs(a[k * n + k]));
    for (size_t i = k + 1; i < n; ++i) {
      const double factor = a[i * n + k] / a[k * n + k];
      for (size_t j = k + 1; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
    }
  }
  // Not finite for a singular matrix, overflow or NaN.
  if (std::fabs(log_det) <= kMaxAbsLog * static_cast<double>(n)) return absl::OkStatus();
  return Fault(tensor.name, "is singular, or its |log|det|| is above 20 per row");
}

// [O, ...]: a zero row has no direction.
absl::Status CheckDirections(const TensorView& tensor) {
  const FloatReader values(tensor);
  const size_t rows = static_cast<size_t>(tensor.shape[0]), width = values.size() / rows;
  for (size_t o = 0; o < rows; ++o) {
    double squares = 0;
    for (size_t i = 0; i < width; ++i) squares += values[o * width + i] * values[o * width + i];
    if (!(squares > 0)) {
      return Fault(tensor.name, absl::StrCat("output channel ", o, " is all zeros"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckValues(const TensorView& tensor, TensorRule rule) {
  if (rule == TensorRule::kPermutation) return CheckPermutation(tensor);
  if (rule == TensorRule::kIncreasing) return CheckIncreasing(tensor);
  BFLOW_RETURN_IF_ERROR(CheckFinite(tensor));
  switch (rule) {
    case TensorRule::kLog:
      return CheckLog(tensor);
    case TensorRule::kSign:
      return CheckSigns(tensor);
    case TensorRule::kFactor:
      return CheckFactor(tensor);
    case TensorRule::kInvertible:
      return CheckInvertible(tensor);
    case TensorRule::kDirection:
      return CheckDirections(tensor);
    case TensorRule::kFinite:
    case TensorRule::kPermutation:
    case TensorRule::kIncreasing:
      break;
  }
  return absl::OkStatus();
}

absl::Status CheckOne(const TensorSpec& expected, const TensorView& tensor, DType float_dtype) {
  if (expected.is_index() != (tensor.dtype == DType::kI64)) {
    return Fault(expected.name, absl::StrCat("is ", DTypeName(tensor.dtype), ", expected ",
                                             expected.is_index() ? "I64" : "F32 or F64"));
  }
  if (!expected.is_index() && tensor.dtype != float_dtype) {
    return Fault(expected.name,
                 absl::StrCat("is ", DTypeName(tensor.dtype), ", the float tensors before it are ",
                              DTypeName(float_dtype)));
  }
  if (tensor.shape != expected.shape) {
    return Fault(expected.name, absl::StrCat("has shape ", ShapeText(tensor.shape), ", expected ",
                                             ShapeText(expected.shape)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTensors(const FlowSpec& spec, const SafetensorsFile& tensors) {
  const std::vector<TensorSpec> expected = ExpectedTensors(spec);
  std::map<std::string_view, const TensorSpec*> by_name;
  for (const TensorSpec& tensor : expected) by_name.emplace(tensor.name, &tensor);
  for (const TensorView& tensor : tensors.tensors()) {
    if (!by_name.contains(tensor.name)) {
      return Fault(tensor.name, "the flow_spec has no such tensor");
    }
  }
  DType float_dtype = DType::kI64;  // until the first float tensor
  for (const TensorSpec& wanted : expected) {
    const TensorView* tensor = tensors.Find(wanted.name);
    if (tensor == nullptr) return Fault(wanted.name, "missing");
    if (!wanted.is_index() && float_dtype == DType::kI64) float_dtype = tensor->dtype;
    BFLOW_RETURN_IF_ERROR(CheckOne(wanted, *tensor, float_dtype));
  }
  for (const TensorView& tensor : tensors.tensors()) {
    BFLOW_RETURN_IF_ERROR(CheckValues(tensor, by_name.at(tensor.name)->rule));
  }
  return absl::OkStatus();
}

}  // namespace bflow
