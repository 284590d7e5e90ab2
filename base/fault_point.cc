#include "base/fault_point.h"

#include <signal.h>
#include <unistd.h>

#include <mutex>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/philox.h"
#include "base/status.h"

namespace bflow {
namespace {

struct State {
  std::mutex mutex;
  FaultPlan plan;
  std::map<std::string, int64_t> hits;
};

// One per process, as what it stands for: the places where this process may fail.
State& TheState() {
  static State* const state = new State;  // outlives every thread
  return *state;
}

// FNV-1a: the same on every machine.
uint64_t HashOf(absl::string_view name) {
  uint64_t hash = 14695981039346656037u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

// Uniform in [0, 1), by seed, point and hit; hit 0 decides about activation.
double Draw(uint64_t seed, const std::string& point, int64_t hit) {
  float u = 0;
  FillUniform(seed ^ HashOf(point), static_cast<uint64_t>(hit), 0, 1, &u);
  return u;
}

absl::Status Bad(absl::string_view part) {
  return absl::InvalidArgumentError(
      absl::StrCat("--fault_plan: ", part,
                   ": expected POINT@HIT, POINT@FIRST-LAST, seed=N, activation=P or "
                   "probability=P"));
}

absl::StatusOr<FaultPlan::Shots> ParseShots(absl::string_view part) {
  const std::pair<std::string, std::string> halves = absl::StrSplit(part, absl::MaxSplits('@', 1));
  const std::vector<std::string> hits = absl::StrSplit(halves.second, '-');
  FaultPlan::Shots shots;
  shots.point = halves.first;
  if (shots.point.empty() || hits.size() > 2 || !absl::SimpleAtoi(hits[0], &shots.first) ||
      !absl::SimpleAtoi(hits.back(), &shots.last) || shots.first < 1 || shots.last < shots.first) {
    return Bad(part);
  }
  return shots;
}

}  // namespace

absl::StatusOr<FaultPlan> ParseFaultPlan(const std::string& text) {
  FaultPlan plan;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(text, ','))) {
    const std::pair<std::string, std::string> halves =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const auto chance = [&](double* out) {
      return absl::SimpleAtod(halves.second, out) && *out >= 0 && *out <= 1;
    };
    if (halves.first == "seed") {
      if (!absl::SimpleAtoi(halves.second, &plan.seed)) return Bad(part);
    } else if (halves.first == "activation") {
      if (!chance(&plan.activation)) return Bad(part);
    } else if (halves.first == "probability") {
      if (!chance(&plan.probability)) return Bad(part);
    } else {
      BFLOW_ASSIGN_OR_RETURN(FaultPlan::Shots shots, ParseShots(part));
      plan.shots.push_back(std::move(shots));
    }
  }
  return plan;
}

absl::Status InstallFaultPlanOf(std::vector<std::string>* arguments) {
  constexpr absl::string_view kFlag = "--fault_plan=";
  for (auto argument = arguments->begin(); argument != arguments->end(); ++argument) {
    if (!absl::StartsWith(*argument, kFlag)) continue;
    BFLOW_ASSIGN_OR_RETURN(const FaultPlan plan, ParseFaultPlan(argument->substr(kFlag.size())));
    InstallFaultPlan(plan);
    arguments->erase(argument);
    break;
  }
  return absl::OkStatus();
}

void InstallFaultPlan(const FaultPlan& plan) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.plan = plan;
  state.hits.clear();
}

std::map<std::string, int64_t> FaultHits() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  return state.hits;
}

bool FaultFires(const char* point) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  const std::string name = point;
  const int64_t hit = ++state.hits[name];
  for (const FaultPlan::Shots& shots : state.plan.shots) {
    if (shots.point == name && shots.first <= hit && hit <= shots.last) return true;
  }
  const FaultPlan& plan = state.plan;
  return plan.probability > 0 && Draw(plan.seed, name, 0) < plan.activation &&
         Draw(plan.seed, name, hit) < plan.probability;
}

void DieAsKilled() {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

}  // namespace bflow
