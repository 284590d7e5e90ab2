#include "server/rpc/admission.h"

#include <utility>
#include <vector>

namespace bflow {

bool Admission::EnterCall() {
  if (calls_.fetch_add(1) < max_calls_) return true;
  calls_.fetch_sub(1);
  return false;
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
