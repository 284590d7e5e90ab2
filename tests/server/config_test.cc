#include <gtest/gtest.h>

#include "base/file.h"
#include "butterflyflow/v1/server_config.pb.h"
#include "google/protobuf/util/message_differencer.h"
#include "server/app/flags.h"
#include "server/config/server_config.h"

namespace bflow {
namespace {

absl::Status Check(const std::string& text) {
  butterflyflow::v1::ServerConfig config = DefaultConfig();
  config.mutable_repository()->set_path("models");
  const absl::Status merged = MergeTextproto(text, &config);
  return merged.ok() ? ConvertConfig(config).status() : merged;
}

TEST(ConfigTest, EveryBadFieldIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"public { listen: '0.0.0.0:8001' }", "public.listen"},
      {"public { listen: '127.0.0.1' }", "public.listen"},
      {"public { listen: '127.0.0.1:70000' }", "public.listen"},
      {"metrics { listen: '10.0.0.1:1' }", "metrics.listen"},
      {"public { max_receive_message_bytes: 1 }", "public.max_receive_message_bytes"},
      {"public { max_concurrent_streams: 0 }", "public.max_concurrent_streams"},
      {"repository { path: '' }", "repository.path"},
      {"repository { selftest_rtol: -1 }", "repository.selftest_rtol"},
      {"repository { selftest_rtol: nan }", "repository.selftest_rtol"},
      {"repository { models { version: 1 } }", "repository.models[0].name"},
      {"repository { models { name: 'a' version: 0 } }", "repository.models[0].version"},
      {"repository { models { name: 'a' labels: 'Bad' } }", "repository.models[0].labels"},
      {"limits { max_rows: 0 }", "limits.max_rows"},
      {"batching { buckets: 8 buckets: 1 }", "batching.buckets"},
      {"batching { max_queue_rows: 0 }", "batching.max_queue_rows"},
      {"admission { max_calls: 0 }", "admission.max_calls"},
      {"lifecycle { drain_delay_ms: 9 drain_timeout_ms: 9 }", "lifecycle.drain_delay_ms"},
      {"device: 'tpu'", "device"},
      {"log_level: 'loud'", "log_level"},
      {"no_such_field: 1", "no_such_field"},
      {"limits { max_rows: 'x' }", "config: line 1"},
  };
  for (const auto& [text, field] : cases) {
    const absl::Status status = Check(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(status.message()).find(field), std::string::npos)
        << text << ": " << status;
  }
  EXPECT_TRUE(Check("").ok());
  EXPECT_TRUE(Check("public { listen: '0.0.0.0:1' allow_insecure: true }").ok());
  EXPECT_TRUE(Check("public { listen: '[::1]:0' }").ok());
}

TEST(ConfigTest, TheSampleFileIsTheDefault) {
  const auto text = ReadFile("deploy/server.textproto", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  butterflyflow::v1::ServerConfig sample;
  ASSERT_TRUE(MergeTextproto(*text, &sample).ok());
  butterflyflow::v1::ServerConfig defaults = DefaultConfig();
  defaults.mutable_repository()->set_path("deploy/models");
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(sample, defaults))
      << PrintConfig(sample);
}

TEST(ConfigTest, WhatIsPrintedCanBeRead) {
  butterflyflow::v1::ServerConfig again;
  ASSERT_TRUE(MergeTextproto(PrintConfig(DefaultConfig()), &again).ok());
  EXPECT_EQ(PrintConfig(again), PrintConfig(DefaultConfig()));
}

TEST(FlagsTest, OverrideTheFileInEitherSpelling) {
  const auto flags = ParseFlags({"--model-repository=a-b", "--listen", "127.0.0.1:0",
                                 "--metrics_listen=127.0.0.1:0", "--reflection", "--check-config"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_TRUE(flags->check_config);
  const auto config = EffectiveConfig(*flags);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->repository().path(), "a-b");
  EXPECT_EQ(config->public_().listen(), "127.0.0.1:0");
  EXPECT_TRUE(config->public_().reflection());
  EXPECT_FALSE(ParseFlags({"--no_such_flag"}).ok());
  EXPECT_NE(ParseFlags({"--version"})->text.find("bflow-server"), std::string::npos);
  EXPECT_NE(ParseFlags({"--help"})->text.find("--model_repository"), std::string::npos);
  EXPECT_FALSE(EffectiveConfig(*ParseFlags({"--config=/nonexistent/x"})).ok());
}

}  // namespace
}  // namespace bflow
