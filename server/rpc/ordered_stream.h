// What the two streams share: chunks are computed in any order and answered in theirs, one write at
// a time, with at most a window of them unanswered. Where the stream's operations go is a
// StreamPort, so that nothing here knows gRPC.
//
// Events (a read or write that completed, a cancellation, a chunk that was computed, a shutdown)
// come from any thread; each changes the state under the lock and calls Pump. One thread at a time
// pumps: it decides the next operation under the lock and starts it without, so an operation may
// call back at once. Finish is the last one, and waits until every chunk has come back from the
// workers: after it the port is never touched.
#ifndef BFLOW_SERVER_RPC_ORDERED_STREAM_H_
#define BFLOW_SERVER_RPC_ORDERED_STREAM_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "server/exec/reason.h"
#include "server/rpc/call_record.h"

namespace bflow {

template <typename Response>
class StreamPort {
 public:
  virtual ~StreamPort() = default;
  virtual void StartRead() = 0;
  // `response` lives until the write has completed.
  virtual void StartWrite(const Response* response) = 0;
  virtual void Finish(const absl::Status& status, const Trailers& trailers) = 0;
  // Breaks the stream off: a write that never completes does then, unsuccessfully. The client sees
  // CANCELLED: a status would wait behind what it does not read.
  virtual void Cut() = 0;
};

// One reply to come. Whoever completes it owns `response` until then.
template <typename Response>
struct StreamSlot {
  explicit StreamSlot(Admission* counters) : admission(counters) {}
  ~StreamSlot() {
    if (admitted_bytes > 0) admission->ReturnBytes(admitted_bytes);
  }
  StreamSlot(const StreamSlot&) = delete;
  StreamSlot& operator=(const StreamSlot&) = delete;

  Admission* const admission;
  int64_t admitted_bytes = 0;  // given back with the slot
  SteadyTime arrived;
  Response response;
  bool ready = false;
  absl::Status end;  // not OK: the stream ends here with it, after the replies before
};

template <typename Response>
class OrderedStream : public OpenStream,
                      public std::enable_shared_from_this<OrderedStream<Response>> {
 public:
  using Slot = StreamSlot<Response>;

  OrderedStream(const ServiceContext& services, const char* method, const Metrics::RpcMetrics& rpc,
                SteadyTime deadline, StreamPort<Response>* port, int window)
      : record_(services, CallRecord::Kind::kStream, method, rpc, deadline),
        port_(port),
        window_(window),
        last_event_(services.clock->Now()) {}

  void OnWriteDone(bool ok) {
    std::shared_ptr<Slot> written;  // released without the lock: its bytes may admit another stream
    {
      std::lock_guard<std::mutex> lock(mutex_);
      written = std::exchange(writing_, nullptr);
      if (!ok) dead_ = true;
      Touch();
    }
    if (ok) record_.rpc().sent->Increment();
    if (written->admitted_bytes > 0) Pending().Decrement();
    written.reset();
    Pump();
  }

  void OnCancel() {
    record_.cancelled()->store(true);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      dead_ = true;
    }
    AbandonWait();
    Pump();
  }

