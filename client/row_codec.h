// Rows to and from the tensors of the wire: raw little-endian bytes. Codes go as UINT8 or INT16
// where they are whole numbers that fit, a quarter or half the bytes of FP32; replies are checked
// against the number of rows that was asked for before anything is read from them.
#ifndef BFLOW_CLIENT_ROW_CODEC_H_
#define BFLOW_CLIENT_ROW_CODEC_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "butterflyflow/v1/flow.pb.h"

namespace bflow::client {

// The smallest of the integer types `allowed` (UINT8, INT16) in which every value is a whole number
// that fits; FP32 if there is none.
butterflyflow::v1::DataType SmallestType(std::span<const float> values,
                                         std::span<const butterflyflow::v1::DataType> allowed);

// `values` are rows of `event_shape`, as UINT8, INT16 (they must fit) or FP32.
butterflyflow::v1::Tensor EncodeRows(std::span<const float> values,
                                     std::span<const int64_t> event_shape,
                                     butterflyflow::v1::DataType dtype);

// A reply tensor of FP32 or FP64 of exactly `count` values. Errors: Internal, naming `field`: a
// server that answers anything else is broken.
absl::StatusOr<std::vector<double>> DecodeScores(const butterflyflow::v1::Tensor& tensor,
                                                 int64_t count, const std::string& field);

// Errors: Internal unless `bytes` has `count` bytes.
absl::Status CheckByteColumn(const std::string& bytes, int64_t count, const std::string& field);

// Bytes of a value; 0 for an unknown type.
int64_t ValueBytes(butterflyflow::v1::DataType dtype);

}  // namespace bflow::client

#endif  // BFLOW_CLIENT_ROW_CODEC_H_
