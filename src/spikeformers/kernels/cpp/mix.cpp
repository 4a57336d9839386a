// Attention over a cache of rows: what converted models ask for (spikeformers/models/_converted.py).
#include "mix.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "steps.hpp"

namespace spikeformers {
namespace {

// Rounded to the nearest half, to an even one on ties.
Half half_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  std::uint32_t rounded = 0x7c00;
  if (size < 0x38800000) {  // below the smallest normal half: the sum's last place is its last place
    float small;
    std::memcpy(&small, &size, sizeof small);
    small += 0.5f;
    std::memcpy(&rounded, &small, sizeof rounded);
    rounded -= 0x3f000000;
  } else if (size < 0x47800000) {  // below 2^16, where rounding may still end in infinity
    rounded = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | rounded)};
}

template <class T>
T number_of(float x) {
  if constexpr (std::is_same_v<T, Half>)
    return half_of(x);
  else
    return static_cast<T>(x);
}

template <class T>
void put_as(std::byte* keys, std::byte* values, std::int64_t token, std::int64_t width,
            const float* key, const float* value) {
  T* k = reinterpret_cast<T*>(keys);
  T* v = reinterpret_cast<T*>(values);
  for (std::int64_t d = 0; d < width; ++d) {
    k[d * kPage + token] = number_of<T>(key[d]);
    v[d] = number_of<T>(value[d]);
  }
}

// Features of a query that are not zero, and what they are.
struct Question {
  std::vector<std::int32_t> feature;
  std::vector<float> value;
};

struct Scratch {
  std::vector<Question> question;  // of each head that shares a key-value head
  std::vector<float> score;        // of each, pages * kPage
  std::vector<Winner> winners;
};

bool before(const Winner& a, const Winner& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int kLanes = 8;  // of sums and maxima: compilers make vectors of them

// score[j] *= scale; returns the largest.
float scaled(float* score, std::int64_t n, float scale) {
  float lane[kLanes], most = score[0] * scale;
  std::fill_n(lane, kLanes, most);
  std::int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int k = 0; k < kLanes; ++k) {
      score[j + k] *= scale;
      lane[k] = score[j + k] > lane[k] ? score[j + k] : lane[k];
    }
  for (; j < n; ++j) {
    score[j] *= scale;
    most = std::max(most, score[j]);
  }
  for (const float largest : lane) most = std::max(most, largest);
  return most;
}

// What each score is of their sum.
void to_shares(float* score, std::int64_t n) {
  double lane[kLanes] = {}, sum = 0.0;
  std::int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int k = 0; k < kLanes; ++k) lane[k] += score[j + k];
  for (; j < n; ++j) sum += score[j];
  for (const double part : lane) sum += part;
  const auto by = static_cast<float>(1.0 / sum);
  for (j = 0; j < n; ++j) score[j] *= by;
}

}  // namespace

RowCache::RowCache(Number type, int heads, int width)
    : type_(type),
      heads_(heads),
      width_(width),
      size_(type == Number::i8 ? 1 : type == Number::f32 ? 4 : 2),
      page_bytes_(2 * heads_ * width_ * kPage * size_) {}

void RowCache::extend() {
  if (tokens_ % kPage != 0) own_last_page(pages_, page_bytes_);
  if (++tokens_ > static_cast<std::int64_t>(pages_.size()) * kPage)
    pages_.emplace_back(new std::byte[static_cast<std::size_t>(page_bytes_)]());
}

void RowCache::forget_before(std::int64_t token) {
  for (; (forgotten_ + 1) * kPage <= token; ++forgotten_)
    pages_[static_cast<std::size_t>(forgotten_)].reset();
}

void RowCache::put(std::int64_t token, int head, const float* key, const float* value) {
  auto* k = const_cast<std::byte*>(keys(token / kPage, head));
  auto* v = const_cast<std::byte*>(values(token / kPage, head)) + (token % kPage) * width_ * size_;
  if (type_ == Number::i8)
    put_as<std::int8_t>(k, v, token % kPage, width_, key, value);
  else if (type_ == Number::i16)
    put_as<std::int16_t>(k, v, token % kPage, width_, key, value);
  else if (type_ == Number::f16)
    put_as<Half>(k, v, token % kPage, width_, key, value);
  else
    put_as<float>(k, v, token % kPage, width_, key, value);
}

