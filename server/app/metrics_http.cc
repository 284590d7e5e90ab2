#include "server/app/metrics_http.h"

#include <CivetServer.h>

#include <chrono>
#include <thread>
#include <utility>
#include <vector>

namespace bflow {
namespace {

// civetweb takes numeric addresses only.
std::string Numeric(const std::string& host) { return host == "localhost" ? "127.0.0.1" : host; }

class Pages : public CivetHandler {
 public:
  Pages(const Metrics* metrics, std::function<bool()> live, std::function<bool()> ready)
      : metrics_(metrics), live_(std::move(live)), ready_(std::move(ready)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    const mg_request_info* request = mg_get_request_info(connection);
    const std::string path = request->local_uri == nullptr ? "" : request->local_uri;
    if (path == "/metrics") {
      Send(connection, "200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics_->Scrape());
    } else if (path == "/livez") {
      SendState(connection, live_());
    } else if (path == "/readyz") {
      SendState(connection, ready_());
    } else {
      Send(connection, "404 Not Found", "text/plain", "not found\n");
    }
    return true;
  }

 private:
  static void SendState(mg_connection* connection, bool good) {
    Send(connection, good ? "200 OK" : "503 Service Unavailable", "text/plain",
         good ? "ok\n" : "not serving\n");
  }

  static void Send(mg_connection* connection, const char* status, const char* type,
                   const std::string& body) {
    mg_printf(connection,
              "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
              status, type, body.size());
    mg_write(connection, body.data(), body.size());
  }

  const Metrics* const metrics_;
  const std::function<bool()> live_, ready_;
};

class CivetHttp : public MetricsHttp {
 public:
  CivetHttp(const std::string& host, const std::vector<std::string>& options,
            const Metrics* metrics, std::function<bool()> live, std::function<bool()> ready)
      : host_(host), pages_(metrics, std::move(live), std::move(ready)), server_(options) {
    server_.addHandler("/**", pages_);
  }
  ~CivetHttp() override {
    // civetweb looks at its stop flag when its poll ends, after two seconds or with a connection.
    std::jthread knock([this, port = port()](const std::stop_token& stop) {
      char error[64];
      while (!stop.stop_requested()) {
        if (auto* connection = mg_connect_client(host_.c_str(), port, 0, error, sizeof(error))) {
          mg_close_connection(connection);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
    server_.close();
  }

  int port() const override { return const_cast<CivetServer&>(server_).getListeningPorts().at(0); }

 private:
  const std::string host_;
  Pages pages_;
  CivetServer server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsHttp>> StartMetricsHttp(const ServerConfig::Metrics& config,
                                                              const Metrics* metrics,
                                                              std::function<bool()> live,
                                                              std::function<bool()> ready) {
  const std::vector<std::string> options = {
      "listening_ports", Numeric(config.listen.host) + ":" + std::to_string(config.listen.port),
      "num_threads", std::to_string(config.max_connections),
      // Short, since a connection that sends nothing holds one of the few threads for as long.
      "request_timeout_ms", "1000"};
  try {  // CivetServer's constructor reports by an exception only
    return std::unique_ptr<MetricsHttp>(std::make_unique<CivetHttp>(
        Numeric(config.listen.host), options, metrics, std::move(live), std::move(ready)));
  } catch (const CivetException&) {
    return absl::UnavailableError("metrics.listen: the port cannot be opened; is it in use?");
  }
}

bool AskReadiness(const ListenAddress& metrics_listen) {
  char error[256] = "";
  mg_connection* connection = mg_connect_client(Numeric(metrics_listen.host).c_str(),
                                                metrics_listen.port, 0, error, sizeof(error));
  if (connection == nullptr) return false;
  mg_printf(connection, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  const bool answered = mg_get_response(connection, error, sizeof(error), 2000) >= 0;
  const mg_response_info* response = answered ? mg_get_response_info(connection) : nullptr;
  const bool ready = response != nullptr && response->status_code == 200;
  mg_close_connection(connection);
  return ready;
}

}  // namespace bflow
