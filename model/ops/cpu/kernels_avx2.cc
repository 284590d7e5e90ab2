// The kernels with vectors of 32 bytes; the compile flags of this file are set in CMakeLists.txt.
#define BFLOW_KERNEL_NAMESPACE avx2
#define BFLOW_VECTOR_BYTES 32
#include "model/ops/cpu/kernels.inc"
