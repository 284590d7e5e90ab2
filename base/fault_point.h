// Named places where a test makes a program die or a value go wrong. They are compiled to nothing,
// name and all, unless BFLOW_FAULTS is on (CMake option; the presets debug and asan, and the
// trainer of the tests): a program that is installed has neither points nor the flag that plans
// faults.
//
//   BFLOW_FAULT_POINT("file.before_rename");           // may end the process as kill -9 does
//   if (BFLOW_FAULT_FIRES("trainer.nan_batch")) ...    // what happens stands here
#ifndef BFLOW_BASE_FAULT_POINT_H_
#define BFLOW_BASE_FAULT_POINT_H_

#if defined(BFLOW_FAULTS) && BFLOW_FAULTS

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define BFLOW_FAULT_FIRES(name) ::bflow::FaultFires(name)
#define BFLOW_FAULT_POINT(name) \
  static_cast<void>(::bflow::FaultFires(name) ? ::bflow::DieAsKilled() : static_cast<void>(0))

namespace bflow {

// Which points fire when. Hits of a point count from 1 and from InstallFaultPlan on.
struct FaultPlan {
  struct Shots {
    std::string point;
    int64_t first = 1, last = 1;  // hits
  };
  std::vector<Shots> shots;

  // Beside the shots, if `probability` > 0: each point is active for the whole run or not (with
  // `activation`), and an active one fires at each hit with `probability`. Both follow from the
  // seed and the point's name, so that seed and commit replay a failure, and from nothing else, so
  // that a run in which little is active makes progress.
  uint64_t seed = 0;
  double activation = 0.25, probability = 0;
};

// "file.before_rename@3", "trainer.nan_batch@5-14", "seed=7", "activation=0.5", "probability=0.01",
// separated by commas. Errors: InvalidArgument.
absl::StatusOr<FaultPlan> ParseFaultPlan(const std::string& text);

// Takes --fault_plan=TEXT out of a program's arguments and installs it. Errors: InvalidArgument.
absl::Status InstallFaultPlanOf(std::vector<std::string>* arguments);

// From now on for the whole process; every count starts again. An empty plan: nothing fires.
void InstallFaultPlan(const FaultPlan& plan);
// Hits of each point so far.
std::map<std::string, int64_t> FaultHits();

// Counts the hit. Safe to call from several threads.
bool FaultFires(const char* point);
// SIGKILL: no destructor, no handler, no buffer flushed.
void DieAsKilled();

}  // namespace bflow

#else

#define BFLOW_FAULT_FIRES(name) false
#define BFLOW_FAULT_POINT(name) static_cast<void>(0)

#endif

#endif  // BFLOW_BASE_FAULT_POINT_H_
