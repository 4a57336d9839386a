// Attention over a cache of bit planes, as a step: how it is checked, and how it runs (attention.cpp has
// the search for winners).
#include <atomic>
#include <cstring>

#include "steps.hpp"

namespace spikeformers {
namespace {

AttentionScratch& scratch_of_thread() {
  thread_local AttentionScratch scratch;
  return scratch;
}

}  // namespace

void Program::attend(int query, int key, int value, int out, int heads, Rule rule, int winners,
                     float weight, int digits, Vector scale, Vector bias) {
  const Buffer& q = input(query, Holds::spikes, "attend");
  Buffer& to = at(out, "attend");
  require(heads >= 1 && q.width % heads == 0, "attend: heads do not divide the width");
  for (const int id : {query, key, value}) {
    const Buffer& one = input(id, Holds::spikes, "attend");
    require(one.width == q.width, "attend: widths of q, k and v differ");
    require(!one.selected && one.steps == steps, "attend: it comes before select");
    require(id != out, "attend: it cannot write what it reads");
  }
  require(q.width / heads <= kMaxHead, "attend: a head has more than " + std::to_string(kMaxHead) + " features");
  require(to.width == q.width, "attend: the output's width differs");
  require(scale.n == heads, "attend: the scale" + sizes(scale.n, heads));
  for (int h = 0; h < heads; ++h)
    require(is_scale(scale.data[h]), "attend: a scale is not positive, or not within 2^-56 to 2^56");
  require(winners >= 1, "attend: at least one key must win");
  require(digits >= 1 && digits <= kMaxDigits, "attend: digits=" + std::to_string(digits) + ": weights have 1 to " +
                                                  std::to_string(kMaxDigits) + " binary digits");
  require(between(weight, 0.0f, 1.0f), "attend: a winner's weight must be 0 to 1");
  require(rule != Rule::ssa || sum_bytes(heads, q.width / heads) <= kMaxSums,
          "attend: the sums of SSA over heads so wide take more than 1 GiB");
  require(rule != Rule::ssa || bias.data == nullptr, "attend: SSA takes no relative bias");
  require(to.holds != Holds::counts, "attend: gives spikes or reals");
  if (to.holds == Holds::spikes) {
    require(rule == Rule::winners && winners == 1 && weight == 1.0f,
            "attend: only one winner's value is spikes; sums of rows are reals");
    const Neuron &from = at(value, "attend").neuron, &declared = to.neuron;
    require(from.type == declared.type && from.levels == declared.levels && from.unit == declared.unit &&
                from.sign == declared.sign,
            "attend: its output has another neuron than the values");
  }
  std::vector<BiasLine> lines = bias_lines(bias, heads, "attend");
  wrote(to, steps, false);
  steps_.emplace_back(Attend{query, key, value, out, heads, rule, winners, weight, digits, scale,
                             std::move(lines), slots_++});
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
  const auto one_head = [&](int h, std::int64_t r, int s, const Query* query) {
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
    std::int64_t read = 0;
    if (step.rule == Rule::winners) {
      find_winners(kernels, cache, h, *query, position, scoring, step.winners, scratch);
      if (sequence.details_ != nullptr)
        keep_winners(scratch.winners, sequence.details_->winners[static_cast<std::size_t>(step.slot)], s * step.heads + h);
      if (out.holds == Holds::spikes) {
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
      weigh_all(kernels, cache, h, *query, position, scoring, step.rule, step.digits, v.neuron.unit, scratch);
      if (step.rule == Rule::powers && sequence.details_ != nullptr) {  // the first of greatest weight
        const auto first = scratch.weight.begin(), best = std::max_element(first, first + position + 1);
        scratch.winners.assign(1, {*best, best - first});
        keep_winners(scratch.winners, sequence.details_->winners[static_cast<std::size_t>(step.slot)], s * step.heads + h);
      }
      float* to = out.real.data() + at;
      std::fill_n(to, width, 0.0f);
      for (std::int64_t first = 0; first <= position; first += kPage)
        read += cache.value_bytes() * cache.add_values(kernels, first, std::min<std::int64_t>(kPage, position + 1 - first), h,
                                                       scratch.weight.data() + first, to);
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
  // The queries of some heads of a token; their keys are there.
  const auto ask = [&](int first, int heads, std::int64_t r, int s) {
    AttentionScratch& scratch = scratch_of_thread();
    if (step.rule != Rule::ssa) {
      const bool newest_first =
          step.rule == Rule::winners && step.bias[static_cast<std::size_t>(first)].any();
      ask_heads(*frame.sequence[static_cast<std::size_t>(r)]->bits_[slot(s)], first, heads,
                q.count.data() + (s * rows + r) * q.width + first * width, static_cast<int>(width),
                frame.position[static_cast<std::size_t>(r)], newest_first, scratch);
    }
    for (int h = 0; h < heads; ++h)
      one_head(first + h, r, s, step.rule == Rule::ssa ? nullptr : &scratch.query[static_cast<std::size_t>(h)]);
  };
  // A piece is some heads: it stores the keys of all rows, then asks for each.
  const auto piece = [&](int first, int heads) {
    for (int s = 0; s < steps; ++s) {
      for (std::int64_t r = 0; r < rows; ++r)
        for (int h = 0; h < heads; ++h) put(first + h, r, s);
      for (std::int64_t r = 0; r < rows; ++r) ask(first, heads, r, s);
    }
  };
  std::int64_t longest = 0;
  for (const std::int64_t position : frame.position) longest += position + 1;
  const bool few = longest * step.heads < 4096;  // too few for a second thread to wake
  if (rows == 1 && (few || pool.threads() == 1))
    piece(0, step.heads);
  else if (few)
    for (int h = 0; h < step.heads; ++h) piece(h, 1);
  else
    pool.run(step.heads, [&](std::int64_t h) { piece(static_cast<int>(h), 1); });
  counters.cache_bytes += cache_bytes;
  counters.pages_read += pages_read;
  counters.pages_skipped += pages_skipped;
  if (out.holds == Holds::spikes) collect(out, false);  // a winner's spikes fired before
}

}  // namespace spikeformers