void Program::mix(int query, int key, int value, int out, int heads, int kv_heads, Rule rule,
                  int winners, float weight, int digits, Vector scale, int largest, bool half,
                  std::int64_t window) {
  const Buffer &q = input(query, Holds::reals, "mix"), &k = input(key, Holds::reals, "mix"),
               &v = input(value, Holds::reals, "mix");
  Buffer& to = output(out, Holds::reals, "mix");
  require(steps == 1, "mix: it has one simulation step, of counts");
  require(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0 && q.width % heads == 0,
          "mix: heads do not divide the width, or each other");
  require(q.width / heads <= kMaxHead, "mix: a head has more than " + std::to_string(kMaxHead) + " features");
  require(k.width == v.width && k.width * heads == q.width * kv_heads && to.width == q.width,
          "mix: widths of q, k, v and the output do not fit");
  require(!q.selected && !k.selected && !v.selected, "mix: it comes before select");
  for (const int id : {query, key, value})
    require(id != out, "mix: it cannot write what it reads");
  require(scale.n == heads, "mix: the scale" + sizes(scale.n, heads));
  for (int h = 0; h < heads; ++h)
    require(is_scale(scale.data[h]), "mix: a scale is not positive, or not within 2^-56 to 2^56");
  require(winners >= 1, "mix: at least one key must win");
  require(between(weight, 0.0f, 1.0f), "mix: a winner's weight must be 0 to 1");
  require(largest >= 0 && largest <= INT16_MAX, "mix: counts are of two bytes at most");
  for (const Buffer* one : {&q, &k, &v})
    require(largest == 0 || (one->counts >= 1 && one->counts <= largest),
            "mix: a cache of counts takes the counts of pairs, and no larger ones");
  require(digits >= 1 && digits <= kMaxDigits,
          "mix: digits=" + std::to_string(digits) + ": weights have 1 to " + std::to_string(kMaxDigits) + " binary digits");
  require(rule != Rule::sparsemax, "mix: it has no sparsemax");
  require(rule != Rule::ssa || largest > 0, "mix: SSA sums whole numbers");
  require(window >= 0 && window <= INT32_MAX,
          "mix: a window has 1 to 2^31 - 1 keys, or 0 for all of them");
  require(window == 0 || rule == Rule::softmax, "mix: only a softmax has a window of keys");
  if (rule == Rule::ssa) {
    const std::int64_t width = q.width / heads, size = largest;
    require(sum_bytes(kv_heads, width) <= kMaxSums, "mix: the sums of SSA over heads so wide take more than 1 GiB");
    longest_ = std::min(longest_, INT64_MAX / (size * size * size * width));
  }
  const Number type = largest == 0 ? (half ? Number::f16 : Number::f32) : largest <= INT8_MAX ? Number::i8 : Number::i16;
  wrote(to, 1, false);
  steps_.emplace_back(Mix{query, key, value, out, heads, kv_heads, rule, winners, weight, digits,
                          scale, type, window, slots_++});
}

