#include "server/batching/batcher.h"

#include <gtest/gtest.h>

#include <future>

#include "server/exec/reason.h"
#include "server/exec/worker_pool.h"
#include "tests/support/fake_scorer.h"

namespace bflow {
namespace {

class FakeClock : public Clock {
 public:
  SteadyTime Now() const override { return now; }
  WallTime WallNow() const override { return {}; }
  SteadyTime now{};
};

class BatcherTest : public testing::Test {
 protected:
  ScoreTask Task(int64_t rows, TaskReply* reply) {
    ScoreTask task;
    task.scorer = scorer_;
    task.metrics = model_;
    task.model = "m";
    task.work = LogLikelihoodWork{};
    task.rows = rows;
    task.ranges = {{0, rows}};
    task.bytes = rows * 32;
    task.x.rows = rows;
    task.x.values.resize(static_cast<size_t>(rows * 8));
    for (int64_t i = 0; i < rows; ++i) task.x.values[static_cast<size_t>(i * 8)] = float(i);
    task.cancelled = std::make_shared<std::atomic<bool>>(false);
    task.done = [reply](TaskReply done) { *reply = std::move(done); };
    reply->status = absl::UnknownError("not done");
    return task;
  }
  void RunOne() {
    const Batch batch = *batcher_.Next();
    batcher_.Complete(batch, RunBatch(batch), 0.5);
  }

  FakeClock clock_;
  Metrics metrics_;
  std::shared_ptr<ModelMetrics> model_ = metrics_.ForModel({"m", "1"});
  std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  std::shared_ptr<Scorer> scorer_ = std::make_shared<FakeScorer>(FakeScorer::Quantised(), control_);
  Batcher batcher_{{10, 1 << 20, 4}, &clock_};
};

TEST_F(BatcherTest, SlicesALargeTaskAndMergesItsRows) {
  TaskReply reply;
  ASSERT_TRUE(batcher_.Submit(Task(9, &reply)).ok());
  const Batch first = *batcher_.Next(), second = *batcher_.Next(), third = *batcher_.Next();
  EXPECT_EQ(third.rows.end - third.rows.begin, 1);
  for (const Batch* batch : {&second, &third, &first}) {  // in any order
    EXPECT_FALSE(reply.status.ok());
    batcher_.Complete(*batch, RunBatch(*batch), 0.5);
  }
  ASSERT_TRUE(reply.status.ok());
  const auto& result = std::get<LogLikelihoodResult>(reply.result);
  for (size_t i = 0; i < 9; ++i) EXPECT_EQ(result.log_prob[i], -double(i));
  EXPECT_EQ(reply.batches, 3u);
  EXPECT_EQ(batcher_.queue_rows(), 0);
}

TEST_F(BatcherTest, SkipsRowsOutsideTheRanges) {
  TaskReply reply;
  ScoreTask task = Task(6, &reply);
  task.ranges = {{1, 2}, {4, 6}};
  ASSERT_TRUE(batcher_.Submit(std::move(task)).ok());
  RunOne();
  RunOne();
  EXPECT_TRUE(reply.status.ok());
  EXPECT_EQ(control_->rows, 3);
  EXPECT_EQ(std::get<LogLikelihoodResult>(reply.result).log_prob[5], -5);
}

TEST_F(BatcherTest, RefusesWhatDoesNotFit) {
  TaskReply first, second, third;
  ASSERT_TRUE(batcher_.Submit(Task(6, &first)).ok());
  EXPECT_EQ(ReasonOf(batcher_.Submit(Task(6, &second))), Reason::kQueueFull);
  EXPECT_FALSE(second.status.ok());
  RunOne();  // four rows leave
  ASSERT_TRUE(batcher_.Submit(Task(6, &third)).ok());
  batcher_.Stop();
  EXPECT_EQ(ReasonOf(first.status), Reason::kDraining);
  EXPECT_EQ(ReasonOf(third.status), Reason::kDraining);
  EXPECT_EQ(ReasonOf(batcher_.Submit(Task(1, &second))), Reason::kDraining);
  EXPECT_EQ(batcher_.Next().has_value(), false);
}

TEST_F(BatcherTest, DropsExpiredAndCancelledWork) {
  TaskReply expired, cancelled, good;
  ScoreTask task = Task(8, &expired);
  task.deadline = clock_.now + std::chrono::seconds(1);
  ASSERT_TRUE(batcher_.Submit(std::move(task)).ok());
  RunOne();
  clock_.now += std::chrono::seconds(2);
  ScoreTask gone = Task(2, &cancelled);
  const auto flag = gone.cancelled;
  ASSERT_TRUE(batcher_.Submit(std::move(gone)).ok());
  flag->store(true);
  // The queue looks full, but the dead make room.
  ASSERT_TRUE(batcher_.Submit(Task(7, &good)).ok());
  EXPECT_EQ(ReasonOf(expired.status), Reason::kExpired);
  EXPECT_EQ(ReasonOf(cancelled.status), Reason::kClientGone);
  EXPECT_EQ(model_->deadline_dropped_rows->Value(), 4);
  EXPECT_EQ(model_->cancelled_rows_saved->Value(), 2);
  RunOne();
  RunOne();
  EXPECT_TRUE(good.status.ok());
  EXPECT_EQ(control_->rows, 4 + 7);
  EXPECT_EQ(model_->queue_rows->Value(), 0);
  EXPECT_EQ(model_->queue_bytes->Value(), 0);
  ScoreTask late = Task(1, &good);
  late.deadline = clock_.now;
  EXPECT_EQ(ReasonOf(batcher_.Submit(std::move(late))), Reason::kExpired);
}

TEST_F(BatcherTest, AFailureEndsTheTask) {
  TaskReply reply;
  control_->fail = true;
  ASSERT_TRUE(batcher_.Submit(Task(9, &reply)).ok());
  RunOne();
  EXPECT_EQ(ReasonOf(reply.status), Reason::kInternal);
  EXPECT_EQ(std::string(reply.status.message()).find("canary"), std::string::npos);
  EXPECT_EQ(batcher_.queue_rows(), 0);
}

TEST_F(BatcherTest, WorkersFinishManyTasksFromManyThreads) {
  Batcher batcher({1 << 20, 1 << 30, 3}, Clock::Real());
  WorkerPool workers(&batcher, 3, Clock::Real());
  std::atomic<int> good{0};
  std::vector<std::thread> senders;
  for (int s = 0; s < 4; ++s) {
    senders.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        std::promise<TaskReply> promise;
        TaskReply unused;
        ScoreTask task = Task(1 + i % 10, &unused);
        task.done = [&](TaskReply reply) { promise.set_value(std::move(reply)); };
        if (!batcher.Submit(std::move(task)).ok()) continue;
        const TaskReply reply = promise.get_future().get();
        const auto& values = std::get<LogLikelihoodResult>(reply.result).log_prob;
        if (reply.status.ok() && values.back() == -double(i % 10)) ++good;
      }
    });
  }
  for (std::thread& sender : senders) sender.join();
  EXPECT_EQ(good, 400);
}

}  // namespace
}  // namespace bflow
