// Decoder of WFDB signal files: signal(5), formats 16, 80 and 212.
#ifndef BFLOW_MODEL_DATA_WFDB_SIGNAL_H_
#define BFLOW_MODEL_DATA_WFDB_SIGNAL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/data/flac.h"
#include "model/data/wfdb_header.h"

namespace bflow {

// 16, 80, 212, and 508, 516, 524: FLAC of at most 8, 16, 24 bits.
bool IsSupportedWfdbFormat(int format);
bool IsFlacWfdbFormat(int format);
// The code that marks an invalid sample (-32768 for 16 bits). `format` must be supported.
int WfdbInvalidCode(int format);
// Bits of a sample in the file, also the resolution of a header that names none.
int WfdbFormatBits(int format);

// One signal of a signal file, one code per frame.
struct DecodedWfdbSignal {
  std::vector<float> codes;  // NaN where invalid
  int64_t sum = 0;           // of all samples as stored, what the checksum is made of
  int64_t first = 0;         // first sample as stored
};

// Frames that `bytes` holds after `offset`, for frames of `samples_per_frame` samples.
int64_t WfdbFramesInFile(int format, int64_t bytes, int64_t offset, int64_t samples_per_frame);

// `bytes`: the whole file; `signals`: the lines of all its signals in order, of one format. The
// caller has checked that `frames` frames lie in the file after `offset`.
std::vector<DecodedWfdbSignal> DecodeWfdbFile(std::string_view bytes, int64_t offset,
                                              const std::vector<const WfdbSignalLine*>& signals,
                                              int64_t frames);

// The same of a FLAC file, whose channels are the signals.
std::vector<DecodedWfdbSignal> DecodeFlacFile(const FlacSamples& samples,
                                              const std::vector<const WfdbSignalLine*>& signals,
                                              int64_t frames);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WFDB_SIGNAL_H_
