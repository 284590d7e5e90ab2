// Reader of WFDB records (PhysioNet; formats of header(5) and signal(5) of the WFDB manual): signal
// formats 16, 80 and 212, single- and multi-segment records of fixed or variable layout with gaps,
// several samples per frame (averaged), skew, byte offsets.
#ifndef BFLOW_MODEL_DATA_WFDB_H_
#define BFLOW_MODEL_DATA_WFDB_H_

#include <string>

#include "absl/status/statusor.h"
#include "model/data/waveform.h"

namespace bflow {

// `path` names the record, with or without ".hea". Samples that the format marks as invalid are
// NaN; with several samples per frame a frame is their average, NaN if one of them is invalid. A
// wrong checksum, a short file or parts that contradict each other are errors. Errors: NotFound,
// InvalidArgument (header), Unimplemented (signal format), DataLoss (signal file); the text names
// the header file and line.
absl::StatusOr<WaveformRecord> ReadWfdbRecord(const std::string& path);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WFDB_H_
