// The configuration as the server uses it: converted once from the textproto and the flags,
// checked, with real types and every default filled in. Each error names the field.
#ifndef BFLOW_SERVER_CONFIG_SERVER_CONFIG_H_
#define BFLOW_SERVER_CONFIG_SERVER_CONFIG_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace butterflyflow::v1 {
class ServerConfig;
}

namespace bflow {

// A host and port as "HOST:PORT"; IPv6 hosts in brackets.
struct ListenAddress {
  std::string host;
  int port = 0;
  bool loopback = false;
  std::string ToString() const { return host + ":" + std::to_string(port); }
};

struct ConfiguredModel {
  std::string name;
  std::optional<int64_t> version;  // nullopt: the newest complete one
  std::vector<std::string> labels;
};

struct ServerConfig {
  struct Public {
    ListenAddress listen;
    int64_t max_receive_message_bytes;
    int64_t max_send_message_bytes;
    int max_concurrent_streams;
    int64_t resource_quota_bytes;
    int metadata_soft_bytes;
    int handshake_timeout_ms;
    int keepalive_time_ms, keepalive_timeout_ms, min_ping_interval_ms, max_ping_strikes;
    int max_connection_idle_ms, max_connection_age_ms, max_connection_age_grace_ms;
    bool accept_compressed_requests;
    bool reflection;
  } public_listener;
  struct Metrics {
    ListenAddress listen;
    int max_connections;
  } metrics;
  struct Repository {
    std::string path;
    std::vector<ConfiguredModel> models;
    bool allow_empty;
    double selftest_rtol;
    int64_t max_model_bytes;
    bool exit_on_load_failure;
  } repository;
  struct Limits {
    int64_t max_rows;
    int64_t max_samples;
  } limits;
  struct Batching {
    std::vector<int64_t> buckets;
    int64_t max_queue_rows;
    int64_t max_queue_bytes;
    int64_t batch_rows_max;
    int worker_threads;  // 0: cores granted
  } batching;
  struct Admission {
    int64_t max_calls;
    int64_t max_bytes;
  } admission;
  struct Stream {
    int64_t max_chunk_bytes;
    int window_chunks;
    std::chrono::milliseconds idle_timeout;
    int64_t max_streams;
  } stream;
  struct Lifecycle {
    std::chrono::milliseconds drain_delay;
    std::chrono::milliseconds drain_timeout;
  } lifecycle;
  bool core_dumps;
  std::string device;
  std::string log_level;
};

// Every field set to its default, but repository.path.
butterflyflow::v1::ServerConfig DefaultConfig();

// Lays the textproto `text` over `config`. Errors: InvalidArgument with line and column.
absl::Status MergeTextproto(std::string_view text, butterflyflow::v1::ServerConfig* config);

// Checks ranges and combinations. Errors: InvalidArgument starting with the field's name.
absl::StatusOr<ServerConfig> ConvertConfig(const butterflyflow::v1::ServerConfig& config);

// The effective configuration as a textproto.
std::string PrintConfig(const butterflyflow::v1::ServerConfig& config);

}  // namespace bflow

#endif  // BFLOW_SERVER_CONFIG_SERVER_CONFIG_H_
