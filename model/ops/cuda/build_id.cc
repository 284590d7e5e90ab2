#include "model/ops/cuda/build_id.h"

extern "C" __attribute__((visibility("default"))) const char* bflow_cuda_build_id() {
  static const std::string id = bflow::CudaBuildId();
  return id.c_str();
}
