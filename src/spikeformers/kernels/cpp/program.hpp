// A model as a list of steps over shared kernels: what an architecture is to the engine.
//
// Python builds it once, from an engine file (spikeformers/engine/build.py), and every step checks
// the shapes that it is given; after that a whole token, or a whole prompt, is one call. Steps that
// only some architectures take are in binary.cpp (BiSpikCLM) and converted.cpp.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "attention.hpp"
#include "buffers.hpp"
#include "cache.hpp"
#include "counts.hpp"
#include "details.hpp"
#include "kernels.hpp"
#include "mix.hpp"
#include "converted_kernels.hpp"
#include "pool.hpp"

namespace spikeformers {

struct Program;

// One text: its caches, one for each attention layer and simulation step.
class Sequence {
 public:
  explicit Sequence(const Program& program);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;
  const Program& program() const { return *program_; }
  // These two, and what changes them, take turns: Program::busy().
  std::int64_t tokens() const { return tokens_; }
  std::int64_t bytes() const;
  // Another sequence of the same tokens, which continues on its own; pages are shared until written.
  std::unique_ptr<Sequence> fork() const;

 private:
  friend struct Program;
  const Program* program_;
  std::int64_t tokens_ = 0;
  bool broken_ = false;  // a call failed half-way, so that its caches differ in length
  std::vector<std::unique_ptr<BitCache>> bits_;
  std::vector<std::unique_ptr<SumCache>> sums_;
  std::vector<std::unique_ptr<RowCache>> rows_;
  std::vector<std::vector<std::int8_t>> last_;  // spikes of the last token, for each shift
  std::unique_ptr<Details> details_;            // null: none are kept
};

struct Embed {
  int out;
  Weights table;     // [width, vocabulary]: the head's own matrix, read by column, where tied
  bool by_column;
  Vector positions;  // [positions * width], or none
};
struct Select {      // keeps the rows whose logits are wanted, and averages simulation steps
  int in, out;
};
struct Norm {
  int in, out;
  std::int64_t offset;
  NormKind kind;
  Vector gain, shift;
  float eps;
};
struct Fire {        // norm, then neuron; reads out.width values from `offset` of each row
  int in, out;
  std::int64_t offset;
  NormKind kind;
  Vector gain, shift;
  float eps;
};
struct Encode {      // norm, then neurons whose threshold follows the token (counts.cpp)
  int in, out;
  std::int64_t offset;
  NormKind kind;
  Vector gain, shift;
  float eps;
  TokenCode code;
};
struct Linear {
  int in, out;
  Weights weights;
  Vector bias;
  std::size_t sweep;  // its place in Program::sweeps_
};
struct Attend {
  int query, key, value, out, heads;
  Rule rule;
  int winners;
  float weight;      // of each winner
  int digits;        // binary ones of a weight, of powers
  Vector scale;      // [heads]
  std::vector<BiasLine> bias;
  int slot;          // of the sequence's caches
};
struct Add {
  int in, to;
};
struct Shift {       // the first `moved` spikes of a token are those of the token before (shift.cpp)
  int to;
  std::int64_t moved;
  int slot;          // of the sequence's last spikes
};
// ---- a stream of spikes (binary.cpp)
enum class Joining : std::int32_t { set, add, either };
struct Join {        // spikes into a stream of whole numbers: = , += or, of zeros and ones, "or"
  int in, to;
  Joining how;
};
struct Recount {     // such a stream as spikes: no neuron, what flows is small whole numbers
  int in, out;
};
struct Rate {        // norm, then a neuron that hears it for `steps` steps; its spikes are summed
  int in, out;
  Neuron neuron;
  int steps;
};
struct Edges {       // softmax-free spiking attention: a neuron for each query and key
  int query, key, value, out, heads;
  float decay;
  Vector scale, threshold;  // [heads]
  std::vector<BiasLine> bias;
  int slot;
};

// ---- a dense model, some parts of which spike (converted.cpp, mix.cpp)
struct Pair {        // a pair of neurons for each of out.width values from `offset`: what they say
  int in, out;
  std::int64_t offset;
  Vector value;      // of one spike: [out.width], or twice that where OFF has its own
  float low, high;   // of its counts
  bool counts;       // these, not the values they say
};
struct Activate {
  int to;
  Activation kind;
};
struct SoftCap {  // cap * tanh(x / cap)
  int to;
  float cap;
};
struct Multiply {
  int in, to;
};
struct Scale {       // of each channel
  int to;
  Vector by;
};
struct Rotate {      // rotary positions on the first channels of each head, from `offset`
  int to, heads;
  std::int64_t offset, width;  // of one head
  Vector frequency;            // half as many as channels that turn
  float factor;
};
struct GroupNorm {   // RMS of each group of gain.n neighbours
  int in, out;
  Vector gain;
  float eps;
};
struct Mix {         // attention over a cache of rows: counts, or the reals of a softmax
  int query, key, value, out, heads, kv_heads;
  Rule rule;
  int winners;
  float weight;      // of each winner
  int digits;        // binary ones of a weight, of powers
  Vector scale;      // [heads]
  Number type;       // of the cache
  std::int64_t window;  // keys that a query sees, its own the last; 0: all
  int slot;
};

using Step =
    std::variant<Embed, Select, Norm, Fire, Linear, Attend, Add, Shift, Join, Recount, Rate, Edges,
                 Pair, Activate, SoftCap, Multiply, Scale, Rotate, GroupNorm, Mix, Encode>;

// Sums over everything that ran, for density and bytes; measured, not estimated.
struct Counters {
  std::int64_t rows = 0, neurons = 0, events = 0, spikes = 0, weight_bytes = 0, cache_bytes = 0,
               pages_read = 0, pages_skipped = 0, pairs = 0, edges = 0,
               sweeps = 0;  // products that read their matrix from end to end
};

// What the time of a step is spent on. `head` is the product that makes the logits; `sampling` the
// choice of a token, which is not a step.
enum class Part : std::int32_t { products, neurons, attention, head, sampling, other };
constexpr const char* kParts[] = {"products", "neurons", "attention", "head", "sampling", "other"};
using Clock = std::chrono::steady_clock;

struct Program {
  Program(const Kernels& kernels, int threads, int steps, std::int64_t vocabulary);

