#include "model/ops/cpu/simd_dispatch.h"

#include <atomic>

#include "model/ops/cpu/kernel_tables.h"

namespace bflow::cpu {
namespace {

// -1: the widest.
std::atomic<int> forced_simd = -1;

Simd Widest() {
  static const Simd widest = AvailableSimd().back();
  return widest;
}

}  // namespace

const char* SimdName(Simd simd) {
  switch (simd) {
    case Simd::kPortable:
      return "portable";
    case Simd::kAvx2:
      return "avx2";
    case Simd::kAvx512:
      return "avx512";
  }
  return "unknown";
}

std::vector<Simd> AvailableSimd() {
  std::vector<Simd> available = {Simd::kPortable};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    available.push_back(Simd::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
      available.push_back(Simd::kAvx512);
    }
  }
#endif
  return available;
}

void ForceSimd(std::optional<Simd> simd) {
  forced_simd.store(simd.has_value() ? static_cast<int>(*simd) : -1);
}

Simd CurrentSimd() {
  const int forced = forced_simd.load(std::memory_order_relaxed);
  return forced < 0 ? Widest() : static_cast<Simd>(forced);
}

template <typename T>
const Kernels<T>& CurrentKernels() {
#if defined(__x86_64__)
  switch (CurrentSimd()) {
    case Simd::kAvx512:
      return avx512::Table<T>();
    case Simd::kAvx2:
      return avx2::Table<T>();
    case Simd::kPortable:
      break;
  }
#endif
  return portable::Table<T>();
}

template const Kernels<float>& CurrentKernels<float>();
template const Kernels<double>& CurrentKernels<double>();

}  // namespace bflow::cpu
