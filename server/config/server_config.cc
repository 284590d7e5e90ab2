#include "server/config/server_config.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/names.h"
#include "base/status.h"
#include "butterflyflow/v1/server_config.pb.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Keeps the first syntax error: line and column, and the parser's own words, which name fields.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat("line ", line + 1, ":", column + 1, ": ", message);
  }
  void AddWarning(int line, google::protobuf::io::ColumnNumber column,
                  const std::string& message) override {
    AddError(line, column, message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

absl::Status Bad(const std::string& field, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", expected));
}

// Collects the first range error, so that a list of checks reads as a table.
class Checker {
 public:
  template <typename T>
  T InRange(const char* field, uint64_t value, uint64_t low, uint64_t high) {
    if (status_.ok() && (value < low || value > high)) {
      status_ = Bad(field, absl::StrCat("takes ", low, " to ", high));
    }
    return static_cast<T>(value);
  }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

absl::StatusOr<ListenAddress> ParseListen(const char* field, const std::string& text) {
  const size_t colon = text.rfind(':');
  int port = -1;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return Bad(field, "takes HOST:PORT with a port in 0 to 65535");
  }
  ListenAddress address;
  address.host = text.substr(0, colon);
  address.port = port;
  const bool bracketed = address.host.front() == '[' && address.host.back() == ']';
  if (!bracketed && address.host.find(':') != std::string::npos) {
    return Bad(field, "takes HOST:PORT; an IPv6 host stands in brackets");
  }
  address.loopback = address.host == "localhost" || address.host == "[::1]" ||
                     (address.host.rfind("127.", 0) == 0 &&
                      address.host.find_first_not_of("0123456789.") == std::string::npos);
  return address;
}

absl::StatusOr<ListenAddress> CheckListen(const char* field, const char* allow_field,
                                          const std::string& text, bool allow_insecure) {
  BFLOW_ASSIGN_OR_RETURN(ListenAddress address, ParseListen(field, text));
  if (!address.loopback && !allow_insecure) {
    return Bad(field, absl::StrCat("beyond loopback this port is not encrypted; set ", allow_field,
                                   ": true to serve it all the same"));
  }
  return address;
}

absl::StatusOr<std::vector<ConfiguredModel>> ConvertModels(const pb::Repository& repository) {
  std::vector<ConfiguredModel> models;
  std::set<std::pair<std::string, std::string>> labels;
  std::set<std::pair<std::string, int64_t>> versions;
  for (int i = 0; i < repository.models_size(); ++i) {
    const pb::Repository::Model& model = repository.models(i);
    const std::string field = absl::StrCat("repository.models[", i, "]");
    if (model.name().empty()) return Bad(field + ".name", "is required");
    if (!IsValidModelName(model.name())) {
      return Bad(field + ".name", kModelNameSyntax);
    }
    ConfiguredModel converted;
    converted.name = model.name();
    if (model.has_version()) {
      if (model.version() < 1) return Bad(field + ".version", "takes 1 or more");
      converted.version = model.version();
    }
    if (!versions.insert({model.name(), converted.version.value_or(0)}).second) {
      return Bad(field, "the same model and version stand twice");
    }
    if (model.labels_size() > 16) return Bad(field + ".labels", "takes at most 16");
    for (const std::string& label : model.labels()) {
      if (!IsValidLabel(label)) return Bad(field + ".labels", "takes [a-z][a-z0-9_-]{0,31}");
      if (!labels.insert({model.name(), label}).second) {
        return Bad(field + ".labels", "a label stands for one version of a model");
      }
      converted.labels.push_back(label);
    }
    models.push_back(std::move(converted));
  }
  return models;
}

void ConvertPublic(const pb::PublicListener& from, Checker& check, ServerConfig::Public& to) {
  constexpr uint64_t kIntMax = std::numeric_limits<int>::max();
  to.max_receive_message_bytes = check.InRange<int64_t>(
      "public.max_receive_message_bytes", from.max_receive_message_bytes(), 1024, kIntMax);
  to.max_send_message_bytes = check.InRange<int64_t>("public.max_send_message_bytes",
                                                     from.max_send_message_bytes(), 1024, kIntMax);
  to.max_concurrent_streams = check.InRange<int>("public.max_concurrent_streams",
                                                 from.max_concurrent_streams(), 1, 100'000);
  to.resource_quota_bytes = check.InRange<int64_t>(
      "public.resource_quota_bytes", from.resource_quota_bytes(), kMiB, uint64_t{1} << 46);
  to.metadata_soft_bytes =
      check.InRange<int>("public.metadata_soft_bytes", from.metadata_soft_bytes(), 1024, kMiB);
  to.handshake_timeout_ms =
      check.InRange<int>("public.handshake_timeout_ms", from.handshake_timeout_ms(), 100, 600'000);
  to.keepalive_time_ms =
      check.InRange<int>("public.keepalive_time_ms", from.keepalive_time_ms(), 1000, kIntMax);
  to.keepalive_timeout_ms =
      check.InRange<int>("public.keepalive_timeout_ms", from.keepalive_timeout_ms(), 100, kIntMax);
  to.min_ping_interval_ms =
      check.InRange<int>("public.min_ping_interval_ms", from.min_ping_interval_ms(), 0, kIntMax);
  to.max_ping_strikes =
      check.InRange<int>("public.max_ping_strikes", from.max_ping_strikes(), 0, 1000);
  to.max_connection_idle_ms = check.InRange<int>("public.max_connection_idle_ms",
                                                 from.max_connection_idle_ms(), 1000, kIntMax);
  to.max_connection_age_ms = check.InRange<int>("public.max_connection_age_ms",
                                                from.max_connection_age_ms(), 1000, kIntMax);
  to.max_connection_age_grace_ms = check.InRange<int>(
      "public.max_connection_age_grace_ms", from.max_connection_age_grace_ms(), 0, kIntMax);
  to.accept_compressed_requests = from.accept_compressed_requests();
  to.reflection = from.reflection();
}

void ConvertBatching(const pb::Batching& from, Checker& check, ServerConfig::Batching& to) {
  constexpr uint64_t kRowsMax = uint64_t{1} << 31;
  for (uint32_t bucket : from.buckets()) {
    to.buckets.push_back(check.InRange<int64_t>("batching.buckets", bucket, 1, 65'536));
  }
  if (!std::is_sorted(to.buckets.begin(), to.buckets.end())) {
    check.Fail(Bad("batching.buckets", "takes ascending row counts"));
  }
  to.max_queue_rows =
      check.InRange<int64_t>("batching.max_queue_rows", from.max_queue_rows(), 1, kRowsMax);
  to.max_queue_bytes = check.InRange<int64_t>("batching.max_queue_bytes", from.max_queue_bytes(),
                                              kMiB, uint64_t{1} << 46);
  to.batch_rows_max =
      check.InRange<int64_t>("batching.batch_rows_max", from.batch_rows_max(), 1, 65'536);
  to.worker_threads = check.InRange<int>("batching.worker_threads", from.worker_threads(), 0, 1024);
}

}  // namespace

pb::ServerConfig DefaultConfig() {
  pb::ServerConfig config;
  pb::PublicListener& listener = *config.mutable_public_();
  listener.set_listen("127.0.0.1:8001");
  listener.set_allow_insecure(false);
  listener.set_max_receive_message_bytes(64 * kMiB);
  listener.set_max_send_message_bytes(64 * kMiB);
  listener.set_max_concurrent_streams(100);
  listener.set_resource_quota_bytes(1024 * kMiB);
  listener.set_metadata_soft_bytes(8192);
  listener.set_handshake_timeout_ms(10'000);
  listener.set_keepalive_time_ms(60'000);
  listener.set_keepalive_timeout_ms(20'000);
  listener.set_min_ping_interval_ms(10'000);
  listener.set_max_ping_strikes(2);
  listener.set_max_connection_idle_ms(300'000);
  listener.set_max_connection_age_ms(300'000);
  listener.set_max_connection_age_grace_ms(60'000);
  listener.set_accept_compressed_requests(false);
  listener.set_reflection(false);
  pb::MetricsListener& metrics = *config.mutable_metrics();
  metrics.set_listen("127.0.0.1:8002");
  metrics.set_allow_insecure(false);
  metrics.set_max_connections(4);
  pb::Repository& repository = *config.mutable_repository();
  repository.set_allow_empty(false);
  repository.set_selftest_rtol(2e-4);
  repository.set_max_model_bytes(4096 * kMiB);
  repository.set_exit_on_load_failure(false);
  config.mutable_limits()->set_max_rows(65'536);
  config.mutable_limits()->set_max_samples(65'536);
  pb::Batching& batching = *config.mutable_batching();
  for (uint32_t bucket : {1, 8, 32, 128, 512, 2048}) batching.add_buckets(bucket);
  batching.set_max_queue_rows(65'536);
  batching.set_max_queue_bytes(512 * kMiB);
  batching.set_batch_rows_max(128);
  batching.set_worker_threads(0);
  config.mutable_admission()->set_max_calls(1024);
  config.mutable_admission()->set_max_bytes(1024 * kMiB);
  config.mutable_stream()->set_max_chunk_bytes(4 * kMiB);
  config.mutable_stream()->set_window_chunks(4);
  config.mutable_stream()->set_idle_timeout_ms(60'000);
  config.mutable_stream()->set_max_streams(128);
  config.mutable_lifecycle()->set_drain_delay_ms(5000);
  config.mutable_lifecycle()->set_drain_timeout_ms(25'000);
  config.mutable_privacy()->set_core_dumps(false);
  config.set_device("auto");
  config.set_log_level("info");
  return config;
}

absl::Status MergeTextproto(std::string_view text, pb::ServerConfig* config) {
  pb::ServerConfig parsed;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(std::string(text), &parsed)) {
    return absl::InvalidArgumentError(absl::StrCat("config: ", error.text()));
  }
  if (parsed.batching().buckets_size() > 0) config->mutable_batching()->clear_buckets();
  config->MergeFrom(parsed);
  return absl::OkStatus();
}

absl::StatusOr<ServerConfig> ConvertConfig(const pb::ServerConfig& from) {
  ServerConfig to{};
  Checker check;
  BFLOW_ASSIGN_OR_RETURN(to.public_listener.listen,
                         CheckListen("public.listen", "public.allow_insecure",
                                     from.public_().listen(), from.public_().allow_insecure()));
  BFLOW_ASSIGN_OR_RETURN(to.metrics.listen,
                         CheckListen("metrics.listen", "metrics.allow_insecure",
                                     from.metrics().listen(), from.metrics().allow_insecure()));
  ConvertPublic(from.public_(), check, to.public_listener);
  to.metrics.max_connections =
      check.InRange<int>("metrics.max_connections", from.metrics().max_connections(), 1, 64);
  const pb::Repository& repository = from.repository();
  to.repository.path = repository.path();
  if (to.repository.path.empty()) {
    return Bad("repository.path", "is required; give --model_repository=DIR");
  }
  BFLOW_ASSIGN_OR_RETURN(to.repository.models, ConvertModels(repository));
  to.repository.allow_empty = repository.allow_empty();
  to.repository.selftest_rtol = repository.selftest_rtol();
  if (!(repository.selftest_rtol() > 0 && repository.selftest_rtol() <= 0.1)) {
    check.Fail(Bad("repository.selftest_rtol", "takes a number in (0, 0.1]"));
  }
  to.repository.max_model_bytes = check.InRange<int64_t>(
      "repository.max_model_bytes", repository.max_model_bytes(), 1024, uint64_t{1} << 46);
  to.repository.exit_on_load_failure = repository.exit_on_load_failure();
  to.limits.max_rows =
      check.InRange<int64_t>("limits.max_rows", from.limits().max_rows(), 1, uint64_t{1} << 24);
  to.limits.max_samples = check.InRange<int64_t>("limits.max_samples", from.limits().max_samples(),
                                                 1, uint64_t{1} << 24);
  ConvertBatching(from.batching(), check, to.batching);
  to.admission.max_calls =
      check.InRange<int64_t>("admission.max_calls", from.admission().max_calls(), 1, 1'000'000);
  to.admission.max_bytes = check.InRange<int64_t>(
      "admission.max_bytes", from.admission().max_bytes(), kMiB, uint64_t{1} << 46);
  to.stream.max_chunk_bytes = check.InRange<int64_t>(
      "stream.max_chunk_bytes", from.stream().max_chunk_bytes(), 1024, uint64_t{1} << 30);
  to.stream.window_chunks =
      check.InRange<int>("stream.window_chunks", from.stream().window_chunks(), 1, 64);
  to.stream.idle_timeout = std::chrono::milliseconds(check.InRange<int64_t>(
      "stream.idle_timeout_ms", from.stream().idle_timeout_ms(), 100, 3'600'000));
  to.stream.max_streams =
      check.InRange<int64_t>("stream.max_streams", from.stream().max_streams(), 1, 1'000'000);
  // A chunk that no message can carry, or that never finds room, would be refused for ever.
  if (to.stream.max_chunk_bytes > to.public_listener.max_receive_message_bytes ||
      to.stream.max_chunk_bytes > to.public_listener.max_send_message_bytes ||
      to.stream.max_chunk_bytes > to.admission.max_bytes / 2) {
    check.Fail(Bad("stream.max_chunk_bytes",
                   "must fit public.max_receive_message_bytes, public.max_send_message_bytes and "
                   "half of admission.max_bytes"));
  }
  to.lifecycle.drain_delay = std::chrono::milliseconds(check.InRange<int64_t>(
      "lifecycle.drain_delay_ms", from.lifecycle().drain_delay_ms(), 0, 3'600'000));
  to.lifecycle.drain_timeout = std::chrono::milliseconds(check.InRange<int64_t>(
      "lifecycle.drain_timeout_ms", from.lifecycle().drain_timeout_ms(), 1, 3'600'000));
  if (to.lifecycle.drain_delay >= to.lifecycle.drain_timeout) {
    check.Fail(Bad("lifecycle.drain_delay_ms", "must be below lifecycle.drain_timeout_ms"));
  }
  to.core_dumps = from.privacy().core_dumps();
  to.device = from.device();
  if (to.device != "auto" && to.device != "cpu" && to.device != "cuda") {
    check.Fail(Bad("device", "takes auto, cpu or cuda"));
  }
  to.log_level = from.log_level();
  if (to.log_level != "debug" && to.log_level != "info" && to.log_level != "warning" &&
      to.log_level != "error") {
    check.Fail(Bad("log_level", "takes debug, info, warning or error"));
  }
  if (!check.status().ok()) return check.status();
  return to;
}

std::string PrintConfig(const pb::ServerConfig& config) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(config, &text);
  return text;
}

}  // namespace bflow
