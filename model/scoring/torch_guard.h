// THE place where exceptions of the tensor library become an absl::Status. Everything that calls
// ATen on behalf of a server or a tool runs inside GuardTorch; nothing else in this tree catches
// c10::Error.
#ifndef BFLOW_MODEL_SCORING_TORCH_GUARD_H_
#define BFLOW_MODEL_SCORING_TORCH_GUARD_H_

#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bflow {

// Runs `body` and returns its status. An exception becomes ResourceExhausted (out of memory) or
// Internal; the text names `operation` and the kind of exception, never the exception's own text,
// which may hold values of the tensors.
absl::Status GuardTorch(std::string_view operation, absl::FunctionRef<absl::Status()> body);

// The same for a body that returns absl::StatusOr<T>.
template <typename Body>
auto GuardTorchOr(std::string_view operation, Body&& body) -> std::invoke_result_t<Body> {
  std::invoke_result_t<Body> result = absl::UnknownError("body did not run");
  absl::Status status = GuardTorch(operation, [&] {
    result = std::forward<Body>(body)();
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return result;
}

// One thread inside an operator and one between operators, for the whole process: a server gets its
// parallelism from its workers. Call it before the first operator runs; later calls change the
// inner number only.
void UseSingleThreadedTorch();

}  // namespace bflow

#endif  // BFLOW_MODEL_SCORING_TORCH_GUARD_H_
