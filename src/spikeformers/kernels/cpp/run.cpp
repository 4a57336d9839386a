// How a program runs: every step over all its rows, shared out among the threads.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "steps.hpp"

namespace spikeformers {
namespace {

constexpr std::int64_t kSmall = 1 << 15;  // additions that are not worth waking a thread

AttentionScratch& scratch_of_thread() {
  thread_local AttentionScratch scratch;
  return scratch;
}

}  // namespace

const float* Program::forward(const std::vector<Sequence*>& sequence,
                              const std::vector<std::int32_t>& token,
                              const std::vector<std::int64_t>& wanted) {
  if (logits_ < 0) throw std::invalid_argument("the program is not finished");
  Frame frame{sequence, token, wanted, {}};
  const auto rows = static_cast<std::int64_t>(token.size());
  for (const Sequence* one : sequence)
    if (one->program_ != this) throw std::invalid_argument("a sequence of another program");
  for (const std::int64_t row : wanted)
    if (row < 0 || row >= rows) throw std::invalid_argument("logits of a row that is not there");
  for (const std::int32_t id : token)
    if (id < 0 || id >= vocabulary)
      throw std::invalid_argument("token " + std::to_string(id) + " is not among the " +
                                  std::to_string(vocabulary) + " of the vocabulary");
  for (Sequence* one : sequence) frame.position.push_back(one->tokens_++);
  if (positions >= 0)
    for (const std::int64_t position : frame.position)
      if (position >= positions) {
        for (Sequence* one : sequence) one->tokens_ -= 1;
        throw std::invalid_argument("token " + std::to_string(position + 1) + " is past the " +
                                    std::to_string(positions) + " positions of this model");
      }
  counters.rows += rows;
  for (const Step& step : steps_)
    std::visit([&](const auto& one) { run(one, frame); }, step);
  return at(logits_, "logits").real.data();
}

void Program::run_alone(Sequence& sequence, std::int64_t rows) {
  const std::vector<Sequence*> all(static_cast<std::size_t>(rows), &sequence);
  const std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows), 0);
  Frame frame{all, tokens, {}, {}};
  for (std::int64_t r = 0; r < rows; ++r) frame.position.push_back(sequence.tokens_++);
  for (const Step& step : steps_)
    std::visit([&](const auto& one) { run(one, frame); }, step);
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
      kernels.norm(step.kind, in.real.data() + r * in.width + step.offset, out.width,
                   step.gain.data, step.shift.data, step.eps, out.real.data() + r * out.width);
  });
}

void Program::run(const Fire& step, const Frame&) {
  const Buffer& in = at(step.in, "fire");
  Buffer& out = at(step.out, "fire");
  out.resize(in.rows);
  const std::int64_t rows = in.rows / in.steps, width = out.width;
  pool.run(pieces_of(rows, kRowsAtOnce), [&](std::int64_t piece) {
    thread_local std::vector<float> current, carry;
    current.resize(static_cast<std::size_t>(width));
    if (in.steps > 1) carry.resize(static_cast<std::size_t>(width));
    const std::int64_t end = std::min(rows, (piece + 1) * kRowsAtOnce);
    for (std::int64_t r = piece * kRowsAtOnce; r < end; ++r)
      for (int s = 0; s < in.steps; ++s) {
        const std::int64_t row = s * rows + r;
        kernels.norm(step.kind, in.real.data() + row * in.width + step.offset, width,
                     step.gain.data, step.shift.data, step.eps, current.data());
        kernels.fire(out.neuron, current.data(), in.steps > 1 ? carry.data() : nullptr, s == 0,
                     width, out.count.data() + row * width);
      }
  });
  collect(out, true);
}

void Program::collect(Buffer& out, bool fired_here) {
  pool.run(pieces_of(out.rows, kRowsAtOnce), [&](std::int64_t piece) {
    const std::int64_t end = std::min(out.rows, (piece + 1) * kRowsAtOnce);
    for (std::int64_t r = piece * kRowsAtOnce; r < end; ++r) {
      const std::int8_t* count = out.count.data() + r * out.width;
      std::int32_t* index = out.index.data() + r * out.width;
      std::int64_t n = 0, i = 0;
      for (; i + 8 <= out.width; i += 8) {  // most words of eight are silent
        std::uint64_t word;
        std::memcpy(&word, count + i, 8);
        if (word == 0) continue;
        for (std::int64_t k = i; k < i + 8; ++k) {
          index[n] = static_cast<std::int32_t>(k);
          n += count[k] != 0;
        }
      }
      for (; i < out.width; ++i)
        if (count[i] != 0) index[n++] = static_cast<std::int32_t>(i);
      out.fired[static_cast<std::size_t>(r)] = n;
    }
  });
  if (!fired_here) return;
  counters.neurons += out.rows * out.width;
  for (std::int64_t r = 0; r < out.rows; ++r) counters.events += out.fired[static_cast<std::size_t>(r)];
}

