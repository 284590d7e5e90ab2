// Everything on images.
#ifndef BFLOW_TESTS_GOLDEN_IMAGE_CASES_H_
#define BFLOW_TESTS_GOLDEN_IMAGE_CASES_H_

#include <map>
#include <string>

#include "tests/golden/compare.h"

namespace bflow::golden {

// By kind.
std::map<std::string, Runner> ImageRunners();

}  // namespace bflow::golden

#endif  // BFLOW_TESTS_GOLDEN_IMAGE_CASES_H_
