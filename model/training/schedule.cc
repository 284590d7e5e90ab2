#include "model/training/schedule.h"

#include <cmath>
#include <numbers>

#include "absl/status/status.h"

namespace bflow {

double Schedule::RateAt(int64_t step) const {
  if (step < warmup_steps) {
    return learning_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
  }
  double done = static_cast<double>(step - warmup_steps);
  switch (kind) {
    case ScheduleKind::kConstant:
      return learning_rate;
    case ScheduleKind::kExponential:
      return learning_rate * std::pow(decay, done);
    case ScheduleKind::kCosine:
      break;
  }
  if (step >= total_steps) return 0;
  double length = static_cast<double>(total_steps - warmup_steps);
  return learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * done / length));
}

absl::StatusOr<ScheduleKind> ParseScheduleKind(const std::string& name) {
  if (name == "constant") return ScheduleKind::kConstant;
  if (name == "cosine") return ScheduleKind::kCosine;
  if (name == "exponential") return ScheduleKind::kExponential;
  return absl::InvalidArgumentError(
      "--schedule: unknown name; expected constant, cosine or exponential");
}

std::string ScheduleName(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kConstant:
      return "constant";
    case ScheduleKind::kExponential:
      return "exponential";
    case ScheduleKind::kCosine:
      break;
  }
  return "cosine";
}

}  // namespace bflow
