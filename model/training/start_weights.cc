#include "model/training/start_weights.h"

#include <cstddef>
#include <vector>

#include "ATen/core/Tensor.h"
#include "c10/core/GradMode.h"
#include "model/checkpoint/flow_spec.h"

namespace bflow {

void SetButterfliesToIdentity(Flow& flow) {
  const c10::NoGradGuard no_grad;
  const std::vector<TensorSpec> expected = ExpectedTensors(flow.spec());
  auto tensors = flow.NamedTensors();  // in the same order
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].rule != TensorRule::kFactor) continue;
    at::Tensor factor = tensors[i].second;  // [blocks, 2, pairs, 2]
    factor.zero_();
    for (const int64_t h : {0, 1}) factor.select(1, h).select(2, h).fill_(1);
  }
}

}  // namespace bflow
