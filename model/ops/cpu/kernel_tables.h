// The compiled versions of the kernels, one namespace per instruction set.
#ifndef BFLOW_MODEL_OPS_CPU_KERNEL_TABLES_H_
#define BFLOW_MODEL_OPS_CPU_KERNEL_TABLES_H_

#include "model/ops/cpu/kernels.h"

namespace bflow::cpu {

namespace portable {
template <typename T>
const Kernels<T>& Table();
}  // namespace portable
namespace avx2 {
template <typename T>
const Kernels<T>& Table();
}  // namespace avx2
namespace avx512 {
template <typename T>
const Kernels<T>& Table();
}  // namespace avx512

}  // namespace bflow::cpu

#endif  // BFLOW_MODEL_OPS_CPU_KERNEL_TABLES_H_