void Program::run(const Linear& step, const Frame&) {
  Buffer &in = at(step.in, "linear"), &out = at(step.out, "linear");
  out.resize(in.rows);
  const Weights& w = step.weights;
  if (!in.spiking) {
    product_real(step, in, out);
    return;
  }
  for (std::int64_t r = 0; r < in.rows; ++r)
    counters.weight_bytes += in.fired[static_cast<std::size_t>(r)] * w.row_bytes();
  if (w.f32 == nullptr) {
    in.rows >= 4 ? product_whole_batch(step, in, out) : product_whole(step, in, out);
    return;
  }
  thread_local std::vector<float> coefficients;
  std::vector<float>& coef = coefficients;
  coef.resize(static_cast<std::size_t>(in.rows * in.width));
  for (std::int64_t r = 0; r < in.rows; ++r) {
    const Events events = in.events(r);
    const std::int8_t* count = in.count.data() + r * in.width;
    for (std::int64_t e = 0; e < events.n; ++e)
      coef[static_cast<std::size_t>(r * in.width + e)] =
          static_cast<float>(count[events.index[e]]) * in.neuron.unit;
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
  std::int64_t work = 0;
  for (std::int64_t r = 0; r < in.rows; ++r) work += in.events(r).n * w.outputs;
  const std::int64_t columns = work < kSmall ? w.outputs : columns_of_a_piece(w.outputs, pool.threads());
  pool.run(pieces_of(w.outputs, columns), [&](std::int64_t piece) {
    thread_local std::vector<std::int8_t> counts;
    const std::int64_t begin = piece * columns, end = std::min(w.outputs, begin + columns);
    for (std::int64_t r = 0; r < in.rows; ++r) {
      const Events events = in.events(r);
      counts.resize(static_cast<std::size_t>(events.n));
      for (std::int64_t e = 0; e < events.n; ++e)
        counts[static_cast<std::size_t>(e)] = in.count[static_cast<std::size_t>(r * in.width + events.index[e])];
      const auto rows = w.i8 != nullptr ? kernels.rows_i8 : kernels.rows_i4;
      rows(w.i8 != nullptr ? w.i8 : w.i4, w.row_bytes(), events, counts.data(), begin, end,
           {w.scale, in.neuron.unit, step.bias.data}, out.real.data() + r * w.outputs);
    }
  });
}

// Many tokens: a block of 64 columns and 256 rows is packed once and serves all of them.
void Program::product_whole_batch(const Linear& step, const Buffer& in, Buffer& out) {
  const Weights& w = step.weights;
  const std::int64_t blocks = pieces_of(in.width, kPanelRows), rows = in.rows;
  // The groups of four inputs in which any fired, and their counts in a word, for row and block.
  thread_local std::vector<std::int32_t> all_groups, all_starts;
  thread_local std::vector<std::uint32_t> all_fours;
  std::vector<std::int32_t>&groups = all_groups, &starts = all_starts, totals_of;
  std::vector<std::uint32_t>& fours = all_fours;
  groups.resize(static_cast<std::size_t>(rows * pieces_of(in.width, 4)));
  fours.resize(groups.size());
  starts.clear();
  totals_of.resize(static_cast<std::size_t>(rows));
  std::size_t n = 0;
  for (std::int64_t block = 0; block < blocks; ++block)
    for (std::int64_t r = 0; r < rows; ++r) {
      starts.push_back(static_cast<std::int32_t>(n));
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
  starts.push_back(static_cast<std::int32_t>(n));
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

void Program::run(const Attend& step, const Frame& frame) {
  const Buffer &q = at(step.query, "attend"), &k = at(step.key, "attend"), &v = at(step.value, "attend");
  Buffer& out = at(step.out, "attend");
  out.resize(q.rows);
  const auto rows = static_cast<std::int64_t>(frame.token.size());
  const std::int64_t width = q.width / step.heads;
  const auto slot = [&](int s) { return static_cast<std::size_t>(step.slot * steps + s); };
  if (step.rule != Rule::ssa)
    for (int s = 0; s < steps; ++s)
      for (std::int64_t r = 0; r < rows; ++r)
        frame.sequence[static_cast<std::size_t>(r)]->bits_[slot(s)]->extend(1);
  // A head's keys and values go into its own words of a page, so heads do not meet.
  std::atomic<std::int64_t> cache_bytes{0}, pages_read{0}, pages_skipped{0};
  const auto one_head = [&](int h, std::int64_t r, int s) {
    Sequence& sequence = *frame.sequence[static_cast<std::size_t>(r)];
    const std::int64_t position = frame.position[static_cast<std::size_t>(r)];
    const std::int64_t at = (s * rows + r) * q.width + h * width;
    const float scale = step.scale.data[h];
    if (step.rule == Rule::ssa) {
      std::int64_t* sum = sequence.sums_[slot(s)]->sum.data() + h * width * width;
      thread_local std::vector<std::int64_t> total;
      total.assign(static_cast<std::size_t>(width), 0);
      for (std::int64_t i = 0; i < width; ++i) {
        std::int64_t* row = sum + i * width;
        if (const std::int64_t c = k.count[static_cast<std::size_t>(at + i)]; c != 0)
          for (std::int64_t d = 0; d < width; ++d) row[d] += c * v.count[static_cast<std::size_t>(at + d)];
        if (const std::int64_t c = q.count[static_cast<std::size_t>(at + i)]; c != 0)
          for (std::int64_t d = 0; d < width; ++d) total[static_cast<std::size_t>(d)] += c * row[d];
      }
      const double unit = static_cast<double>(q.neuron.unit) * k.neuron.unit * scale * v.neuron.unit;
      for (std::int64_t d = 0; d < width; ++d)
        out.real[static_cast<std::size_t>(at + d)] =
            static_cast<float>(static_cast<double>(total[static_cast<std::size_t>(d)]) * unit);
      return;
    }
    const BitCache& cache = *sequence.bits_[slot(s)];
    AttentionScratch& scratch = scratch_of_thread();
    scratch.pages_read = scratch.pages_skipped = scratch.words_read = 0;
    const auto unit = static_cast<float>(static_cast<double>(q.neuron.unit) * k.neuron.unit);
    const Scoring scoring{unit, scale, &step.bias[static_cast<std::size_t>(h)]};
    const std::int8_t* query = q.count.data() + at;
    std::int64_t read = 0;
    if (step.rule == Rule::winners) {
      find_winners(kernels, cache, h, query, static_cast<int>(width), position, scoring,
                   step.winners, scratch);
      if (out.spiking) {
        std::int8_t* to = out.count.data() + at;
        std::memset(to, 0, static_cast<std::size_t>(width));
        cache.add_value(scratch.winners[0].token, h, std::int8_t{1}, to);
      } else {
        thread_local std::vector<float> row;
        float* to = out.real.data() + at;
        std::fill_n(to, width, 0.0f);
        for (const Winner& winner : scratch.winners) {  // best first, as PyTorch adds them
          row.assign(static_cast<std::size_t>(width), 0.0f);
          cache.add_value(winner.token, h, 1.0f, row.data());
          for (std::int64_t d = 0; d < width; ++d) to[d] += row[static_cast<std::size_t>(d)] * v.neuron.unit;
        }
        if (step.weight != 1.0f)
          for (std::int64_t d = 0; d < width; ++d) to[d] *= step.weight;
      }
      read = static_cast<std::int64_t>(scratch.winners.size()) * cache.value_bytes();
    } else {
      weigh_all(kernels, cache, h, query, static_cast<int>(width), position, scoring, step.rule, scratch);
      float* to = out.real.data() + at;
      std::fill_n(to, width, 0.0f);
      for (std::int64_t j = 0; j <= position; ++j) {
        const float weight = scratch.weight[static_cast<std::size_t>(j)];
        if (weight == 0.0f) continue;
        cache.add_value(j, h, weight * v.neuron.unit, to);
        read += cache.value_bytes();
      }
    }
    cache_bytes += read + 8 * scratch.words_read;
    pages_read += scratch.pages_read;
    pages_skipped += scratch.pages_skipped;
  };
  const auto put = [&](int h, std::int64_t r, int s) {
    if (step.rule == Rule::ssa) return;
    BitCache& cache = *frame.sequence[static_cast<std::size_t>(r)]->bits_[slot(s)];
    const std::int64_t at = (s * rows + r) * q.width + h * width;
    const std::int64_t position = frame.position[static_cast<std::size_t>(r)];
    cache.put_key(position, h, k.count.data() + at);
    cache.put_value(position, h, v.count.data() + at);
  };
  // One piece is one head: it stores the keys of all rows, then asks for each.
  const auto piece = [&](std::int64_t h) {
    for (int s = 0; s < steps; ++s) {
      for (std::int64_t r = 0; r < rows; ++r) put(static_cast<int>(h), r, s);
      for (std::int64_t r = 0; r < rows; ++r) one_head(static_cast<int>(h), r, s);
    }
  };
  std::int64_t longest = 0;
  for (const std::int64_t position : frame.position) longest += position + 1;
  if (longest * step.heads < 4096)
    for (int h = 0; h < step.heads; ++h) piece(h);
  else
    pool.run(step.heads, piece);
  counters.cache_bytes += cache_bytes;
  counters.pages_read += pages_read;
  counters.pages_skipped += pages_skipped;
  if (out.spiking) collect(out, false);  // a winner's spikes fired before
}

void Program::run(const Add& step, const Frame&) {
  const Buffer& in = at(step.in, "add");
  Buffer& to = at(step.to, "add");
  const std::int64_t n = in.rows * in.width;
  for (std::int64_t i = 0; i < n; ++i) to.real[static_cast<std::size_t>(i)] += in.real[static_cast<std::size_t>(i)];
}

}  // namespace spikeformers
