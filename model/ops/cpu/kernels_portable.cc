// The kernels with vectors of 16 bytes; the compile flags of this file are set in CMakeLists.txt.
#define BFLOW_KERNEL_NAMESPACE portable
#define BFLOW_VECTOR_BYTES 16
#include "model/ops/cpu/kernels.inc"
