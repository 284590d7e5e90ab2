// The file of an unfinished run: it says back what went in, a damaged one is refused, and whatever
// fails while it is written, the state before or the new one is there.
#include "model/training/train_state.h"

#include <stdlib.h>

#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "gtest/gtest.h"
#include "tests/support/fake_file_system.h"

namespace bflow {
namespace {

TrainState SomeState(int64_t step) {
  TrainState state;
  state.fingerprint = std::string("f");
  state.step = step;
  state.bad_steps = 2;
  state.skipped_steps = 5;
  state.rows_drawn = 18446744073709551615u;
  state.generator = std::string("1 2 3");
  state.parameters.resize(70000);  // with the moments more than one piece
  std::iota(state.parameters.begin(), state.parameters.end(), static_cast<float>(step));
  state.first_moment = state.second_moment = state.parameters;
  state.average = {0.5f, 1e-30f};
  state.average_updates = 3;
  state.best = state.parameters;
  state.best_step = 1;
  state.best_nll = 0.1;
  state.first_nll = -1.0 / 3;
  state.interval_loss = 1e-300;
  state.interval_gradient_norm = 2.0 / 3;
  state.interval_steps = 4;
  state.seconds = 12.25;
  return state;
}

class TrainStateTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/bflow_state_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

TEST_F(TrainStateTest, SaysBackWhatWentIn) {
  const TrainState state = SomeState(7);
  const auto bytes = SerialiseTrainState(state);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto again = ParseTrainState(*bytes);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*SerialiseTrainState(*again), *bytes);
  EXPECT_EQ(again->rows_drawn, state.rows_drawn);
  EXPECT_EQ(again->skipped_steps, 5);
  EXPECT_EQ(again->interval_gradient_norm, 2.0 / 3);
  EXPECT_EQ(again->average, state.average);
  EXPECT_EQ(again->best_nll, 0.1);
  EXPECT_FALSE(again->last_nll.has_value());
}

TEST_F(TrainStateTest, DamagedOnesAreRefused) {
  TrainState state = SomeState(7);
  state.second_moment.pop_back();
  EXPECT_FALSE(ParseTrainState(*SerialiseTrainState(state)).ok());
  state = SomeState(7);
  state.best.pop_back();
  EXPECT_FALSE(ParseTrainState(*SerialiseTrainState(state)).ok());
  state = SomeState(-1);
  EXPECT_FALSE(ParseTrainState(*SerialiseTrainState(state)).ok());
  const std::string good = *SerialiseTrainState(SomeState(7));
  for (const size_t size : {size_t{0}, size_t{7}, size_t{100}, good.size() / 2, good.size() - 1}) {
    EXPECT_EQ(ParseTrainState(good.substr(0, size)).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST_F(TrainStateTest, AnyFlippedBitIsFound) {
  const std::string good = *SerialiseTrainState(SomeState(3));
  for (size_t i = 0; i < good.size(); i += 1 + good.size() / 400) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    EXPECT_EQ(ParseTrainState(bad).status().code(), absl::StatusCode::kDataLoss) << "byte " << i;
  }
}

TEST_F(TrainStateTest, EveryOperationFailsAndTheOldStateOrTheNewOneIsThere) {
  int struck = 0;
  for (const DiskFault fault :
       {DiskFault::kFull, DiskFault::kIo, DiskFault::kReadOnly, DiskFault::kPower}) {
    bool reached = true;
    for (int64_t k = 1; reached; ++k) {
      SCOPED_TRACE(absl::StrCat("fault ", static_cast<int>(fault), " at operation ", k));
      const std::string root = JoinPath(folder_, "root"), image = JoinPath(folder_, "image");
      std::filesystem::create_directory(root);
      const std::string path = TrainStatePath(root, "m");
      ASSERT_TRUE(WriteTrainState(*FileSystem::Real(), path, SomeState(1)).ok());
      FakeFileSystem files(root);
      files.FailFrom(k, fault, fault == DiskFault::kPower ? INT64_MAX : k);
      const absl::Status status = WriteTrainState(files, path, SomeState(2));
      reached = files.operations() >= k;
      EXPECT_EQ(status.ok(), files.failed() == 0) << status;
      struck += files.failed() > 0;
      const auto expect_whole = [&](const std::string& in) {
        const auto read = ReadTrainState(TrainStatePath(in, "m"));
        ASSERT_TRUE(read.ok()) << read.status();
        EXPECT_TRUE(status.ok() ? read->step == 2 : read->step == 1 || read->step == 2);
      };
      expect_whole(root);
      for (const Unflushed unflushed :
           {Unflushed::kDropped, Unflushed::kKept, Unflushed::kNamesOnly, Unflushed::kContentsOnly,
            Unflushed::kMixed}) {
        files.Image(image, unflushed, static_cast<uint64_t>(k));
        expect_whole(image);
        std::filesystem::remove_all(image);
      }
      std::filesystem::remove_all(root);
    }
  }
  EXPECT_GE(struck, 20);
}

#if defined(BFLOW_FAULTS) && BFLOW_FAULTS
TEST_F(TrainStateTest, KilledAtEveryPoint) {
  const std::string path = TrainStatePath(folder_, "m");
  for (const char* point : {"train_state.before_write", "file.before_write", "file.before_fsync",
                            "file.before_rename", "file.after_rename", "train_state.after_write"}) {
    SCOPED_TRACE(point);
    ASSERT_TRUE(WriteTrainState(*FileSystem::Real(), path, SomeState(1)).ok());
    const auto write = [&] {
      InstallFaultPlan({{{point, 1, 1}}});
      WriteTrainState(*FileSystem::Real(), path, SomeState(2)).IgnoreError();
      _exit(0);
    };
    EXPECT_EXIT(write(), testing::KilledBySignal(SIGKILL), "");
    const auto read = ReadTrainState(path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(read->step == 1 || read->step == 2);
  }
}
#endif

}  // namespace
}  // namespace bflow
