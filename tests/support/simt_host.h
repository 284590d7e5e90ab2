// Runs kernel bodies (model/ops/cuda/*.cuh) on the host. As fibers: one at a time, in a chosen
// order, with a check that the threads of a block meet at the same barriers; a body whose result
// depends on the order has a race. As threads: for the thread sanitizer. Blocks run one after the
// other.
#ifndef BFLOW_TESTS_SUPPORT_SIMT_HOST_H_
#define BFLOW_TESTS_SUPPORT_SIMT_HOST_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

namespace bflow::testing {

inline constexpr int kSimtWarp = 32;
inline constexpr size_t kShuffleBytes = 256;  // the largest array that one shuffle carries

// The threads of one block, as they meet.
class SimtBlock {
 public:
  virtual ~SimtBlock() = default;
  virtual void BlockBarrier(int thread) = 0;
  virtual void WarpBarrier(int thread) = 0;

  unsigned char* shared = nullptr;
  unsigned char* slots = nullptr;  // kShuffleBytes per thread
  int block = 0;
  int threads = 0;
  int grid = 0;
};

class HostLane {
 public:
  HostLane(SimtBlock* block, int thread) : block_(block), thread_(thread) {}
  int thread() const { return thread_; }
  int block() const { return block_->block; }
  int block_threads() const { return block_->threads; }
  int grid_blocks() const { return block_->grid; }
  void Sync() const { block_->BlockBarrier(thread_); }
  void Reload() const {}
  template <typename T, int N>
  void ShuffleXor(T (&values)[N], int mask) const {
    static_assert(sizeof(values) <= kShuffleBytes);
    std::memcpy(block_->slots + static_cast<size_t>(thread_) * kShuffleBytes, values,
                sizeof(values));
    block_->WarpBarrier(thread_);
    std::memcpy(values, block_->slots + static_cast<size_t>(thread_ ^ mask) * kShuffleBytes,
                sizeof(values));
    block_->WarpBarrier(thread_);
  }
  template <typename T>
  T* shared() const {
    return reinterpret_cast<T*>(block_->shared);
  }

 private:
  SimtBlock* block_;
  int thread_;
};

using SimtBody = std::function<void(const HostLane&)>;

struct SimtLaunch {
  int grid = 1;
  int threads = 32;         // a multiple of 32
  size_t shared_bytes = 0;  // filled with NaN patterns at the start of each block
};

// How the fibers of a block take turns, or threads instead.
enum class SimtSchedule { kForward, kReverse, kSeeded, kThreads };

// Runs `body` once for every thread of the grid. Returns "", or of fibers that wait at different
// barriers their numbers and what each waits for. Threads that do so never come back.
std::string RunSimt(const SimtLaunch& launch, SimtSchedule schedule, const SimtBody& body,
                    uint64_t seed = 1);

}  // namespace bflow::testing

#endif  // BFLOW_TESTS_SUPPORT_SIMT_HOST_H_
