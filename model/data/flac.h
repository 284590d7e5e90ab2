// Decoder of FLAC streams (RFC 9639) in memory, by libFLAC.
#ifndef BFLOW_MODEL_DATA_FLAC_H_
#define BFLOW_MODEL_DATA_FLAC_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace bflow {

struct FlacSamples {
  int channels = 0;
  int bits = 0;                 // per sample
  std::vector<int32_t> values;  // [samples, channels]
  bool whole = true;            // false: the stream goes on

  int64_t samples() const {
    return channels == 0 ? 0 : static_cast<int64_t>(values.size()) / channels;
  }
};

// The stream's first samples, as many as fit in `most` values: a few bytes can stand for gigabytes.
// Errors: DataLoss (not a FLAC stream, damaged, channels or bits that change).
absl::StatusOr<FlacSamples> DecodeFlac(std::string_view bytes, int64_t most);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_FLAC_H_
