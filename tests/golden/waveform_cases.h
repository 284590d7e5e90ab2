// Butterflies on vectors and everything on waveforms.
#ifndef BFLOW_TESTS_GOLDEN_WAVEFORM_CASES_H_
#define BFLOW_TESTS_GOLDEN_WAVEFORM_CASES_H_

#include <map>
#include <string>

#include "tests/golden/compare.h"

namespace bflow::golden {

// By kind.
std::map<std::string, Runner> WaveformRunners();

}  // namespace bflow::golden

#endif  // BFLOW_TESTS_GOLDEN_WAVEFORM_CASES_H_
