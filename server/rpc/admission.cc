#include "server/rpc/admission.h"

#include <utility>
#include <vector>

namespace bflow {

bool Admission::Enter(std::atomic<int64_t>& count, int64_t limit) {
  if (count.fetch_add(1) < limit) return true;
  count.fetch_sub(1);
  return false;
}

bool Admission::EnterCall(bool stream) {
  if (!Enter(calls_, max_calls_)) return false;
  if (!stream || Enter(streams_, max_streams_)) return true;
  calls_.fetch_sub(1);
  return false;
}

void Admission::LeaveCall(bool stream) {
  if (stream) streams_.fetch_sub(1);
  calls_.fetch_sub(1);
}

bool Admission::TakeBytes(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (bytes > max_bytes_ - bytes_) return false;
  bytes_ += bytes;
  return true;
}

Admission::Wait Admission::AwaitBytes(int64_t bytes, std::function<void()> granted,
                                      uint64_t* ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (bytes > max_bytes_) return Wait::kNever;
  if (waiters_.empty() && bytes <= max_bytes_ - bytes_) {
    bytes_ += bytes;
    return Wait::kGranted;
  }
  *ticket = next_ticket_++;
  waiters_.push_back({*ticket, bytes, std::move(granted)});
  return Wait::kWaiting;
}

bool Admission::Forget(uint64_t ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::erase_if(waiters_, [&](const Waiter& w) { return w.ticket == ticket; }) > 0;
}

void Admission::ReturnBytes(int64_t bytes) {
  std::vector<std::function<void()>> granted;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    bytes_ -= bytes;
    while (!waiters_.empty() && waiters_.front().bytes <= max_bytes_ - bytes_) {
      bytes_ += waiters_.front().bytes;
      granted.push_back(std::move(waiters_.front().granted));
      waiters_.pop_front();
    }
  }
  for (const std::function<void()>& call : granted) call();
}

}  // namespace bflow
