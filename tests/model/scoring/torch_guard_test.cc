// What becomes of exceptions, and of Torch's threads.
#include "model/scoring/torch_guard.h"

#include <cstdint>
#include <new>
#include <string>

#include "ATen/Parallel.h"
#include "ATen/ops/empty.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "c10/util/Exception.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bflow {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(TorchGuard, ExceptionsBecomeStatusesWithoutTheirText) {
  EXPECT_TRUE(GuardTorch("test", [] { return absl::OkStatus(); }).ok());
  absl::Status status =
      GuardTorch("test", []() -> absl::Status { TORCH_CHECK(false, "secret 123"); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("test"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
  status = GuardTorch("test", []() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  status = GuardTorch("test", []() -> absl::Status { throw 3; });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  status = GuardTorch("test", [] {
    at::empty({int64_t{1} << 50}, at::kFloat);  // more than any address space
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(*GuardTorchOr("test", [] { return absl::StatusOr<int>(4); }), 4);
}

TEST(TorchGuard, SingleThreadedTwice) {
  UseSingleThreadedTorch();
  UseSingleThreadedTorch();
  EXPECT_EQ(at::get_num_threads(), 1);
}

}  // namespace
}  // namespace bflow
