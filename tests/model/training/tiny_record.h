// A small record for tests of the trainer.
#ifndef BFLOW_TESTS_MODEL_TRAINING_TINY_RECORD_H_
#define BFLOW_TESTS_MODEL_TRAINING_TINY_RECORD_H_

#include <cstdint>
#include <string>

#include "model/data/waveform.h"

namespace bflow {

// Two noisy oscillations of 12-bit codes, signals A and B.
WaveformRecord TinyRecord(int64_t frames);

// The same as FOLDER/tiny.hea and FOLDER/tiny.dat, WFDB format 16.
void WriteTinyRecord(const std::string& folder, int64_t frames);

}  // namespace bflow

#endif  // BFLOW_TESTS_MODEL_TRAINING_TINY_RECORD_H_
