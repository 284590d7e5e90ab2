#include "server/metrics/process_collector.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace bflow {
namespace {

void Append(std::vector<prometheus::MetricFamily>& families, const char* name, const char* help,
            prometheus::MetricType type, std::optional<double> value) {
  if (!value) return;
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = *value;
  } else {
    metric.gauge.value = *value;
  }
  family.metric.push_back(metric);
  families.push_back(family);
}

// Wall time at which the machine started, in seconds.
std::optional<double> BootTime() {
  std::ifstream stat("/proc/stat");
  std::string word;
  double seconds = 0;
  while (stat >> word) {
    if (word == "btime" && stat >> seconds) return seconds;
  }
  return std::nullopt;
}

// Clock ticks after boot at which this process started: field 22 of /proc/self/stat.
std::optional<double> StartTicks() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t close = text.rfind(')');  // the program's name may hold spaces
  if (close == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(close + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double ticks = 0;
  if (!(fields >> ticks)) return std::nullopt;
  return ticks;
}

std::optional<double> ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  if (!(file >> total >> resident)) return std::nullopt;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

std::optional<double> OpenDescriptors() {
  std::error_code error;
  double count = 0;
  std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
  if (error) return std::nullopt;
  for (; entry != end && !error; entry.increment(error)) ++count;
  return count - 1;  // the one that lists
}

}  // namespace

std::vector<prometheus::MetricFamily> CollectProcessMetrics() {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  Append(families, "process_cpu_seconds_total", "User and system CPU time.", MetricType::Counter,
         seconds(usage.ru_utime) + seconds(usage.ru_stime));
  Append(families, "process_resident_memory_bytes", "Resident memory.", MetricType::Gauge,
         ResidentBytes());
  Append(families, "process_open_fds", "Open file descriptors.", MetricType::Gauge,
         OpenDescriptors());
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  Append(families, "process_max_fds", "Limit of open file descriptors.", MetricType::Gauge,
         static_cast<double>(limit.rlim_cur));
  const std::optional<double> boot = BootTime(), ticks = StartTicks();
  if (boot && ticks) {
    Append(families, "process_start_time_seconds", "Wall time of the start.", MetricType::Gauge,
           *boot + *ticks / static_cast<double>(sysconf(_SC_CLK_TCK)));
  }
  return families;
}

}  // namespace bflow