  // The port's last event, when the status has been sent or could not be any more.
  void OnDone(bool cancelled) {
    absl::Status status;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      status = final_;
    }
    // A failed read may have looked like the client's last word before the cancellation was known.
    record_.End(status.ok() && cancelled ? Gone() : status);
  }

  void Drain() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (input_ended_) return;  // all that was asked for is on its way: the stream ends by itself
    }
    EndAfterReplies(MakeError(Reason::kDraining, "the server is shutting down; resume elsewhere"));
  }

  void EndIfIdle(SteadyTime now) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (finished_ || now - last_event_ < record_.services().stream.idle_timeout) return;
      if (writing_ == nullptr && !slots_.empty()) return;  // at the workers
      cut_ = writing_ != nullptr;
      input_ended_ = true;
      if (final_.ok()) {
        final_ = cut_ ? MakeError(Reason::kClientGone,
                                  "stream: no reply was taken for stream.idle_timeout_ms; resume")
                      : MakeError(Reason::kStreamIdle,
                                  "stream: nothing came for stream.idle_timeout_ms; resume");
      }
    }
    Pump();
  }

 protected:
  // Both under the lock.
  virtual bool WantsMore() const = 0;
  virtual void MoreWillStart() = 0;
  // Reads or computes the next chunk; without the lock, by the pumping thread.
  virtual void StartMore() = 0;

  // A reply at the end of the line, still to be completed.
  std::shared_ptr<Slot> AddSlot() {
    auto slot = std::make_shared<Slot>(record_.services().admission);
    slot->arrived = record_.services().clock->Now();
    std::lock_guard<std::mutex> lock(mutex_);
    slots_.push_back(slot);
    ++outstanding_;
    return slot;
  }

  // Finish waits for what lies between: it reads what this work writes. Begin under the lock.
  void BeginWork() { ++outstanding_; }
  void EndWork() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      --outstanding_;
    }
    Pump();
  }

  // The slot's response is filled in, or the stream is to end there.
  void Complete(const std::shared_ptr<Slot>& slot, absl::Status end) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      slot->end = std::move(end);
      slot->ready = true;
      --outstanding_;
      Touch();
    }
    Pump();
  }

  // The last step of a subclass' start; an error is the stream's end.
  void EndStart(absl::Status status) {
    if (!status.ok()) EndAfterReplies(std::move(status));
    {
      std::lock_guard<std::mutex> lock(mutex_);
      started_ = true;
    }
    EndWork();
  }

  // No further chunk; `status` follows the replies to those that were read.
  void EndAfterReplies(absl::Status status) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      input_ended_ = true;
      if (final_.ok()) final_ = std::move(status);
    }
    Pump();
  }

  // Takes room for a chunk's bytes, then calls `go`; waits for it if there is none. An error, with
  // `go` not called: never enough room, or the client is gone.
  absl::Status WithRoom(const std::shared_ptr<Slot>& slot, int64_t bytes,
                        std::function<void()> go) {
    Admission& admission = *record_.services().admission;
    auto granted = [self = this->shared_from_this(), this, slot, bytes, go = std::move(go)] {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        waiting_ = nullptr;
      }
      slot->admitted_bytes = bytes;
      Pending().Increment();
      go();
    };
    {
      // The lock keeps OnCancel from looking for a ticket that is not there yet.
      std::lock_guard<std::mutex> lock(mutex_);
      if (dead_) return Gone();
      switch (admission.AwaitBytes(bytes, granted, &ticket_)) {
        case Admission::Wait::kGranted:
          break;
        case Admission::Wait::kWaiting:
          waiting_ = slot;
          return absl::OkStatus();
        case Admission::Wait::kNever:
          return MakeError(Reason::kLimitExceeded,
                           "chunk: with its reply larger than admission.max_bytes");
      }
    }
    granted();
    return absl::OkStatus();
  }

  // Ends the wait of a chunk for room, if there is one.
  void AbandonWait() {
    std::shared_ptr<Slot> slot;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (waiting_ == nullptr || !record_.services().admission->Forget(ticket_)) return;
      slot = std::exchange(waiting_, nullptr);
    }
    Complete(slot, Gone());
  }

  void Pump() {
    const auto self = this->shared_from_this();
    std::unique_lock<std::mutex> lock(mutex_);
    pump_again_ = true;
    if (pumping_) return;
    pumping_ = true;
    while (pump_again_) {
      pump_again_ = false;
      const Step step = Decide();
      if (step == Step::kNone) continue;
      pump_again_ = true;
      lock.unlock();
      if (step == Step::kFinish) return Finish();
      Do(step);
      lock.lock();
    }
    pumping_ = false;
  }

  bool InputEnded() const { return input_ended_ || dead_; }
  // Room in the window, under the lock.
  bool HasWindow() const {
    return slots_.size() + (writing_ == nullptr ? 0 : 1) < static_cast<size_t>(window_);
  }
  void Touch() { last_event_ = record_.services().clock->Now(); }
  prometheus::Gauge& Pending() {
    return record_.services().metrics->stream_pending_chunks.Add(
        {{"operation", kOperationNames[static_cast<size_t>(operation_)]}});
  }

  // Once, before the first slot.
  void SetOperation(Operation operation) {
    record_.SetOperation(operation);
    operation_ = operation;
  }
  StreamPort<Response>* port() { return port_; }

  CallRecord record_;
  mutable std::mutex mutex_;
  bool input_ended_ = false;
  absl::Status final_;

 private:
  enum class Step { kNone, kWrite, kMore, kCut, kAbandonWait, kFinish };

  Step Decide() {
    if (cut_) {
      cut_ = false;
      dead_ = true;
      return Step::kCut;
    }
    if (writing_ != nullptr) return NextChunk();
    const bool front_ready = !slots_.empty() && slots_.front()->ready;
    if (!dead_ && front_ready && slots_.front()->end.ok()) {
      writing_ = slots_.front();
      slots_.pop_front();
      return Step::kWrite;
    }
    if (front_ready && !slots_.front()->end.ok()) {
      input_ended_ = true;
      if (final_.ok()) final_ = slots_.front()->end;
      dead_ = true;  // nothing after the fault is answered, so nothing of it is computed
      record_.cancelled()->store(true);
      if (!std::exchange(abandoned_, true)) return Step::kAbandonWait;
    }
    const bool over = dead_ || (input_ended_ && slots_.empty());
    if (over && outstanding_ == 0) return Step::kFinish;
    return NextChunk();
  }

  Step NextChunk() {
    if (!started_ || InputEnded() || !HasWindow() || !WantsMore()) return Step::kNone;
    MoreWillStart();
    return Step::kMore;
  }

  void Do(Step step) {
    if (step == Step::kWrite) port_->StartWrite(&writing_->response);
    if (step == Step::kCut) port_->Cut();
    if (step == Step::kAbandonWait) AbandonWait();
    if (step == Step::kMore) StartMore();
  }

  void Finish() {
    std::deque<std::shared_ptr<Slot>> unanswered;  // released without the lock
    absl::Status status;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      finished_ = true;
      unanswered.swap(slots_);
      if (final_.ok() && dead_) final_ = Gone();
      status = final_;
    }
    for (const std::shared_ptr<Slot>& slot : unanswered) {
      if (slot->admitted_bytes > 0) Pending().Decrement();
    }
    unanswered.clear();
    port_->Finish(status, record_.TrailersFor(status));
  }

  // gRPC tells a deadline that passed as a cancellation.
  absl::Status Gone() const {
    if (record_.services().clock->Now() >= record_.deadline()) {
      return MakeError(Reason::kExpired, "the deadline passed before the work was done");
    }
    return MakeError(Reason::kClientGone, "the client has cancelled the call");
  }

  StreamPort<Response>* const port_;
  const int window_;
  Operation operation_ = Operation::kLogLikelihood;
  std::deque<std::shared_ptr<Slot>> slots_;
  std::shared_ptr<Slot> writing_;
  std::shared_ptr<Slot> waiting_;  // for room in the admission counters
  uint64_t ticket_ = 0;
  int outstanding_ = 1;  // slots not completed, and other work; at first the stream's own start
  SteadyTime last_event_;
  bool dead_ = false;  // cancelled or broken: nothing more is written
  bool cut_ = false, abandoned_ = false;
  bool started_ = false;
  bool finished_ = false;  // the status is on its way and must not change
  bool pumping_ = false, pump_again_ = false;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_ORDERED_STREAM_H_
