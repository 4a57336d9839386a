// How a program runs: every step over all its rows, shared out among the threads.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "steps.hpp"
#include "sweep.hpp"

namespace spikeformers {
namespace {

constexpr std::int64_t kSmall = 1 << 15;  // additions that are not worth waking a thread
constexpr std::int64_t kTile = 1 << 20;   // bytes of weights that stay in the cache while rows pass

// Whether rows are many enough to pack the weights for them. Packing costs as much as reading every
// row of weights up to 40 times where it fires, of short rows less often (of 64 outputs 13 times), and a
// packed row costs a quarter of one more (on AVX2).
bool is_worth_packing(const Buffer& in, std::int64_t outputs) {
  std::int64_t events = 0;
  for (std::int64_t r = 0; r < in.rows; ++r) events += in.fired[static_cast<std::size_t>(r)];
  return events > (std::min<std::int64_t>(40, 8 + outputs / 12) + in.rows / 4) * in.width;
}

// Where a row's list goes; nowhere, where no product reads the buffer.
Listing listing_of(Buffer& out, std::int64_t row) {
  if (!out.is_listed) return {};
  thread_local std::vector<std::int32_t> scratch;
  scratch.resize(static_cast<std::size_t>(2 * out.width));
  const std::int64_t at = row * out.width;
  return {out.below_first, scratch.data(), out.index.data() + at, out.listed.data() + at};
}

}  // namespace

const float* Program::forward(std::span<Sequence* const> sequence, std::span<const std::int32_t> token,
                              std::span<const std::int64_t> wanted) {
  require(finished(), "the program is not finished");
  position_.clear();
  const auto rows = static_cast<std::int64_t>(token.size());
  if (sequence.size() != token.size())
    throw std::invalid_argument(std::to_string(sequence.size()) + " sequences for " + std::to_string(rows) +
                                " tokens: each token has one");
  require(rows >= 1, "no tokens");
  if (rows > kMaxRows)
    throw std::invalid_argument(std::to_string(rows) + " tokens in one call: at most " + std::to_string(kMaxRows));
  for (const Sequence* one : sequence) {
    require(one != nullptr && one->program_ == this, "a sequence of another program");
    require(!one->broken_, "a sequence whose last call failed half-way: begin a new one");
  }
  std::int64_t last = -1;
  for (const std::int64_t row : wanted) {
    require(row >= 0 && row < rows, "logits of a row that is not there");
    require(row > last, "the rows whose logits are wanted do not ascend");
    last = row;
  }
  for (const std::int32_t id : token)
    if (id < 0 || id >= vocabulary)
      throw std::invalid_argument("token " + std::to_string(id) + " is not among the " +
                                  std::to_string(vocabulary) + " of the vocabulary");
  const std::int64_t most = positions < 0 ? longest_ : std::min(positions, longest_);
  for (Sequence* one : sequence) position_.push_back(one->tokens_++);
  for (const std::int64_t position : position_)
    if (position >= most) {
      for (Sequence* one : sequence) one->tokens_ -= 1;
      throw std::invalid_argument("token " + std::to_string(position + 1) + " is past the " +
                                  std::to_string(most) + " positions of this model");
    }
  Frame frame{sequence, token, wanted, position_, false};
  frame.details = std::any_of(sequence.begin(), sequence.end(), [](const Sequence* one) { return one->details_ != nullptr; });
  try {
    if (frame.details) begin_details(frame);
    run_steps(frame);
    const float* logits = at(logits_, "logits").real.data();
    if (!all_finite(logits, static_cast<std::int64_t>(wanted.size()) * vocabulary))
      throw std::overflow_error("the logits are not finite");
    counters.rows += rows;
    return logits;
  } catch (...) {
    for (Sequence* one : sequence) one->broken_ = true;
    throw;
  }
}

void Program::run_steps(const Frame& frame) {
  finite_.store(true, std::memory_order_relaxed);
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const auto start = timed_ ? Clock::now() : Clock::time_point{};
    std::visit([&](const auto& one) { run(one, frame); }, steps_[i]);
    if (timed_) took(part_of(steps_[i]), start);
    if (!finite_.load(std::memory_order_relaxed))
      throw std::overflow_error("step " + std::to_string(i + 1) + " of " + std::to_string(steps_.size()) +
                                " reads values that are not finite, or a norm of zeros without an eps");
    if (frame.details) count_details(i, frame);
  }
}

