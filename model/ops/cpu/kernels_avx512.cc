// The kernels with vectors of 64 bytes; the compile flags of this file are set in CMakeLists.txt.
#define BFLOW_KERNEL_NAMESPACE avx512
#define BFLOW_VECTOR_BYTES 64
#include "model/ops/cpu/kernels.inc"
