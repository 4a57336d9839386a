#include "pool.hpp"

#include <algorithm>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif

namespace spikeformers {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Between two loops of one token there are some microseconds: longer than that is idleness.
constexpr int kSpins = 4000;

}  // namespace

int processors() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

Pool::Pool(int threads) {
  const int wanted = std::min(threads, processors());
  try {
    for (int i = 1; i < wanted; ++i) workers_.emplace_back([this] { serve(); });
  } catch (...) {  // the system gives no more threads: those that run are ended before it is said
    end();
    throw;
  }
}

Pool::~Pool() { end(); }

void Pool::end() {
  stop_.store(true);
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

bool Pool::take_and_do() {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  const auto* work = work_.load(std::memory_order_relaxed);
  const std::uint32_t pieces = pieces_.load(std::memory_order_relaxed);
  const auto piece = static_cast<std::uint32_t>(ticket);
  if (piece >= pieces) return false;
  // If the ticket still stands, its round is not over, and what was read belongs to it.
  if (!ticket_.compare_exchange_strong(ticket, ticket + 1, std::memory_order_acq_rel)) return true;
  try {
    (*work)(piece);
  } catch (...) {
    if (!failed_.exchange(true, std::memory_order_relaxed)) failure_ = std::current_exception();
  }
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void Pool::serve() {
  while (!stop_.load(std::memory_order_relaxed)) {
    const std::uint32_t round = round_.load(std::memory_order_acquire);
    if (take_and_do()) continue;
    for (int spin = 0; spin < kSpins && round_.load(std::memory_order_relaxed) == round; ++spin)
      relax();
    if (round_.load(std::memory_order_relaxed) == round && !stop_.load()) round_.wait(round);
  }
}

void Pool::run(std::int64_t pieces, const Work& work) {
  if (workers_.empty() || pieces < 2) {
    for (std::int64_t piece = 0; piece < pieces; ++piece) work(piece);
    return;
  }
  const std::uint64_t round = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  // First close the old round for good, then describe the new one, then open it.
  ticket_.store(round << 32 | 0xffffffffu, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  failed_.store(false, std::memory_order_relaxed);
  work_.store(&work, std::memory_order_relaxed);
  pieces_.store(static_cast<std::uint32_t>(pieces), std::memory_order_relaxed);
  ticket_.store((round + 1) << 32, std::memory_order_release);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  while (take_and_do()) {
  }
  while (done_.load(std::memory_order_acquire) != static_cast<std::uint32_t>(pieces)) relax();
  if (failed_.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace spikeformers