void Program::run(const Mix& step, const Frame& frame) {
  const Buffer &q = at(step.query, "mix"), &k = at(step.key, "mix"), &v = at(step.value, "mix");
  Buffer& out = at(step.out, "mix");
  out.resize(q.rows);
  const MoreKernels& more = more_kernels(kernels);
  const auto rows = static_cast<std::int64_t>(frame.token.size());
  const std::int64_t width = q.width / step.heads, groups = step.heads / step.kv_heads;
  const auto slot = static_cast<std::size_t>(step.slot);
  const bool ssa = step.rule == Rule::ssa;
  const bool weighs_all = step.rule == Rule::softmax || step.rule == Rule::powers;
  const auto of = [&](std::int64_t r) -> Sequence& { return *frame.sequence[static_cast<std::size_t>(r)]; };
  const auto first_key = [&](std::int64_t position) {  // that a query there sees
    return step.window == 0 ? 0 : std::max<std::int64_t>(0, position + 1 - step.window);
  };
  if (step.type == Number::f16)
    for (const Buffer* one : {&k, &v})
      for (std::int64_t i = 0; i < rows * k.width; ++i)
        if (std::fabs(one->real[static_cast<std::size_t>(i)]) > kMaxHalf)
          throw std::overflow_error("a key or value is beyond 65,504, the largest of a cache in fp16: open the model with cache='fp32'");
  if (!ssa)
    for (std::int64_t r = 0; r < rows; ++r) of(r).rows_[slot]->extend();
  std::atomic<std::int64_t> cache_bytes{0}, pages_read{0};

  // SSA: the past is the sum of k v^T, in whole numbers.
  const auto remember = [&](std::int64_t kv, std::int64_t r) {
    std::int64_t* sum = of(r).sums_[slot]->sum.data() + kv * width * width;
    const float *key = k.real.data() + r * k.width + kv * width, *value = v.real.data() + r * k.width + kv * width;
    for (std::int64_t i = 0; i < width; ++i)
      if (const auto c = static_cast<std::int64_t>(key[i]); c != 0)
        for (std::int64_t d = 0; d < width; ++d) sum[i * width + d] += c * static_cast<std::int64_t>(value[d]);
  };
  const auto recall = [&](std::int64_t kv, std::int64_t h, std::int64_t r) {
    thread_local std::vector<std::int64_t> total;
    total.assign(static_cast<std::size_t>(width), 0);
    const std::int64_t* sum = of(r).sums_[slot]->sum.data() + kv * width * width;
    const float* query = q.real.data() + r * q.width + h * width;
    float* to = out.real.data() + r * q.width + h * width;
    std::int64_t read = 0;
    for (std::int64_t i = 0; i < width; ++i)
      if (const auto c = static_cast<std::int64_t>(query[i]); c != 0) {
        for (std::int64_t d = 0; d < width; ++d) total[static_cast<std::size_t>(d)] += c * sum[i * width + d];
        ++read;
      }
    for (std::int64_t d = 0; d < width; ++d)
      to[d] = static_cast<float>(static_cast<double>(total[static_cast<std::size_t>(d)]) *
                                 static_cast<double>(step.scale.data[h]));
    cache_bytes += read * width * 8;
  };

  // The queries of a token that share a key-value head: each page is read for all of them at once.
  const auto ask = [&](std::int64_t kv, std::int64_t r) {
    thread_local Scratch scratch;
    const RowCache& cache = *of(r).rows_[slot];
    const std::int64_t position = frame.position[static_cast<std::size_t>(r)], first_head = kv * groups;
    const std::int64_t first = first_key(position), keys = position + 1 - first;
    const std::int64_t first_page = first / kPage, pages = position / kPage + 1 - first_page;
    const float* query = q.real.data() + r * q.width + first_head * width;
    float* to = out.real.data() + r * q.width + first_head * width;
    scratch.question.resize(static_cast<std::size_t>(groups));
    scratch.score.resize(static_cast<std::size_t>(groups * pages * kPage));
    // Of whole pages, and of the keys that the query sees.
    const auto scores = [&](std::int64_t g) { return scratch.score.data() + g * pages * kPage; };
    const auto score = [&](std::int64_t g) { return scores(g) + first % kPage; };
    std::int64_t features = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      Question& question = scratch.question[static_cast<std::size_t>(g)];
      question.feature.clear();
      question.value.clear();
      for (std::int64_t d = 0; d < width; ++d)
        if (const float x = query[g * width + d]; x != 0.0f) {
          question.feature.push_back(static_cast<std::int32_t>(d));
          question.value.push_back(x);
        }
      features += static_cast<std::int64_t>(question.feature.size());
    }
    const bool sparse = 2 * features <= groups * width;  // an added zero changes no sum
    for (std::int64_t page = 0; page < pages && !sparse; ++page)
      more.key_scores_of_all(cache.type(), cache.keys(first_page + page, static_cast<int>(kv)),
                             query, groups, width, scores(0) + page * kPage, pages * kPage);
    for (std::int64_t page = 0; page < pages && sparse; ++page)
      for (std::int64_t g = 0; g < groups; ++g) {
        const Question& question = scratch.question[static_cast<std::size_t>(g)];
        more.key_scores(cache.type(), cache.keys(first_page + page, static_cast<int>(kv)),
                        question.feature.data(), question.value.data(),
                        static_cast<std::int64_t>(question.feature.size()),
                        scores(g) + page * kPage);
      }
    const auto value = [&](std::int64_t token) {
      return cache.values(token / kPage, static_cast<int>(kv)) + (token % kPage) * width * cache.size();
    };
    std::fill_n(to, groups * width, 0.0f);
    std::int64_t rows_read = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      const float most = scaled(score(g), keys, step.scale.data[first_head + g]);
      expect_finite(all_finite(score(g), keys));
      if (step.rule == Rule::softmax) {
        more.exps(score(g), keys, most);
        to_shares(score(g), keys);
        rows_read += keys;
        continue;
      }
      std::vector<Winner>& best = scratch.winners;
      best.clear();
      if (step.rule == Rule::powers) {
        std::fill(scores(g), score(g), kNever);
        std::fill(score(g) + keys, scores(g) + pages * kPage, kNever);
        weigh_by_powers(kernels, scores(g), pages * kPage, most, step.digits, 1.0f);
        rows_read += keys - std::count(score(g), score(g) + keys, 0.0f);
        if (Details* details = of(r).details_.get(); details != nullptr) {  // the first of greatest weight
          const float* heaviest = std::max_element(score(g), score(g) + keys);
          best.assign(1, {*heaviest, first + (heaviest - score(g))});
          keep_winners(best, details->winners[slot], first_head + g);
        }
        continue;
      }
      const auto limit = static_cast<std::size_t>(step.winners);
      for (std::int64_t j = 0; j < keys; ++j) {
        const Winner found{score(g)[j], j};
        if (best.size() == limit) {
          if (!before(found, best.back())) continue;
          best.pop_back();
        }
        best.insert(std::upper_bound(best.begin(), best.end(), found, before), found);
      }
      if (Details* details = of(r).details_.get(); details != nullptr)
        keep_winners(best, details->winners[slot], first_head + g);
      const float one = 1.0f;
      float* sum = to + g * width;
      for (const Winner& winner : best)  // best first, as PyTorch adds
        more.add_rows(cache.type(), value(winner.token), 1, &one, 0, 1, width, sum);
      if (step.weight != 1.0f)
        for (std::int64_t d = 0; d < width; ++d) sum[d] *= step.weight;
      rows_read += static_cast<std::int64_t>(best.size());
    }
    if (weighs_all)
      for (std::int64_t token = first, end; token <= position; token = end) {
        end = std::min((token / kPage + 1) * kPage, position + 1);
        more.add_rows(cache.type(), value(token), end - token, score(0) + (token - first),
                      pages * kPage, groups, width, to);
      }
    cache_bytes += ((sparse ? features : groups * width) * pages * kPage + rows_read * width) * cache.size();
    pages_read += groups * pages;
  };

  // One piece is one key-value head: it stores the rows of all tokens, then its queries ask.
  const auto piece = [&](std::int64_t kv) {
    for (std::int64_t r = 0; r < rows; ++r) {
      if (ssa) {
        remember(kv, r);
        for (std::int64_t h = kv * groups; h < (kv + 1) * groups; ++h) recall(kv, h, r);
      } else {
        of(r).rows_[slot]->put(frame.position[static_cast<std::size_t>(r)], static_cast<int>(kv),
                               k.real.data() + r * k.width + kv * width,
                               v.real.data() + r * k.width + kv * width);
      }
    }
    if (ssa) return;
    for (std::int64_t r = 0; r < rows; ++r) ask(kv, r);
  };
  std::int64_t longest = 0;
  for (const std::int64_t position : frame.position) longest += position + 1 - first_key(position);
  if (longest * step.heads < 512)
    for (std::int64_t kv = 0; kv < step.kv_heads; ++kv) piece(kv);
  else
    pool.run(step.kv_heads, piece);
  if (step.window > 0)
    for (std::int64_t r = 0; r < rows; ++r)
      of(r).rows_[slot]->forget_before(first_key(frame.position[static_cast<std::size_t>(r)] + 1));
  counters.cache_bytes += cache_bytes;
  counters.pages_read += pages_read;
}

}  // namespace spikeformers