void Program::took(Part part, Clock::time_point start) {
  const auto span = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
  nanoseconds_[static_cast<std::size_t>(part)] += span.count();
}

Part Program::part_of(const Step& step) const {
  if (const auto* linear = std::get_if<Linear>(&step))
    return buffers_[static_cast<std::size_t>(linear->out)]->selected ? Part::head : Part::products;
  if (std::holds_alternative<Attend>(step) || std::holds_alternative<Mix>(step) ||
      std::holds_alternative<Edges>(step))
    return Part::attention;
  const bool neurons = std::holds_alternative<Fire>(step) || std::holds_alternative<Encode>(step) ||
                       std::holds_alternative<Pair>(step) || std::holds_alternative<Rate>(step) ||
                       std::holds_alternative<Recount>(step) || std::holds_alternative<Norm>(step) ||
                       std::holds_alternative<GroupNorm>(step);
  return neurons ? Part::neurons : Part::other;
}

void Program::time(bool timed) {
  timed_ = timed;
  nanoseconds_.fill(0);
}

void Program::run_alone(Sequence& sequence, std::int64_t rows) {
  const std::vector<Sequence*> all(static_cast<std::size_t>(rows), &sequence);
  const std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows), 0);
  require(rows <= longest_, std::to_string(rows) + " tokens: whole sums hold " + std::to_string(longest_));
  position_.clear();
  for (std::int64_t r = 0; r < rows; ++r) position_.push_back(sequence.tokens_++);
  run_steps({all, tokens, {}, position_, false});
}

void Program::run(const Embed& step, const Frame& frame) {
  Buffer& out = at(step.out, "embed");
  const auto rows = static_cast<std::int64_t>(frame.token.size());
  out.resize(rows * steps);
  const std::int64_t width = out.width;
  pool.run(rows, [&](std::int64_t r) {
    const std::int64_t id = frame.token[static_cast<std::size_t>(r)];
    float* to = out.real.data() + r * width;
    for (std::int64_t d = 0; d < width; ++d) {
      const std::int64_t row = step.by_column ? d : id, column = step.by_column ? id : d;
      to[d] = step.table.f32 != nullptr
                  ? step.table.f32[row * step.table.outputs + column]
                  : static_cast<float>(step.table.whole(row, column)) * step.table.scale[id];
    }
    if (step.positions.data != nullptr) {
      const float* add = step.positions.data + frame.position[static_cast<std::size_t>(r)] * width;
      for (std::int64_t d = 0; d < width; ++d) to[d] += add[d];
    }
    for (int s = 1; s < steps; ++s)
      std::memcpy(to + s * rows * width, to, static_cast<std::size_t>(width) * sizeof(float));
  });
}

void Program::run(const Select& step, const Frame& frame) {
  const Buffer& in = at(step.in, "select");
  Buffer& out = at(step.out, "select");
  out.resize(static_cast<std::int64_t>(frame.wanted.size()));
  const std::int64_t rows = in.rows / steps, width = in.width;
  for (std::size_t w = 0; w < frame.wanted.size(); ++w) {
    const float* from = in.real.data() + frame.wanted[w] * width;
    float* to = out.real.data() + static_cast<std::int64_t>(w) * width;
    for (std::int64_t d = 0; d < width; ++d) {
      float sum = from[d];
      for (int s = 1; s < steps; ++s) sum += from[s * rows * width + d];
      to[d] = sum / static_cast<float>(steps);
    }
  }
}

