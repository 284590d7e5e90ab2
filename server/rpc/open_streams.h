// The streams that are open, so that a shutdown reaches them and idle ones are ended.
#ifndef BFLOW_SERVER_RPC_OPEN_STREAMS_H_
#define BFLOW_SERVER_RPC_OPEN_STREAMS_H_

#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"

namespace bflow {

class OpenStream {
 public:
  virtual ~OpenStream() = default;
  // Reads no more, answers what was read, ends with DRAINING.
  virtual void Drain() = 0;
  // Ends with STREAM_IDLE if nothing has happened for the idle time.
  virtual void EndIfIdle(SteadyTime now) = 0;
};

class OpenStreams {
 public:
  // To be called before the stream looks whether the server drains: then one of the two sees it.
  void Add(const std::shared_ptr<OpenStream>& stream) {
    std::lock_guard<std::mutex> lock(mutex_);
    streams_.push_back(stream);
  }
  void Drain() {
    for (const std::shared_ptr<OpenStream>& stream : Alive()) stream->Drain();
  }
  // To be called from time to time, a few times within the idle time.
  void EndIdle(SteadyTime now) {
    for (const std::shared_ptr<OpenStream>& stream : Alive()) stream->EndIfIdle(now);
  }

 private:
  std::vector<std::shared_ptr<OpenStream>> Alive() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(streams_, [](const std::weak_ptr<OpenStream>& s) { return s.expired(); });
    std::vector<std::shared_ptr<OpenStream>> alive;
    for (const std::weak_ptr<OpenStream>& stream : streams_) {
      if (auto held = stream.lock()) alive.push_back(std::move(held));
    }
    return alive;
  }

  std::mutex mutex_;
  std::vector<std::weak_ptr<OpenStream>> streams_;
};

}  // namespace bflow

#endif  // BFLOW_SERVER_RPC_OPEN_STREAMS_H_
