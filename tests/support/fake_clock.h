// A clock that stands still until the test moves it; steady and wall time move apart on demand.
#ifndef BFLOW_TESTS_SUPPORT_FAKE_CLOCK_H_
#define BFLOW_TESTS_SUPPORT_FAKE_CLOCK_H_

#include <atomic>
#include <chrono>

#include "base/clock.h"

namespace bflow {

class FakeClock : public Clock {
 public:
  SteadyTime Now() const override { return SteadyTime(SteadyTime::duration(steady_.load())); }
  WallTime WallNow() const override { return WallTime(WallTime::duration(wall_.load())); }

  void Advance(std::chrono::nanoseconds time) {
    steady_ += std::chrono::duration_cast<SteadyTime::duration>(time).count();
    JumpWall(time);
  }
  // As when somebody sets the machine's clock.
  void JumpWall(std::chrono::nanoseconds time) {
    wall_ += std::chrono::duration_cast<WallTime::duration>(time).count();
  }

 private:
  std::atomic<SteadyTime::duration::rep> steady_{std::chrono::hours(1) / SteadyTime::duration(1)};
  std::atomic<WallTime::duration::rep> wall_{std::chrono::hours(1) / WallTime::duration(1)};
};

}  // namespace bflow

#endif  // BFLOW_TESTS_SUPPORT_FAKE_CLOCK_H_