  int real(std::int64_t width);
  int spikes(std::int64_t width, const Neuron& neuron);
  int counts(std::int64_t width);
  // Each throws std::invalid_argument where shapes or kinds do not fit.
  void embed(int out, const Weights& table, bool by_column, Vector positions);
  void select(int in, int out);
  void norm(int in, int out, std::int64_t offset, NormKind kind, Vector gain, Vector shift, float eps);
  void fire(int in, int out, std::int64_t offset, NormKind kind, Vector gain, Vector shift, float eps);
  void encode(int in, int out, std::int64_t offset, NormKind kind, Vector gain, Vector shift, float eps,
              int token_steps, float reach, float dead_zone, bool power_of_two);
  void linear(int in, int out, const Weights& weights, Vector bias);
  void attend(int query, int key, int value, int out, int heads, Rule rule, int winners,
              float weight, int digits, Vector scale, Vector bias);
  void add(int in, int to);
  void shift(int to, std::int64_t moved);
  void join(int in, int to, Joining how);
  void recount(int in, int out);
  void rate(int in, int out, const Neuron& neuron, int steps);
  void edges(int query, int key, int value, int out, int heads, float decay, Vector scale,
             Vector threshold, Vector bias);
  void pair(int in, int out, std::int64_t offset, Vector value, int largest, bool sign, bool counts);
  void activate(int to, Activation kind);
  void soft_cap(int to, float cap);
  void multiply(int in, int to);
  void scale(int to, Vector by);
  void rotate(int to, std::int64_t offset, int heads, std::int64_t width, Vector frequency, float factor);
  void group_norm(int in, int out, Vector gain, float eps);
  void mix(int query, int key, int value, int out, int heads, int kv_heads, Rule rule, int winners,
           float weight, int digits, Vector scale, int largest, bool half, std::int64_t window);
  // The steps that follow belong to this layer, from 0 as they come; to none with -1, as at first.
  void layer(int number);
  void finish(int logits);
  bool finished() const { return logits_ >= 0; }

  // Feeds tokens: row r is `token[r]` of `sequence[r]`, whose rows come in order. `wanted` are the
  // rows whose logits are computed, ascending. Returns them, [wanted, vocabulary], in a buffer that
  // the next call overwrites. Throws std::invalid_argument for what cannot be fed, which changes
  // nothing, and std::overflow_error where a value is not finite; then the sequences are done for.
  const float* forward(std::span<Sequence* const> sequence, std::span<const std::int32_t> token,
                       std::span<const std::int64_t> wanted);

  // From now on, whether the time of each part is taken, from zero; without it nothing is.
  void time(bool timed);
  bool timed() const { return timed_; }
  void took(Part part, Clock::time_point start);
  const std::array<std::int64_t, std::size(kParts)>& nanoseconds() const { return nanoseconds_; }

  // For a step by itself, in tests and benchmarks: spikes to read, then every step of the program
  // once more, over `rows` tokens of `sequence`.
  void fill(int id, const std::int8_t* count, std::int64_t rows, int steps = 1);
  void fill(int id, const float* real, std::int64_t rows, std::int64_t counts);
  void run_alone(Sequence& sequence, std::int64_t rows);

