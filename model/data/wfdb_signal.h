// Signal files of WFDB (signal(5)): bytes to samples, frames and averages.
#ifndef BFLOW_MODEL_DATA_WFDB_SIGNAL_H_
#define BFLOW_MODEL_DATA_WFDB_SIGNAL_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/data/waveform.h"
#include "model/data/wfdb_header.h"

namespace bflow {

// The signals of a single-segment header, in its order. `folder` holds the signal files;
// `header_file` is for error texts. `frames` receives the length, from the file's size where the
// header does not say.
absl::StatusOr<std::vector<WaveformSignal>> ReadWfdbSignals(const WfdbHeader& header,
                                                            const std::string& folder,
                                                            const std::string& header_file,
                                                            int64_t* frames);

}  // namespace bflow

#endif  // BFLOW_MODEL_DATA_WFDB_SIGNAL_H_
