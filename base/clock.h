// The only source of time. Deadlines and durations use the steady clock; wall time is for stamps.
#ifndef BFLOW_BASE_CLOCK_H_
#define BFLOW_BASE_CLOCK_H_

#include <chrono>
#include <cstdint>

namespace bflow {

using SteadyTime = std::chrono::steady_clock::time_point;
using WallTime = std::chrono::system_clock::time_point;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual SteadyTime Now() const = 0;
  virtual WallTime WallNow() const = 0;

  // The process-wide real clock.
  static const Clock* Real();
};

// Seconds from `start` to `end`.
inline double SecondsBetween(SteadyTime start, SteadyTime end) {
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace bflow

#endif  // BFLOW_BASE_CLOCK_H_
