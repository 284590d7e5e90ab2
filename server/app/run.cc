#include "server/app/run.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <ctime>
#include <thread>
#include <utility>
#include <vector>

#include "base/exit_code.h"
#include "base/log.h"
#include "butterflyflow/v1/server_config.pb.h"
#include "server/app/flags.h"

namespace bflow {
namespace {

int Complain(const absl::Status& status, ExitCode code) {
  std::fprintf(stderr, "bflow-server: %s\n", std::string(status.message()).c_str());
  return code;
}

// Files are private; memory of patients' data reaches neither a core file nor another process.
void HardenProcess(bool core_dumps) {
  umask(077);
  if (core_dumps) return;
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_DUMPABLE, 0);
}

// Blocks SIGTERM and SIGINT in this thread and all that it starts.
sigset_t BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return set;
}

// True if a signal came within the time.
bool SignalWithin(const sigset_t& set, std::chrono::milliseconds time) {
  timespec timeout;
  timeout.tv_sec = time.count() / 1000;
  timeout.tv_nsec = time.count() % 1000 * 1'000'000;
  return sigtimedwait(&set, nullptr, &timeout) > 0;
}

// A second signal during any step ends the process at once.
void Drain(ServerApp& app, const ServerConfig::Lifecycle& lifecycle, const sigset_t& set) {
  using std::chrono::milliseconds;
  const Clock& clock = *Clock::Real();
  const SteadyTime signalled = clock.Now();
  const auto second_signal = [&](milliseconds wait) {
    if (SignalWithin(set, wait)) _exit(kExitForced);
  };
  Log(LogLevel::kInfo, "draining");
  app.StopServing();
  second_signal(lifecycle.drain_delay);
  app.RefuseNewCalls();
  while (!app.Idle() && clock.Now() - signalled < lifecycle.drain_timeout) {
    second_signal(milliseconds(10));
  }
  const bool idle = app.Idle();
  // What follows joins threads that may be in the middle of a batch: another one listens for the
  // second signal and for the end of the time.
  const SteadyTime latest = signalled + lifecycle.drain_timeout + milliseconds(1500);
  std::jthread guard([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      second_signal(milliseconds(20));
      if (clock.Now() < latest) continue;
      Log(LogLevel::kWarning, "stopped", {{"all_calls_finished", false}});
      _exit(kExitOk);
    }
  });
  app.Shutdown(milliseconds(idle ? 200 : 0));
  Log(LogLevel::kInfo, "stopped", {{"all_calls_finished", idle}});
}

int Serve(const ServerConfig& config, const Backend& backend, BackendFacts facts) {
  const sigset_t signals = BlockSignals();
  CheckpointLimits limits;
  limits.max_model_bytes = config.repository.max_model_bytes;
  ServerApp app(config, CheckpointLoader(limits, backend.make_scorer), std::move(facts),
                Clock::Real());
  if (absl::Status started = app.Start(); !started.ok()) {
    const bool configuration = started.code() == absl::StatusCode::kInvalidArgument;
    return Complain(started, configuration ? kExitConfiguration : kExitOs);
  }
  while (!SignalWithin(signals, std::chrono::milliseconds(100))) {
    if (app.load_refused()) {
      return Complain(absl::InvalidArgumentError("repository: a model was refused, see the log"),
                      kExitConfiguration);
    }
  }
  Drain(app, config.lifecycle, signals);
  return kExitOk;
}

}  // namespace

int RunServer(int argc, char** argv, const Backend& backend) {
  const absl::StatusOr<Flags> flags = ParseFlags(std::vector<std::string>(argv + 1, argv + argc));
  if (!flags.ok()) return Complain(flags.status(), kExitUsage);
  if (!flags->text.empty()) {
    std::fputs(flags->text.c_str(), stdout);
    return ExitAfterOutput(kExitOk, "bflow-server");
  }
  const auto effective = EffectiveConfig(*flags);
  if (!effective.ok()) return Complain(effective.status(), kExitConfiguration);
  if (flags->health_check) {
    // Needs the metrics address only: the repository may be out of this process's reach.
    auto probe = *effective;
    if (!probe.repository().has_path()) probe.mutable_repository()->set_path(".");
    const absl::StatusOr<ServerConfig> config = ConvertConfig(probe);
    if (!config.ok()) return Complain(config.status(), kExitConfiguration);
    return AskReadiness(config->metrics.listen) ? kExitOk : kExitUnavailable;
  }
  const absl::StatusOr<ServerConfig> config = ConvertConfig(*effective);
  if (!config.ok()) return Complain(config.status(), kExitConfiguration);
  absl::StatusOr<BackendFacts> facts = backend.select(config->device);
  if (!facts.ok()) return Complain(facts.status(), kExitConfiguration);
  if (flags->check_config) {
    std::fputs(PrintConfig(*effective).c_str(), stdout);
    return ExitAfterOutput(kExitOk, "bflow-server");
  }
  if (absl::Status level = SetLogLevel(config->log_level); !level.ok()) {
    return Complain(level, kExitConfiguration);
  }
  HardenProcess(config->core_dumps);
  return Serve(*config, backend, *std::move(facts));
}

}  // namespace bflow
