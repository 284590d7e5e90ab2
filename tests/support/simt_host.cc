#include "tests/support/simt_host.h"

#include <ucontext.h>

#include <algorithm>
#include <barrier>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace bflow::testing {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;

// A function of its own: in one that may return twice, GCC fears for every variable.
[[gnu::noinline]] void Capture(ucontext_t* context) { getcontext(context); }

enum class Wait { kNone, kBlock, kWarp, kDone };

class FiberBlock : public SimtBlock {
 public:
  FiberBlock(const SimtLaunch& launch, SimtSchedule schedule, uint64_t seed, const SimtBody& body)
      : schedule_(schedule), generator_(seed), body_(body) {
    threads = launch.threads;
    fibers_.resize(static_cast<size_t>(launch.threads));
    for (Fiber& fiber : fibers_)
      fiber.stack = std::make_unique_for_overwrite<unsigned char[]>(kStackBytes);
  }

  void BlockBarrier(int thread) override { Yield(thread, Wait::kBlock); }
  void WarpBarrier(int thread) override { Yield(thread, Wait::kWarp); }

  // The block's threads to their end.
  std::string Run() {
    for (size_t t = 0; t < fibers_.size(); ++t) {
      Fiber& fiber = fibers_[t];
      fiber.wait = Wait::kNone;
      Capture(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = &scheduler_;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&FiberBlock::Enter), 3,
                  static_cast<unsigned>(self >> 32), static_cast<unsigned>(self),
                  static_cast<unsigned>(t));
    }
    for (;;) {
      RunReady();
      if (All(0, fibers_.size(), Wait::kDone)) return "";
      bool released = Release(0, fibers_.size(), Wait::kBlock);
      for (size_t warp = 0; warp < fibers_.size(); warp += kSimtWarp) {
        released |= Release(warp, warp + kSimtWarp, Wait::kWarp);
      }
      if (!released) return Divergence();
    }
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    Wait wait = Wait::kNone;
  };

  static void Enter(unsigned high, unsigned low, unsigned thread) {
    auto* self = reinterpret_cast<FiberBlock*>((uintptr_t{high} << 32) | low);
    self->body_(HostLane(self, static_cast<int>(thread)));
    self->fibers_[thread].wait = Wait::kDone;
  }

  void Yield(int thread, Wait wait) {
    Fiber& fiber = fibers_[static_cast<size_t>(thread)];
    fiber.wait = wait;
    swapcontext(&fiber.context, &scheduler_);
  }

  void RunReady() {
    std::vector<size_t> order(fibers_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    if (schedule_ == SimtSchedule::kReverse) std::reverse(order.begin(), order.end());
    if (schedule_ == SimtSchedule::kSeeded) std::shuffle(order.begin(), order.end(), generator_);
    for (const size_t t : order) {
      if (fibers_[t].wait == Wait::kNone) swapcontext(&scheduler_, &fibers_[t].context);
    }
  }

  bool All(size_t begin, size_t end, Wait wait) const {
    return std::all_of(fibers_.begin() + static_cast<std::ptrdiff_t>(begin),
                       fibers_.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](const Fiber& fiber) { return fiber.wait == wait; });
  }

  bool Release(size_t begin, size_t end, Wait wait) {
    if (!All(begin, end, wait)) return false;
    for (size_t t = begin; t < end; ++t) fibers_[t].wait = Wait::kNone;
    return true;
  }

  std::string Divergence() const {
    const char* const names[] = {"runs", "waits at a block barrier", "waits at a warp barrier",
                                 "has returned"};
    for (size_t t = 1; t < fibers_.size(); ++t) {
      if (fibers_[t].wait == fibers_[t - 1].wait) continue;
      return "divergent barrier in block " + std::to_string(block) + ": thread " +
             std::to_string(t - 1) + " " + names[static_cast<int>(fibers_[t - 1].wait)] +
             ", thread " + std::to_string(t) + " " + names[static_cast<int>(fibers_[t].wait)];
    }
    return "divergent barrier";
  }

  SimtSchedule schedule_;
  std::mt19937_64 generator_;
  const SimtBody& body_;
  std::vector<Fiber> fibers_;
  ucontext_t scheduler_;
};

class ThreadBlock : public SimtBlock {
 public:
  ThreadBlock(const SimtLaunch& launch, const SimtBody& body) : body_(body) {
    threads = launch.threads;
  }
  void BlockBarrier(int) override { block_barrier_->arrive_and_wait(); }
  void WarpBarrier(int thread) override {
    warp_barriers_[static_cast<size_t>(thread / kSimtWarp)]->arrive_and_wait();
  }
  std::string Run() {
    block_barrier_ = std::make_unique<std::barrier<>>(threads);
    warp_barriers_.clear();
    for (int w = 0; w < threads / kSimtWarp; ++w) {
      warp_barriers_.push_back(std::make_unique<std::barrier<>>(kSimtWarp));
    }
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t) {
      running.emplace_back([this, t] { body_(HostLane(this, t)); });
    }
    for (std::thread& thread : running) thread.join();
    return "";
  }

 private:
  const SimtBody& body_;
  std::unique_ptr<std::barrier<>> block_barrier_;
  std::vector<std::unique_ptr<std::barrier<>>> warp_barriers_;
};

template <typename Block>
std::string RunGrid(const SimtLaunch& launch, Block& block) {
  // Memory of exactly the size asked for, so that the address sanitizer sees an overrun.
  std::vector<unsigned char> slots(static_cast<size_t>(launch.threads) * kShuffleBytes);
  for (int b = 0; b < launch.grid; ++b) {
    std::vector<unsigned char> shared(launch.shared_bytes, 0xff);
    block.shared = shared.data();
    block.slots = slots.data();
    block.block = b;
    block.grid = launch.grid;
    if (std::string wrong = block.Run(); !wrong.empty()) return wrong;
  }
  return "";
}

}  // namespace

std::string RunSimt(const SimtLaunch& launch, SimtSchedule schedule, const SimtBody& body,
                    uint64_t seed) {
  if (schedule == SimtSchedule::kThreads) {
    ThreadBlock block(launch, body);
    return RunGrid(launch, block);
  }
  FiberBlock block(launch, schedule, seed, body);
  return RunGrid(launch, block);
}

}  // namespace bflow::testing
