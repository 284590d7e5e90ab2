// The choice of a device, without one.
#include "model/scoring/backend.h"

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bflow {
namespace {

using testing::HasSubstr;

TEST(Backend, PreferencesAndAnAbsentPlugin) {
  EXPECT_EQ(LoadBackend(DevicePreference::kCpu)->device, "cpu");
  EXPECT_EQ(LoadBackend(DevicePreference::kCpu)->reason, "requested");
  const auto absent = LoadBackendFrom("/nonexistent/libbflow_cuda.so", DevicePreference::kAuto);
  EXPECT_EQ(absent->device, "cpu");
  EXPECT_EQ(absent->reason, "plugin_absent");
  absl::Status status =
      LoadBackendFrom("/nonexistent/libbflow_cuda.so", DevicePreference::kCuda).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("device: cuda"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("plugin_absent"));
  EXPECT_EQ(*ParseDevicePreference("cuda"), DevicePreference::kCuda);
  EXPECT_FALSE(ParseDevicePreference("gpu").ok());
}

}  // namespace
}  // namespace bflow
