// Steps of a model whose stream is spikes: joining them, a head that hears a rate, and attention by
// edges that fire (spikeformers/models/bispikclm.py, spikeformers/attention/sfsa.py).
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "converted_kernels.hpp"
#include "steps.hpp"

namespace spikeformers {

void Program::join(int in, int to, Joining how) {
  const Buffer& from = input(in, Holds::spikes, "join");
  Buffer& stream = output(to, Holds::reals, "join");
  require(from.width == stream.width, "join: widths differ");
  if (how == Joining::set) {
    wrote(stream, from.steps, from.selected);
  } else {
    require(stream.written && from.steps == stream.steps && from.selected == stream.selected,
            "join: rows differ");
    require(how == Joining::add || from.neuron.type == SpikeType::binary,
            "join: \"or\" is of zeros and ones");
    stream.counts = 0;
  }
  list(at(in, "join"), false);
  steps_.emplace_back(Join{in, to, how});
}

void Program::run(const Join& step, const Frame&) {
  const Buffer& in = at(step.in, "join");
  Buffer& to = at(step.to, "join");
  if (step.how == Joining::set) to.resize(in.rows);
  for_rows(pool, in.rows, [&](std::int64_t r) {
    const std::int8_t* count = in.count.data() + r * in.width;
    float* stream = to.real.data() + r * in.width;
    if (step.how == Joining::set) std::fill_n(stream, in.width, 0.0f);
    const Events events = in.events(r);
    for (std::int64_t e = 0; e < events.n; ++e) {
      float& one = stream[events.index[e]];
      const float spike = static_cast<float>(count[events.index[e]]) * in.neuron.unit;
      one = step.how == Joining::either ? std::max(one, spike) : one + spike;
    }
  });
}

void Program::recount(int in, int out) {
  const Buffer& from = input(in, Holds::reals, "recount");
  Buffer& to = output(out, Holds::spikes, "recount");
  require(from.width == to.width, "recount: widths differ");
  require(!has_sign(to.neuron), "recount: counts have no sign");
  wrote(to, from.steps, from.selected);
  steps_.emplace_back(Recount{in, out});
}

void Program::run(const Recount& step, const Frame&) {
  const Buffer& in = at(step.in, "recount");
  Buffer& out = at(step.out, "recount");
  out.resize(in.rows);
  const float most = out.neuron.type == SpikeType::binary ? 1.0f : static_cast<float>(out.neuron.levels);
  for_rows(pool, in.rows, [&](std::int64_t r) {
    expect_finite(all_finite(in.real.data() + r * in.width, in.width));
    for (std::int64_t i = r * in.width; i < (r + 1) * in.width; ++i) {
      const float count = in.real[static_cast<std::size_t>(i)] / out.neuron.unit;
      out.count[static_cast<std::size_t>(i)] =
          static_cast<std::int8_t>(std::lrint(std::min(std::max(0.0f, count), most)));  // of NaN 0
    }
  });
  collect(out, false);
}

void Program::rate(int in, int out, const Neuron& neuron, int hears) {
  const Buffer& from = input(in, Holds::reals, "rate");
  Buffer& to = output(out, Holds::spikes, "rate");
  require(from.width == to.width, "rate: widths differ");
  require(from.steps == 1, "rate: it hears one value for all its steps");
  check_neuron(neuron);
  require(neuron.type == SpikeType::binary && to.neuron.type == SpikeType::integer &&
              hears >= 1 && hears <= to.neuron.levels,
          "rate: binary spikes of its steps are summed into counts");
  wrote(to, 1, from.selected);
  steps_.emplace_back(Rate{in, out, neuron, hears});
}

void Program::run(const Rate& step, const Frame&) {
  const Buffer& in = at(step.in, "rate");
  Buffer& out = at(step.out, "rate");
  out.resize(in.rows);
  for_rows(pool, in.rows, [&](std::int64_t r) {
    thread_local std::vector<float> carry;
    thread_local std::vector<std::int8_t> spikes;
    carry.resize(static_cast<std::size_t>(in.width));
    spikes.resize(static_cast<std::size_t>(in.width));
    std::int8_t* sum = out.count.data() + r * in.width;
    std::memset(sum, 0, static_cast<std::size_t>(in.width));
    expect_finite(all_finite(in.real.data() + r * in.width, in.width));
    for (int s = 0; s < step.steps; ++s) {
      kernels.fire(step.neuron, in.real.data() + r * in.width, carry.data(), s == 0, in.width,
                   spikes.data());
      for (std::int64_t i = 0; i < in.width; ++i)
        sum[i] = static_cast<std::int8_t>(sum[i] + spikes[static_cast<std::size_t>(i)]);
    }
  });
  collect(out, true);
}

void Program::edges(int query, int key, int value, int out, int heads, float decay, Vector scale,
                    Vector threshold, Vector bias) {
  const Buffer& q = input(query, Holds::spikes, "edges");
  Buffer& to = output(out, Holds::reals, "edges");
  require(heads >= 1 && q.width % heads == 0, "edges: heads do not divide the width");
  for (const int id : {query, key, value}) {
    const Buffer& one = input(id, Holds::spikes, "edges");
    require(one.neuron.type == SpikeType::binary, "edges: q, k and v are binary spikes");
    require(one.width == q.width, "edges: widths of q, k and v differ");
    require(!one.selected && one.steps == steps, "edges: they come before select");
  }
  require(to.width == q.width, "edges: the output's width differs");
  require(q.width / heads <= kMaxHead, "edges: a head has more than " + std::to_string(kMaxHead) + " features");
  require(between(decay, 0.0f, 1.0f), "edges: the decay is 0 to 1");
  require(scale.n == heads, "edges: the scale" + sizes(scale.n, heads));
  require(threshold.n == heads, "edges: the threshold" + sizes(threshold.n, heads));
  for (int h = 0; h < heads; ++h)
    require(is_scale(scale.data[h]) && threshold.data[h] > 0.0f && threshold.data[h] <= kMaxThreshold,
            "edges: a scale or a threshold is not positive, or too large");
  std::vector<BiasLine> lines = bias_lines(bias, heads, "edges");
  wrote(to, steps, false);
  steps_.emplace_back(
      Edges{query, key, value, out, heads, decay, scale, threshold, std::move(lines), slots_++});
}

namespace {

// The features of one head that a query fired, in one simulation step.
Query query_of(const std::int8_t* spikes, std::int64_t width, std::vector<std::int32_t>& word,
               std::vector<std::int16_t>& worth) {
  word.clear();
  word.reserve(static_cast<std::size_t>(width));
  worth.reserve(static_cast<std::size_t>(width));
  for (std::int64_t d = 0; d < width; ++d)
    if (spikes[d] != 0) word.push_back(static_cast<std::int32_t>(d));
  worth.assign(word.size(), 1);
  const auto n = static_cast<std::int64_t>(word.size());
  return {word.data(), worth.data(), n, n, n > 0 ? 1 : 0, true};
}

struct EdgeScratch {
  std::vector<std::vector<std::int32_t>> word;
  std::vector<std::vector<std::int16_t>> worth;
  std::vector<Query> query;
  std::vector<std::int32_t> sum;  // [steps][head width]
};

}  // namespace

void Program::run(const Edges& step, const Frame& frame) {
  const Buffer &q = at(step.query, "edges"), &k = at(step.key, "edges"), &v = at(step.value, "edges");
  Buffer& out = at(step.out, "edges");
  out.resize(q.rows);
  const MoreKernels& more = more_kernels(kernels);
  const auto rows = static_cast<std::int64_t>(frame.token.size());
  const std::int64_t width = q.width / step.heads;
  const auto cache_of = [&](std::int64_t r, int s) -> BitCache& {
    return *frame.sequence[static_cast<std::size_t>(r)]
                ->bits_[static_cast<std::size_t>(step.slot * steps + s)];
  };
  for (std::int64_t r = 0; r < rows; ++r)
    for (int s = 0; s < steps; ++s) cache_of(r, s).extend(1);
  std::atomic<std::int64_t> pairs{0}, fired_edges{0}, words_read{0}, pages_read{0}, pages_skipped{0};

  const auto one_head = [&](int h, std::int64_t r) {
    thread_local EdgeScratch scratch;
    const auto many = static_cast<std::size_t>(steps);
    scratch.word.resize(many);
    scratch.worth.resize(many);
    scratch.query.resize(many);
    scratch.sum.assign(many * static_cast<std::size_t>(width), 0);
    const std::int64_t position = frame.position[static_cast<std::size_t>(r)];
    const float scale = step.scale.data[h], threshold = step.threshold.data[h];
    const auto unit = static_cast<float>(static_cast<double>(q.neuron.unit) * k.neuron.unit);
    const BiasLine& bias = step.bias[static_cast<std::size_t>(h)];
    std::int64_t active = 0;
    for (std::size_t s = 0; s < many; ++s) {
      const std::int64_t row = static_cast<std::int64_t>(s) * rows + r;
      scratch.query[s] = query_of(q.count.data() + row * q.width + h * width, width,
                                  scratch.word[s], scratch.worth[s]);
      active += scratch.query[s].n;
    }
    std::int64_t found = 0, read = 0, skipped = 0;
    for (std::int64_t first = 0; first <= position; first += kPage) {
      // The most that a membrane of this page can reach. Resets only lower it, and rounding keeps
      // order, so a page that stays below the threshold holds no edge.
      float most = 0.0f;
      bool may = false;
      for (std::size_t s = 0; s < many; ++s) {
        const Pages pages = cache_of(r, static_cast<int>(s)).pages(h, first / kPage, 1, 1);
        const Most& keys = pages.most[pages.first * pages.heads];
        const auto count = std::min<std::int64_t>(scratch.query[s].spikes * keys.count, keys.sum);
        const float current = static_cast<float>(count) * unit * scale + bias.most(first, position);
        most = s == 0 ? current : most + current;
        may = may || most >= threshold;
        most = step.decay * most;
      }
      if (!may) {
        ++skipped;
        continue;
      }
      ++read;
      alignas(64) float carry[kPage];
      for (std::size_t s = 0; s < many; ++s) {
        const BitCache& cache = cache_of(r, static_cast<int>(s));
        alignas(64) std::int32_t score[kPage];
        alignas(64) float current[kPage];
        kernels.page_scores(cache.keys(first / kPage, h), scratch.query[s], score);
        kernels.page_values(score, unit, scale, bias.page(first, position), current);
        std::uint64_t edges = more.edges(current, carry, s == 0, step.decay, threshold);
        if (position + 1 - first < kPage)
          edges &= (std::uint64_t{1} << (position + 1 - first)) - 1;
        found += std::popcount(edges);
        for (; edges != 0; edges &= edges - 1)
          cache.add_value(first + std::countr_zero(edges), h, std::int32_t{1},
                          scratch.sum.data() + s * static_cast<std::size_t>(width));
      }
    }
    for (std::size_t s = 0; s < many; ++s) {
      float* to = out.real.data() + (static_cast<std::int64_t>(s) * rows + r) * q.width + h * width;
      const std::int32_t* sum = scratch.sum.data() + s * static_cast<std::size_t>(width);
      for (std::int64_t d = 0; d < width; ++d) to[d] = static_cast<float>(sum[d]) * v.neuron.unit;
    }
    pairs += steps * (position + 1);
    fired_edges += found;
    words_read += read * active + found * cache_of(r, 0).value_bytes() / 8;
    pages_read += read;
    pages_skipped += skipped;
  };
  // One piece is one head: it stores the keys of all rows, then asks for each.
  const auto piece = [&](std::int64_t h) {
    const int head = static_cast<int>(h);
    for (std::int64_t r = 0; r < rows; ++r)
      for (int s = 0; s < steps; ++s) {
        const std::int64_t from = (s * rows + r) * q.width + h * width;
        const std::int64_t position = frame.position[static_cast<std::size_t>(r)];
        cache_of(r, s).put_key(position, head, k.count.data() + from);
        cache_of(r, s).put_value(position, head, v.count.data() + from);
      }
    for (std::int64_t r = 0; r < rows; ++r) one_head(head, r);
  };
  std::int64_t longest = 0;
  for (const std::int64_t position : frame.position) longest += position + 1;
  if (longest * step.heads < 1024)
    for (int h = 0; h < step.heads; ++h) piece(h);
  else
    pool.run(step.heads, piece);
  counters.pairs += pairs;
  counters.edges += fired_edges;
  counters.cache_bytes += 8 * words_read;
  counters.pages_read += pages_read;
  counters.pages_skipped += pages_skipped;
}

}  // namespace spikeformers
