// Streams without gRPC: their concurrency against queue, workers and admission counters, with
// events that come from as many threads as gRPC would use. Runs under the thread sanitizer too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "server/exec/worker_pool.h"
#include "server/rpc/sample_stream.h"
#include "server/rpc/score_stream.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_scorer.h"

namespace bflow {
namespace {

namespace pb = ::butterflyflow::v1;

// Takes a stream's operations and completes each on a thread of its own.
template <typename Response>
class FakePort : public StreamPort<Response> {
 public:
  FakePort() : thread_([this](const std::stop_token& stop) { Run(stop); }) {}

  // What completes a read and a write; set before the stream starts.
  std::function<void()> on_read, on_write, on_broken_write;

  void StartRead() override { Post(on_read); }
  void StartWrite(const Response* response) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stuck_) {
      stuck_write_ = true;
      return;
    }
    replies_.push_back(*response);
    events_.push_back(on_write);
    changed_.notify_all();
  }
  void Finish(const absl::Status& status, const Trailers&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    status_ = status;
    finished_ = true;
    changed_.notify_all();
  }
  // A write that is stuck completes without success; one that went through has completed.
  void Cut() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!std::exchange(stuck_write_, false)) return;
    events_.push_back(on_broken_write);
    changed_.notify_all();
  }

  void TakeNoReplies() { stuck_ = true; }
  absl::Status Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return finished_; });
    return status_;
  }
  std::vector<Response> replies() {
    std::lock_guard<std::mutex> lock(mutex_);
    return replies_;
  }

 private:
  void Post(std::function<void()> event) {
    std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  void Run(const std::stop_token& stop) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (changed_.wait(lock, stop, [&] { return !events_.empty(); })) {
      std::function<void()> event = std::move(events_.front());
      events_.pop_front();
      lock.unlock();
      if (event) event();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::function<void()>> events_;
  std::vector<Response> replies_;
  absl::Status status_;
  bool finished_ = false, stuck_write_ = false;
  std::atomic<bool> stuck_{false};
  std::jthread thread_;
};

pb::StreamScoreRequest OpenMessage() {
  pb::StreamScoreRequest request;
  request.mutable_open()->mutable_model()->set_name("ecg");
  request.mutable_open()->mutable_options()->set_score_dtype(pb::DATA_TYPE_FP64);
  return request;
}

// Rows that start with `first` and are 0 beside.
pb::StreamScoreRequest ChunkMessage(uint64_t index, int16_t first, int64_t rows) {
  pb::StreamScoreRequest request;
  request.mutable_chunk()->set_index(index);
  pb::Tensor& x = *request.mutable_chunk()->mutable_x();
  x.set_dtype(pb::DATA_TYPE_INT16);
  for (int64_t d : {rows, int64_t{4}, int64_t{2}}) x.add_shape(d);
  std::vector<int16_t> values(static_cast<size_t>(rows) * 8);
  for (size_t i = 0; i < values.size(); i += 8) values[i] = first;
  x.set_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * 2));
  return request;
}

class StreamCoreTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("bflow_stream_core_test_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_ / "ecg" / "1");
    std::ofstream(folder_ / "ecg" / "1" / "manifest.json") << "{}";
  }
  void TearDown() override {
    workers_.reset();
    registry_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Start(const BatcherOptions& options, int threads, int64_t admission_bytes,
             const Clock* clock = Clock::Real()) {
    batcher_ = std::make_unique<Batcher>(options, clock);
    admission_ = std::make_unique<Admission>(1000, max_streams_, admission_bytes);
    RegistryOptions repository;
    repository.repository = folder_.string();
    repository.warmup_rows = {1};
    registry_ = std::make_unique<ModelRegistry>(
        repository,
        [this](const std::string&) -> absl::StatusOr<LoadedVersion> {
          LoadedVersion loaded;
          loaded.scorer = std::make_unique<FakeScorer>(FakeScorer::Quantised(), control_);
          loaded.self_test.rows = 1;
          loaded.self_test.x.resize(8);
          loaded.self_test.log_prob = {0};
          return loaded;
        },
        &metrics_, clock);
    ASSERT_TRUE(registry_->Open().ok());
    registry_->StartLoading([] {});
    registry_->WaitUntilLoaded();
    workers_ = std::make_unique<WorkerPool>(batcher_.get(), threads, clock);
    rpc_ = metrics_.ForRpc("butterflyflow.v1.FlowService", "Stream", "bidi_stream");
    StreamLimits stream;
    stream.idle_timeout = std::chrono::seconds(60);
    services_ = std::make_unique<ServiceContext>(
        ServiceContext{registry_.get(), batcher_.get(), &metrics_, admission_.get(), &streams_,
                       clock, &draining_, RequestLimits{}, stream});
  }

  // One client: sends `messages` as they are read, half-closes after them unless told to stay.
  struct Client {
    std::shared_ptr<ScoreStream> stream;
    std::vector<pb::StreamScoreRequest> messages;
    std::atomic<size_t> read{0}, written{0};  // written: the stream knows of it
    bool stays = false;
    FakePort<pb::StreamScoreResponse> port;  // last: its thread calls the others
  };
  std::unique_ptr<Client> Open(std::vector<pb::StreamScoreRequest> messages, bool stays = false) {
    auto client = std::make_unique<Client>();
    Client* c = client.get();
    c->messages = std::move(messages);
    c->stays = stays;
    c->stream = std::make_shared<ScoreStream>(*services_, rpc_, SteadyTime::max(), &c->port);
    c->port.on_read = [c] {
      const size_t next = c->read.fetch_add(1);
      if (next < c->messages.size()) *c->stream->read_buffer() = c->messages[next];
      if (next < c->messages.size() || !c->stays) c->stream->OnReadDone(next < c->messages.size());
    };
    c->port.on_write = [c] {
      c->stream->OnWriteDone(true);
      ++c->written;
    };
    c->port.on_broken_write = [c] { c->stream->OnWriteDone(false); };
    return client;
  }
  // Waits for what other threads bring about.
  static void Until(const std::function<bool()>& condition) {
    while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  std::filesystem::path folder_;
  std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  Metrics metrics_;
  OpenStreams streams_;
  std::atomic<bool> draining_{false};
  int64_t max_streams_ = 1000;
  std::unique_ptr<Batcher> batcher_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<WorkerPool> workers_;
  Metrics::RpcMetrics rpc_;
  std::unique_ptr<ServiceContext> services_;
};

// A queue of four rows and counters that hold one chunk or two: every stream waits at both, and
// every chunk is answered once, in order, with its own number.
TEST_F(StreamCoreTest, ManyStreamsThroughANarrowDoor) {
  Start({.max_queue_rows = 4, .batch_rows_max = 3}, 3, 12'000);
  std::vector<std::unique_ptr<Client>> clients;
  for (int16_t c = 0; c < 8; ++c) {
    std::vector<pb::StreamScoreRequest> messages = {OpenMessage()};
    messages[0].mutable_open()->mutable_dequantization()->set_kind(pb::Dequantization::KIND_CENTER);
    for (uint64_t i = 0; i < 15; ++i) {
      messages.push_back(ChunkMessage(i, static_cast<int16_t>(c + static_cast<int>(i)), 1 + c % 5));
    }
    clients.push_back(Open(messages));
  }
  for (auto& client : clients) client->stream->Start();
  for (size_t c = 0; c < clients.size(); ++c) {
    EXPECT_TRUE(clients[c]->port.Wait().ok());
    const auto replies = clients[c]->port.replies();
    ASSERT_EQ(replies.size(), 16u);
    for (size_t i = 0; i < 15; ++i) {
      const auto& result = replies[i + 1].result();
      EXPECT_EQ(result.index(), i);
      ASSERT_TRUE(result.has_log_likelihood()) << result.error().message();
      double log_prob;
      std::memcpy(&log_prob, result.log_likelihood().log_prob().data().data(), sizeof(log_prob));
      EXPECT_EQ(log_prob, -static_cast<double>(c + i));
    }
  }
  clients.clear();
  EXPECT_EQ(admission_->calls(), 0);
  EXPECT_TRUE(admission_->TakeBytes(12'000)) << "every byte was given back";
}

TEST_F(StreamCoreTest, ReadsNoMoreThanTheWindow) {
  Start({.batch_rows_max = 1}, 1, 1 << 20);
  control_->delay_ms = 30;
  std::vector<pb::StreamScoreRequest> messages = {OpenMessage()};
  for (uint64_t i = 0; i < 12; ++i) messages.push_back(ChunkMessage(i, 1, 1));
  auto client = Open(messages);
  client->port.TakeNoReplies();
  client->stream->Start();
  // Opened cannot be written, so it holds one place of the window of four.
  Until([&] { return client->read == 4; });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(client->read, 4u);
  client->stream->OnCancel();
  client->port.Cut();
  EXPECT_EQ(client->port.Wait().code(), absl::StatusCode::kCancelled);
}

// Streams are cancelled at every point of their lives: each ends, and nothing stays taken.
TEST_F(StreamCoreTest, CancellationAtAnyPointGivesEverythingBack) {
  Start({.max_queue_rows = 2, .batch_rows_max = 1}, 2, 9'000);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::unique_ptr<Client>> clients;
    for (int c = 0; c < 3; ++c) {
      std::vector<pb::StreamScoreRequest> messages = {OpenMessage()};
      for (uint64_t i = 0; i < 6; ++i) messages.push_back(ChunkMessage(i, 1, 3));
      clients.push_back(Open(messages));
      clients.back()->stream->Start();
    }
    const size_t point = static_cast<size_t>(round % 7);
    Until([&] { return clients[0]->read >= point; });
    for (auto& client : clients) client->stream->OnCancel();
    for (auto& client : clients) {
      EXPECT_THAT(client->port.Wait().code(),
                  testing::AnyOf(absl::StatusCode::kOk, absl::StatusCode::kCancelled));
    }
  }
  Until([&] { return admission_->calls() == 0; });
  Until([&] { return batcher_->queue_rows() == 0; });
  EXPECT_TRUE(admission_->TakeBytes(9'000));
}

TEST_F(StreamCoreTest, DrainRacesWithOpenStreams) {
  Start({.batch_rows_max = 1}, 2, 1 << 20);
  std::vector<std::unique_ptr<Client>> clients;
  for (int c = 0; c < 6; ++c) {
    std::vector<pb::StreamScoreRequest> messages = {OpenMessage()};
    for (uint64_t i = 0; i < 50; ++i) messages.push_back(ChunkMessage(i, 1, 2));
    clients.push_back(Open(messages, /*stays=*/true));
  }
  std::thread starter([&] {
    for (auto& client : clients) client->stream->Start();
  });
  Until([&] { return clients[0]->read > 2; });
  draining_ = true;
  streams_.Drain();
  starter.join();
  for (auto& client : clients) {
    EXPECT_EQ(client->port.Wait().code(), absl::StatusCode::kUnavailable);
    // What was read before the end is answered, in order.
    uint64_t next = 0;
    for (const auto& reply : client->port.replies()) {
      if (!reply.has_result()) continue;
      EXPECT_EQ(reply.result().index(), next++);
    }
  }
}

TEST_F(StreamCoreTest, IdlenessIsMeasuredFromTheLastEvent) {
  FakeClock clock;
  Start({}, 1, 1 << 20, &clock);
  auto quiet = Open({OpenMessage(), ChunkMessage(0, 1, 1)}, /*stays=*/true);
  quiet->stream->Start();
  Until([&] { return quiet->written == 2 && quiet->read == 3; });
  clock.Advance(std::chrono::seconds(59));
  streams_.EndIdle(clock.Now());
  clock.JumpWall(std::chrono::hours(24));
  streams_.EndIdle(clock.Now());
  EXPECT_EQ(admission_->calls(), 1) << "neither 59 s nor a jump of the wall clock end it";
  clock.Advance(std::chrono::seconds(1));
  streams_.EndIdle(clock.Now());
  EXPECT_EQ(quiet->port.Wait().code(), absl::StatusCode::kUnavailable);

  auto stuck = Open({OpenMessage()}, /*stays=*/true);
  stuck->port.TakeNoReplies();
  stuck->stream->Start();
  Until([&] { return stuck->read == 2; });
  clock.Advance(std::chrono::seconds(61));
  streams_.EndIdle(clock.Now());
  EXPECT_EQ(stuck->port.Wait().code(), absl::StatusCode::kCancelled) << "its write is cut off";
}

// What a stream holds is charged: the rows as floats too, and the keys. What it holds while it
// waits is one chunk, and there are no more streams than allowed.
TEST_F(StreamCoreTest, ChargesWhatItHoldsAndLimitsTheStreams) {
  max_streams_ = 2;
  Start({.batch_rows_max = 1}, 1, 1 << 20);
  control_->delay_ms = 200;
  pb::StreamScoreRequest chunk = ChunkMessage(0, 1, 100);  // 1,600 bytes, 3,200 as floats
  chunk.mutable_chunk()->set_row_keys(std::string(100'000, 'k'));
  auto first = Open({OpenMessage(), chunk}, /*stays=*/true);
  auto second = Open({OpenMessage()}, /*stays=*/true);
  auto third = Open({OpenMessage()});
  first->stream->Start();
  Until([&] { return first->read == 3; });
  second->stream->Start();
  third->stream->Start();
  EXPECT_EQ(third->port.Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(*ReasonOf(third->port.Wait()), Reason::kServerBusy);
  const int64_t reply = 4096 + 100 * (4 * 8 + 1);
  const int64_t held = 1'600 + 3'200 + 100'000 + reply;
  EXPECT_FALSE(admission_->TakeBytes((1 << 20) - held + 1));
  EXPECT_TRUE(admission_->TakeBytes((1 << 20) - held));
  for (auto* client : {first.get(), second.get()}) {
    client->stream->OnCancel();
    EXPECT_EQ(client->port.Wait().code(), absl::StatusCode::kCancelled);
  }
}

// All that a stream was asked for is answered: a shutdown on the way changes nothing.
TEST_F(StreamCoreTest, DrainLetsAStreamEndThatAsksForNothingMore) {
  Start({.batch_rows_max = 1}, 1, 1 << 20);
  control_->delay_ms = 20;
  auto client = Open({OpenMessage(), ChunkMessage(0, 1, 3)});
  client->stream->Start();
  Until([&] { return client->read == 3; });  // and half-closed
  Until([&] { return admission_->calls() == 1 && client->port.replies().size() >= 1; });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  client->stream->Drain();
  EXPECT_TRUE(client->port.Wait().ok());
  EXPECT_EQ(client->port.replies().size(), 2u);
}

TEST_F(StreamCoreTest, SamplesInOrder) {
  Start({.max_queue_rows = 3, .batch_rows_max = 2}, 3, 60'000);
  services_->stream.max_chunk_bytes = 4096 + 10 * (8 * 2 + 8);  // ten rows
  std::shared_ptr<SampleStream> stream;
  FakePort<pb::StreamSampleResponse> port;
  stream = std::make_shared<SampleStream>(*services_, rpc_, SteadyTime::max(), &port);
  port.on_write = [&] { stream->OnWriteDone(true); };
  pb::SampleRequest request;
  request.mutable_model()->set_name("ecg");
  request.set_num_samples(95);
  request.set_seed(1);
  stream->Start(request);
  EXPECT_TRUE(port.Wait().ok());
  uint64_t next = 0;
  for (const auto& reply : port.replies()) {
    EXPECT_EQ(reply.chunk().first_row(), next);
    next += static_cast<uint64_t>(reply.chunk().samples().shape(0));
  }
  EXPECT_EQ(next, 95u);
  EXPECT_EQ(port.replies().size(), 10u);
}

}  // namespace
}  // namespace bflow
