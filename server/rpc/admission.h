// Server-wide counters of the calls in handlers and of the bytes they hold. Unary calls are refused
// when there is no room; a stream waits for it, so that flow control slows its client. What a
// waiting stream holds meanwhile, the one chunk that it has read, is bounded by the number of
// streams.
#ifndef BFLOW_SERVER_RPC_ADMISSION_H_
#define BFLOW_SERVER_RPC_ADMISSION_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace bflow {

class Admission {
 public:
  enum class Wait { kGranted, kWaiting, kNever };

  Admission(int64_t max_calls, int64_t max_streams, int64_t max_bytes)
      : max_calls_(max_calls), max_streams_(max_streams), max_bytes_(max_bytes) {}

  bool EnterCall(bool stream);
  void LeaveCall(bool stream);
  int64_t calls() const { return calls_.load(); }

  bool TakeBytes(int64_t bytes);
  // kGranted: taken. kWaiting: `granted` is called once, by whoever makes the room, when they have
  // been taken; Forget(*ticket) undoes the wait. kNever: more than there will ever be.
  Wait AwaitBytes(int64_t bytes, std::function<void()> granted, uint64_t* ticket);
  // True if the wait was still on: its callback will not be called.
  bool Forget(uint64_t ticket);
  // Calls the callbacks of waits that this ends: to be called without a lock.
  void ReturnBytes(int64_t bytes);

 private:
  struct Waiter {
    uint64_t ticket;
    int64_t bytes;
    std::function<void()> granted;
  };

  static bool Enter(std::atomic<int64_t>& count, int64_t limit);

  const int64_t max_calls_, max_streams_, max_bytes_;
  std::atomic<int64_t> calls_{0}, streams_{0};  // streams are calls too
  std::mutex mutex_;
  int64_t bytes_ = 0;
  uint64_t next_ticket_ = 1;
  std::deque<Waiter> waiters_;  // first come, first served
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_ADMISSION_H_
