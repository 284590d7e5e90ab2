// The metrics listener: HTTP GET /metrics, /livez and /readyz; everything else is 404.
#ifndef BFLOW_SERVER_APP_METRICS_HTTP_H_
#define BFLOW_SERVER_APP_METRICS_HTTP_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/config/server_config.h"
#include "server/metrics/metrics.h"

namespace bflow {

class MetricsHttp {
 public:
  virtual ~MetricsHttp() = default;
  virtual int port() const = 0;
};

// `metrics` and what the callbacks use outlive the listener. Errors: Unavailable (the port is
// taken).
absl::StatusOr<std::unique_ptr<MetricsHttp>> StartMetricsHttp(const ServerConfig::Metrics& config,
                                                              const Metrics* metrics,
                                                              std::function<bool()> live,
                                                              std::function<bool()> ready);

// Asks a running server's /readyz. False for anything but 200, no answer within two seconds
// included.
bool AskReadiness(const ListenAddress& metrics_listen);

}  // namespace bflow

#endif  // BFLOW_SERVER_APP_METRICS_HTTP_H_