void Program::run(const Norm& step, const Frame&) {
  const Buffer& in = at(step.in, "norm");
  Buffer& out = at(step.out, "norm");
  out.resize(in.rows);
  pool.run(pieces_of(in.rows, kRowsAtOnce), [&](std::int64_t piece) {
    const std::int64_t end = std::min(in.rows, (piece + 1) * kRowsAtOnce);
    for (std::int64_t r = piece * kRowsAtOnce; r < end; ++r)
      expect_finite(kernels.norm(step.kind, in.real.data() + r * in.width + step.offset, out.width,
                                 step.gain.data, step.shift.data, step.eps, out.real.data() + r * out.width));
  });
}

void Program::run(const Fire& step, const Frame&) {
  const Buffer& in = at(step.in, "fire");
  Buffer& out = at(step.out, "fire");
  out.resize(in.rows);
  const Normaliser norm{step.kind, step.gain.data, step.shift.data, step.eps};
  if (in.steps > 1) {
    fire_over_steps(norm, in, step.offset, out);
  } else {
    for_rows(pool, in.rows, [&](std::int64_t r) {
      const Fired fired = kernels.fire_row(out.neuron, norm, in.real.data() + r * in.width + step.offset, out.width,
                                           out.count.data() + r * out.width, listing_of(out, r));
      expect_finite(fired.finite);
      out.fired[static_cast<std::size_t>(r)] = fired.n;
    });
  }
  count_events(out);
}

// A neuron's potential goes from one simulation step of a token to the next.
void Program::fire_over_steps(const Normaliser& norm, const Buffer& in, std::int64_t offset, Buffer& out) {
  const std::int64_t rows = in.rows / in.steps, width = out.width;
  for_rows(pool, rows, [&](std::int64_t r) {
    thread_local std::vector<float> current, carry;
    current.resize(static_cast<std::size_t>(width));
    carry.resize(static_cast<std::size_t>(width));
    for (int s = 0; s < in.steps; ++s) {
      const std::int64_t row = s * rows + r;
      std::int8_t* count = out.count.data() + row * width;
      expect_finite(kernels.norm(norm.kind, in.real.data() + row * in.width + offset, width, norm.gain, norm.shift,
                                 norm.eps, current.data()));
      kernels.fire(out.neuron, current.data(), carry.data(), s == 0, width, count);
      out.fired[static_cast<std::size_t>(row)] = kernels.list(count, width, listing_of(out, row));
    }
  });
}

void Program::collect(Buffer& out, bool fired_here) {
  for_rows(pool, out.rows, [&](std::int64_t r) {
    out.fired[static_cast<std::size_t>(r)] =
        kernels.list(out.count.data() + r * out.width, out.width, listing_of(out, r));
  });
  if (fired_here) count_events(out);
}

void Program::count_events(const Buffer& out) {
  counters.neurons += out.rows * out.width;
  for (std::int64_t r = 0; r < out.rows; ++r) counters.events += out.fired[static_cast<std::size_t>(r)];
}

