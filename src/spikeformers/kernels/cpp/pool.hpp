// A few threads that share out the pieces of one loop at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace spikeformers {

// What Pool::run calls: it names a function that outlives the call, and owns nothing, so that a
// token allocates nothing for it.
class Work {
 public:
  template <class Function>
  Work(const Function& function)  // NOLINT: as std::function, made from what is called
      : function_(&function), call_([](const void* to, std::int64_t piece) {
          (*static_cast<const Function*>(to))(piece);
        }) {}
  void operator()(std::int64_t piece) const { call_(function_, piece); }

 private:
  const void* function_;
  void (*call_)(const void*, std::int64_t);
};

// The caller works too, and never waits for a thread that has not taken a piece: a thread that the
// system does not run costs nothing. There are never more threads than processors to run them.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Threads at work, the caller included.
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls work(piece) for each piece in [0, pieces), in any order, and returns when all are done;
  // then throws the first exception that any of them threw. One caller at a time.
  void run(std::int64_t pieces, const Work& work);

 private:
  void serve();
  void end();
  bool take_and_do();

  // Round (upper half) and next piece of it (lower half) in one word, so that a thread that wakes
  // late can never take a piece of a round that it has not read.
  std::atomic<std::uint64_t> ticket_{0};
  std::atomic<std::uint32_t> pieces_{0};
  std::atomic<const Work*> work_{nullptr};
  std::atomic<std::uint32_t> done_{0};
  std::atomic<std::uint32_t> round_{0};  // what idle threads sleep on
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;  // written by whoever set failed_, read when all pieces are done
  std::vector<std::thread> workers_;
};

// Processors that this process may use.
int processors();

}  // namespace spikeformers
