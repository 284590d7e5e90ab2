// What the CUDA plugin and the program that loads it must agree on: our version, since the
// operators' schemas are the program's, and torch's, whose C++ interface has no other guard.
#ifndef BFLOW_MODEL_OPS_CUDA_BUILD_ID_H_
#define BFLOW_MODEL_OPS_CUDA_BUILD_ID_H_

#include <string>

#include "base/version.h"
#include "torch/version.h"

namespace bflow {

inline constexpr char kCudaPluginFile[] = "libbflow_cuda.so";
inline constexpr char kCudaBuildIdSymbol[] = "bflow_cuda_build_id";  // const char* (*)()

inline std::string CudaBuildId() {
  return std::string("bflow ") + kVersion + ", torch " + TORCH_VERSION;
}

}  // namespace bflow

#endif  // BFLOW_MODEL_OPS_CUDA_BUILD_ID_H_