void Program::run(const Linear& step, const Frame&) {
  Buffer &in = at(step.in, "linear"), &out = at(step.out, "linear");
  out.resize(in.rows);
  const Weights& w = step.weights;
  if (in.holds != Holds::spikes) {
    if (in.holds == Holds::reals)
      product_real(step, {in.real.data(), in.rows, in.width, nullptr}, out);
    else
      product_counts(step, in, out);
    return;
  }
  for (std::int64_t r = 0; r < in.rows; ++r)
    counters.weight_bytes += in.fired[static_cast<std::size_t>(r)] * w.row_bytes();
  if (w.f32 == nullptr) {
    is_worth_packing(in, w.outputs) ? product_whole_batch(step, in, out) : product_whole(step, in, out);
    return;
  }
  thread_local std::vector<float> coefficients;
  std::vector<float>& coef = coefficients;
  coef.resize(static_cast<std::size_t>(in.rows * in.width));
  for (std::int64_t r = 0; r < in.rows; ++r) {
    const Events events = in.events(r);
    const std::int8_t* count = in.listed.data() + r * in.width;
    for (std::int64_t e = 0; e < events.n; ++e)
      coef[static_cast<std::size_t>(r * in.width + e)] =
          static_cast<float>(count[e]) * in.neuron.unit;
  }
  const std::int64_t columns = in.rows == 1 ? columns_of_a_piece(w.outputs, pool.threads()) : 128;
  const auto one = [&](std::int64_t piece) {
    const std::int64_t begin = piece * columns, end = std::min(w.outputs, begin + columns);
    for (std::int64_t r = 0; r < in.rows; ++r) {
      float* to = out.real.data() + r * w.outputs;
      kernels.rows_f32(w.f32, w.outputs, in.events(r), coef.data() + r * in.width, begin, end, to);
      if (step.bias.data != nullptr)
        for (std::int64_t o = begin; o < end; ++o) to[o] += step.bias.data[o];
    }
  };
  pool.run(pieces_of(w.outputs, columns), one);
}

void Program::product_whole(const Linear& step, const Buffer& in, Buffer& out) {
  const Weights& w = step.weights;
  const CountKernels& count = count_kernels(kernels);
  if (const std::int8_t* packed =
          in.rows == 1 ? swept(step, in.events(0).n, count.sweep_spikes_from) : nullptr) {
    thread_local std::vector<std::int8_t> all;
    all.assign(static_cast<std::size_t>(pieces_of(in.width, 4) * 4), 0);
    std::copy_n(in.count.data(), in.width, all.data());
    sweep_token(pool, count, w, packed, all, [&](std::int64_t begin, std::int64_t end, const std::int32_t* sum) {
      float* to = out.real.data() + begin;
      for (std::int64_t o = 0; o < end - begin; ++o)
        to[o] = static_cast<float>(sum[o]) * (w.scale[begin + o] * in.neuron.unit);
      if (step.bias.data != nullptr)
        for (std::int64_t o = 0; o < end - begin; ++o) to[o] += step.bias.data[begin + o];
    });
    return;
  }
  std::int64_t work = 0;
  for (std::int64_t r = 0; r < in.rows; ++r) work += in.events(r).n * w.outputs;
  std::int64_t columns = work < kSmall ? w.outputs : columns_of_a_piece(w.outputs, pool.threads());
  if (in.rows > 1) columns = std::min(columns, std::max<std::int64_t>(512, kTile / in.width / 64 * 64));
  pool.run(pieces_of(w.outputs, columns), [&](std::int64_t piece) {
    const std::int64_t begin = piece * columns, end = std::min(w.outputs, begin + columns);
    const auto rows = w.i8 != nullptr ? kernels.rows_i8 : kernels.rows_i4;
    for (std::int64_t r = 0; r < in.rows; ++r)
      rows(w.i8 != nullptr ? w.i8 : w.i4, w.row_bytes(), in.events(r), in.listed.data() + r * in.width, begin, end,
           {w.scale, in.neuron.unit, step.bias.data}, out.real.data() + r * w.outputs);
  });
}

