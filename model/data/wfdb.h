// Reader of WFDB records (PhysioNet): header(5), signal(5). Single-segment and multi-segment
// records (fixed and variable layout, gaps) with signal files of formats 16, 80 and 212; several
// samples per frame, skew and byte offsets. Codes equal those of the Python package `wfdb` with its
// defaults: several samples of a frame become the quotient of their sum by their number, cut
// towards 0, an invalid sample taking part with its code; a code equal to the format's invalid code
// is NaN.
#ifndef BFLOW_MODEL_DATA_WFDB_H_
#define BFLOW_MODEL_DATA_WFDB_H_

#include <string>

#include "absl/status/statusor.h"
#include "model/data/waveform.h"

namespace bflow {

// `path`: the header file, with or without ".hea". Signal files and segments named by a header must
// lie in the same folder. A checksum that does not fit is an error; initial value and checksum both
// 0 mean that the writer did not know them. Errors name record, header line and segment: NotFound
// (a file), InvalidArgument (header syntax), Unimplemented (a format), DataLoss (short or
// inconsistent files), ResourceExhausted (256 signals, 100,000 segments, 2 GiB a file, 2^31 codes a
// record).
absl::StatusOr<WaveformRecord> ReadWfdbRecord(const std::string& path);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WFDB_H_
