// Learning-rate schedules: a linear warm-up from 0, then constant, cosine to 0 or exponential
// decay.
#ifndef BFLOW_MODEL_TRAINING_SCHEDULE_H_
#define BFLOW_MODEL_TRAINING_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace bflow {

enum class ScheduleKind { kConstant, kCosine, kExponential };

// With w = warmup_steps and s the number of updates done before this one (the first has s = 0):
//   s < w:        learning_rate * s / w          (so a warm-up of 1 gives the first step rate 0)
//   kConstant:    learning_rate
//   kCosine:      learning_rate * (1 + cos(pi (s - w) / (total_steps - w))) / 2, 0 from total_steps
//   on kExponential: learning_rate * decay^(s - w)
struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double learning_rate = 2e-3;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;
  double decay = 1;  // per step

  double RateAt(int64_t step) const;
};

// "constant", "cosine" or "exponential". Errors: InvalidArgument.
absl::StatusOr<ScheduleKind> ParseScheduleKind(const std::string& name);
std::string ScheduleName(ScheduleKind kind);

}  // namespace bflow

#endif  // BFLOW_MODEL_TRAINING_SCHEDULE_H_