// Many tokens: a block of 64 columns and 256 rows is packed once and serves all of them.
void Program::product_whole_batch(const Linear& step, const Buffer& in, Buffer& out) {
  const Weights& w = step.weights;
  const std::int64_t blocks = pieces_of(in.width, kPanelRows), rows = in.rows;
  // The groups of four inputs in which any fired, and their counts in a word, for row and block.
  thread_local std::vector<std::int32_t> all_groups;
  thread_local std::vector<std::int64_t> all_starts;
  thread_local std::vector<std::uint32_t> all_fours;
  std::vector<std::int32_t>&groups = all_groups, totals_of;
  std::vector<std::int64_t>& starts = all_starts;
  std::vector<std::uint32_t>& fours = all_fours;
  groups.resize(static_cast<std::size_t>(rows * pieces_of(in.width, 4)));
  fours.resize(groups.size());
  starts.clear();
  totals_of.resize(static_cast<std::size_t>(rows));
  std::size_t n = 0;
  for (std::int64_t block = 0; block < blocks; ++block)
    for (std::int64_t r = 0; r < rows; ++r) {
      starts.push_back(static_cast<std::int64_t>(n));
      const std::int8_t* count = in.count.data() + r * in.width;
      const std::int64_t begin = block * kPanelRows, end = std::min(in.width, begin + kPanelRows);
      const std::int64_t whole = begin + (end - begin) / 4 * 4;
      const auto keep = [&](std::int64_t i, std::int64_t bytes) {
        std::uint32_t four = 0;
        std::memcpy(&four, count + i, static_cast<std::size_t>(bytes));
        groups[n] = static_cast<std::int32_t>((i - begin) / 4);
        fours[n] = four;
        n += four != 0;  // the next is written over a silent one: no branch to guess
      };
      for (std::int64_t i = begin; i < whole; i += 4) keep(i, 4);
      if (whole < end) keep(whole, end - whole);
      std::int32_t total = 0;
      for (std::int64_t i = begin; i < end; ++i) total += count[i];
      totals_of[static_cast<std::size_t>(r)] += total;
    }
  starts.push_back(static_cast<std::int64_t>(n));
  pool.run(pieces_of(w.outputs, kPanelColumns), [&](std::int64_t piece) {
    alignas(64) std::uint8_t panel[kPanelRows * kPanelColumns];
    thread_local std::vector<std::int32_t> sums;
    sums.assign(static_cast<std::size_t>(rows * kPanelColumns), 0);
    const std::int64_t begin = piece * kPanelColumns, end = std::min(w.outputs, begin + kPanelColumns);
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t first = block * kPanelRows;
      const std::int64_t inputs = std::min<std::int64_t>(kPanelRows, in.width - first);
      if (w.i8 != nullptr) {
        kernels.panel_pack(w.i8 + first * w.outputs + begin, w.outputs, inputs, end - begin, panel);
      } else {
        alignas(64) std::int8_t plain[kPanelRows * kPanelColumns];
        for (std::int64_t i = 0; i < inputs; ++i)
          kernels.unpack_i4(w.i4 + (first + i) * w.row_bytes() + begin / 2, 1, plain + i * kPanelColumns);
        kernels.panel_pack(plain, kPanelColumns, inputs, end - begin, panel);
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto from = static_cast<std::size_t>(starts[static_cast<std::size_t>(block * rows + r)]);
        const auto to = static_cast<std::size_t>(starts[static_cast<std::size_t>(block * rows + r + 1)]);
        kernels.panel_add(panel, groups.data() + from, fours.data() + from,
                          static_cast<std::int64_t>(to - from), sums.data() + r * kPanelColumns);
      }
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      float* to = out.real.data() + r * w.outputs;
      const std::int32_t* sum = sums.data() + r * kPanelColumns;
      const std::int32_t over = 128 * totals_of[static_cast<std::size_t>(r)];
      for (std::int64_t o = begin; o < end; ++o)
        to[o] = static_cast<float>(sum[o - begin] - over) * (w.scale[o] * in.neuron.unit);
      if (step.bias.data != nullptr)
        for (std::int64_t o = begin; o < end; ++o) to[o] += step.bias.data[o];
    }
  });
}

void Program::run(const Add& step, const Frame&) {
  const Buffer& in = at(step.in, "add");
  Buffer& to = at(step.to, "add");
  const std::int64_t n = in.rows * in.width;
  for (std::int64_t i = 0; i < n; ++i) to.real[static_cast<std::size_t>(i)] += in.real[static_cast<std::size_t>(i)];
}

}  // namespace spikeformers
