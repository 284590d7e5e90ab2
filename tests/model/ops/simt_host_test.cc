// The host shim itself: it must see the faults that it is there for.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/simt_host.h"

namespace bflow::testing {
namespace {

TEST(SimtHost, NamesThreadsThatMeetAtDifferentBarriers) {
  const std::string block = RunSimt({1, 32, 0}, SimtSchedule::kForward, [](const HostLane& lane) {
    if (lane.thread() != 5) lane.Sync();
  });
  EXPECT_NE(block.find("thread 4 waits at a block barrier, thread 5 has returned"),
            std::string::npos)
      << block;
  const std::string mixed = RunSimt({1, 64, 0}, SimtSchedule::kReverse, [](const HostLane& lane) {
    int value[1] = {lane.thread()};
    if (lane.thread() % 2 == 0) lane.ShuffleXor(value, 1);
    lane.Sync();
  });
  EXPECT_NE(mixed.find("divergent barrier"), std::string::npos);
}

TEST(SimtHost, AMissingBarrierShowsInTheOrder) {
  const auto run = [](SimtSchedule schedule) {
    std::vector<int> out(32);
    RunSimt({1, 32, 32 * sizeof(int)}, schedule, [&](const HostLane& lane) {
      int* shared = lane.shared<int>();
      shared[lane.thread()] = lane.thread();
      out[static_cast<size_t>(lane.thread())] = shared[31 - lane.thread()];  // no Sync
    });
    return out;
  };
  EXPECT_NE(run(SimtSchedule::kForward), run(SimtSchedule::kReverse));
}

}  // namespace
}  // namespace bflow::testing
