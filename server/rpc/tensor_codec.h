// Tensors between the wire (raw little-endian bytes) and the scorer (float rows), and the checks of
// the values themselves.
#ifndef BFLOW_SERVER_RPC_TENSOR_CODEC_H_
#define BFLOW_SERVER_RPC_TENSOR_CODEC_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "butterflyflow/v1/flow.pb.h"
#include "model/scoring/scorer.h"

namespace bflow {

// CRC-32C (Castagnoli, reflected, as in RFC 3720) of bytes.
uint32_t Crc32c(std::string_view bytes);

// Bytes per element; 0 for a type that is none.
int64_t ElementSize(butterflyflow::v1::DataType dtype);
// "FP32", ...
const char* DataTypeName(butterflyflow::v1::DataType dtype);

// Types a model takes as input, most natural first.
std::vector<butterflyflow::v1::DataType> InputTypes(const ModelSignature& signature);

// Type, rank, dimensions, byte count and checksum of `x`, in this order; the number of rows.
absl::StatusOr<int64_t> CheckTensor(const butterflyflow::v1::Tensor& x,
                                    const ModelSignature& signature);

// The values of a checked tensor and what is wrong with each row under the noise convention: not
// finite, outside the channel's range, whole codes where reals are expected and vice versa.
struct DecodedRows {
  HostBatch batch;
  std::vector<RowStatus> status;
};
DecodedRows DecodeRows(const butterflyflow::v1::Tensor& x, int64_t rows,
                       const ModelSignature& signature, NoiseKind noise);

// [rows, dims...] of `values` as `dtype` (FP32 or FP64).
void EncodeScores(const std::vector<double>& values, butterflyflow::v1::DataType dtype,
                  int64_t columns, butterflyflow::v1::Tensor* tensor);
// Rows of samples or latents, shaped like the event, as FP32, INT16 or UINT8 (whole values in
// range).
void EncodeEvents(const std::vector<float>& values, const ModelSignature& signature,
                  butterflyflow::v1::DataType dtype, butterflyflow::v1::Tensor* tensor);

// `values` as FP32 of that shape.
void EncodeFloats(const std::vector<float>& values, const std::vector<int64_t>& shape,
                  butterflyflow::v1::Tensor* tensor);

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_TENSOR_CODEC_H_
