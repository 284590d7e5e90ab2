#include "base/fault_point.h"

#include <signal.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace bflow {
namespace {

// Which of `count` hits fire.
std::string Fired(const char* point, int count) {
  std::string fired;
  for (int i = 0; i < count; ++i) fired += BFLOW_FAULT_FIRES(point) ? '!' : '.';
  return fired;
}

TEST(FaultPoint, FiresAtThePlannedHits) {
  InstallFaultPlan(*ParseFaultPlan("a.b@2,c@3-5"));
  EXPECT_EQ(Fired("a.b", 5), ".!...");
  EXPECT_EQ(Fired("c", 7), "..!!!..");
  EXPECT_EQ(Fired("other", 3), "...");
  EXPECT_EQ(FaultHits(), (std::map<std::string, int64_t>{{"a.b", 5}, {"c", 7}, {"other", 3}}));
  InstallFaultPlan({});
  EXPECT_EQ(Fired("a.b", 5), ".....") << "counts start again, nothing is planned";
}

TEST(FaultPoint, ASeedDecidesWhichPointsAreActiveAndWhenTheyFire) {
  const std::string text = "seed=7,activation=0.5,probability=0.1";
  int active = 0;
  for (int point = 0; point < 40; ++point) {
    InstallFaultPlan(*ParseFaultPlan(text));
    const std::string name = "p" + std::to_string(point);
    const std::string first = Fired(name.c_str(), 200);
    InstallFaultPlan(*ParseFaultPlan(text));
    EXPECT_EQ(first, Fired(name.c_str(), 200)) << "seed and name replay it";
    const auto fired = std::count(first.begin(), first.end(), '!');
    EXPECT_LT(fired, 60);
    active += fired > 0;
  }
  EXPECT_GT(active, 8);
  EXPECT_LT(active, 32);
  InstallFaultPlan({});
}

TEST(FaultPoint, DiesAsKilled) {
  InstallFaultPlan(*ParseFaultPlan("here@2"));
  BFLOW_FAULT_POINT("here");
  EXPECT_EXIT(BFLOW_FAULT_POINT("here"), testing::KilledBySignal(SIGKILL), "");
  InstallFaultPlan({});
}

TEST(FaultPoint, PlansThatAreNone) {
  for (const char* text : {"", "a", "a@", "a@0", "a@2-1", "a@1-2-3", "@1", "seed=x",
                           "probability=2", "activation=-1", "probability=", "a@1,,b@1"}) {
    EXPECT_FALSE(ParseFaultPlan(text).ok()) << text;
  }
}

TEST(FaultPoint, AProgramsFlag) {
  std::vector<std::string> arguments = {"--x=1", "--fault_plan=there@1", "y"};
  ASSERT_TRUE(InstallFaultPlanOf(&arguments).ok());
  EXPECT_EQ(arguments, (std::vector<std::string>{"--x=1", "y"}));
  EXPECT_EQ(Fired("there", 2), "!.");
  arguments = {"--fault_plan=nonsense"};
  EXPECT_FALSE(InstallFaultPlanOf(&arguments).ok());
  InstallFaultPlan({});
}

}  // namespace
}  // namespace bflow