  const Buffer& buffer(int id) const;
  // From now on the sequence keeps the details of its last token (details.hpp).
  void keep_details(Sequence& sequence) const;
  // Those of a sequence that keeps them; std::invalid_argument of another.
  DetailsRead details(const Sequence& sequence) const;
  // Whoever reads or changes this program, or one of its sequences, holds it meanwhile.
  std::mutex& busy() const { return busy_; }

  const Kernels& kernels;
  Pool pool;
  const int steps;
  const std::int64_t vocabulary;
  std::int64_t positions = -1;  // learned ones, which bound a sequence; -1: unbounded
  Counters counters;

 private:
  friend class Sequence;
  struct Frame {
    std::span<Sequence* const> sequence;
    std::span<const std::int32_t> token;
    std::span<const std::int64_t> wanted;
    std::span<const std::int64_t> position;
    bool details = false;  // whether any of the sequences keeps them
  };
  Buffer& at(int id, const char* what);
  Buffer& output(int id, Holds wanted, const char* what);
  const Buffer& input(int id, Holds wanted, const char* what);
  void check_norm(const char* what, NormKind kind, Vector gain, Vector shift, float eps,
                  std::int64_t width) const;
  void run_steps(const Frame& frame);
  Part part_of(const Step& step) const;
  int layer_of(std::size_t step) const;
  void begin_details(const Frame& frame);
  void count_details(std::size_t step, const Frame& frame);  // after it ran
  // Called by a step, from any thread, for each row that it read: false ends the call after the step.
  void expect_finite(bool fine) {
    if (!fine) finite_.store(false, std::memory_order_relaxed);
  }
  void run(const Embed& step, const Frame& frame);
  void run(const Select& step, const Frame& frame);
  void run(const Norm& step, const Frame& frame);
  void run(const Fire& step, const Frame& frame);
  void run(const Linear& step, const Frame& frame);
  void run(const Attend& step, const Frame& frame);
  void run(const Add& step, const Frame& frame);
  void run(const Shift& step, const Frame& frame);
  void run(const Join& step, const Frame& frame);
  void run(const Recount& step, const Frame& frame);
  void run(const Rate& step, const Frame& frame);
  void run(const Edges& step, const Frame& frame);
  void run(const Pair& step, const Frame& frame);
  void run(const Activate& step, const Frame& frame);
  void run(const SoftCap& step, const Frame& frame);
  void run(const Multiply& step, const Frame& frame);
  void run(const Scale& step, const Frame& frame);
  void run(const Rotate& step, const Frame& frame);
  void run(const GroupNorm& step, const Frame& frame);
  void run(const Mix& step, const Frame& frame);
  void run(const Encode& step, const Frame& frame);
  void product_real(const Linear& step, const RealRows& in, Buffer& out);
  // The matrix as a sweep reads it, where that is faster for a token in which `fired` inputs did; or
  // null. Packs it where most tokens are of that kind.
  const std::int8_t* swept(const Linear& step, std::int64_t fired, float from);
  void pack_sweep(Sweep& sweep, const Weights& w);
  void product_counts(const Linear& step, const Buffer& in, Buffer& out);
  void product_counts_batch(const Linear& step, const Buffer& in, Buffer& out);
  void product_grouped(const Linear& step, const Buffer& in, Buffer& out);
  void product_grouped_batch(const Linear& step, const Buffer& in, Buffer& out);
  void product_grouped_real(const Linear& step, const RealRows& in, Buffer& out);
  void list(Buffer& spikes, bool whole_bytes);
  // Finds the inputs that fired; they count as events where they are a neuron's of this step.
  void collect(Buffer& out, bool fired_here);
  void count_events(const Buffer& out);
  void fire_over_steps(const Normaliser& norm, const Buffer& in, std::int64_t offset, Buffer& out);
  void product_whole(const Linear& step, const Buffer& in, Buffer& out);
  void product_whole_batch(const Linear& step, const Buffer& in, Buffer& out);

  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Step> steps_;
  std::vector<Sweep> sweeps_;  // of each linear step
  SweepMemory swept_;
  int logits_ = -1, slots_ = 0, shifts_ = 0, layers_ = 0;
  std::vector<std::pair<std::size_t, int>> layer_marks_;  // from this step on, this layer
  std::int64_t longest_ = INT32_MAX;  // tokens of a sequence that its whole sums hold
  std::atomic<bool> finite_{true};
  std::vector<std::int64_t> position_;  // of the rows of a call
  bool timed_ = false;
  std::array<std::int64_t, std::size(kParts)> nanoseconds_{};
  mutable std::mutex busy_;
};

}  // namespace spikeformers
