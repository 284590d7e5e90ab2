// Which compiled version of the kernels runs: the widest that the processor has, unless a test asks
// for another one.
#ifndef BFLOW_MODEL_OPS_CPU_SIMD_DISPATCH_H_
#define BFLOW_MODEL_OPS_CPU_SIMD_DISPATCH_H_

#include <optional>
#include <vector>

#include "model/ops/cpu/kernels.h"

namespace bflow::cpu {

// kPortable: 16-byte vectors that the compiler lowers to whatever the target has.
enum class Simd { kPortable, kAvx2, kAvx512 };

const char* SimdName(Simd simd);
// Every version that was compiled and that this processor can run, narrowest first.
std::vector<Simd> AvailableSimd();
// For tests and benchmarks: all operators use this version from now on; nullopt gives back the
// choice.
void ForceSimd(std::optional<Simd> simd);
Simd CurrentSimd();

// T: float or double.
template <typename T>
const Kernels<T>& CurrentKernels();

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_SIMD_DISPATCH_H_
