#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace spikeformers {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr std::int32_t kAny = std::numeric_limits<std::int32_t>::min();

Query query_of(const std::int8_t* counts, int width, const BitCache& cache, std::int32_t* feature,
               std::int32_t* word, std::int16_t* worth) {
  const bool bytes = cache.keys_in_bytes();
  const int planes = cache.key_planes();
  std::int32_t spikes = 0, top = 0, n = 0;
  for (int d = 0; d < width; ++d) {  // a silent one is written over by the next: no branch to guess
    const std::int32_t count = counts[d], size = std::abs(count);
    feature[n] = d;
    n += count != 0;
    spikes += size;
    top = std::max(top, size);
  }
  const bool narrow = spikes * kMaxLevels <= std::numeric_limits<std::int16_t>::max();
  if (bytes) {
    for (std::int32_t i = 0; i < n; ++i) worth[i] = counts[feature[i]];
    return {feature, worth, n, spikes, top, narrow, bytes};
  }
  for (std::int32_t i = 0; i < n; ++i)
    for (int p = 0; p < planes; ++p) {
      word[i * planes + p] = feature[i] * planes + p;
      worth[i * planes + p] = static_cast<std::int16_t>(counts[feature[i]] * cache.key_weights()[p]);
    }
  return {word, worth, std::int64_t{n} * planes, spikes, top, narrow, bytes};
}

// Words of eight bytes of a page that a query reads.
std::int64_t words_of(const Query& query) { return query.bytes ? query.n * kPage / 8 : query.n; }

// Puts a key among the best. Pages come in descending or ascending order; either way a tie goes to
// the lower index, because `before` compares indices too.
bool before(const Winner& a, const Winner& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

void insert(std::vector<Winner>& best, std::size_t limit, const Winner& found) {
  if (best.size() == limit) {
    if (!before(found, best.back())) return;
    best.pop_back();
  }
  best.insert(std::upper_bound(best.begin(), best.end(), found, before), found);
}

// The first of 64 values that is `top`, which one is: eight are compared at a time.
std::int64_t place_of(float top, const float* value) {
  for (std::int64_t j = 0; j < kPage; j += 8) {
    int any = 0;
    for (int k = 0; k < 8; ++k) any |= value[j + k] == top;
    if (any != 0) return std::find(value + j, value + j + 8, top) - value;
  }
  return kPage;
}

// The least whole score with which a key of a page can still be among the winners, given the worst
// of them and the largest bias of the page. Exact, rounding included, because rounding is monotone;
// so the pages that it rules out are not read.
class Bar {
 public:
  Bar(const Scoring& scoring, bool ties_win) : scoring_(scoring), ties_win_(ties_win) {}

  // Any guess will do: a bisection follows. (NaN is not a guess.)
  std::int32_t least(float worst, float bias) {
    if (worst == worst_ && bias == bias_) return least_;
    worst_ = worst;
    bias_ = bias;
    const double guess = (static_cast<double>(worst) - bias) /
                         (static_cast<double>(scoring_.unit) * scoring_.scale);
    std::int64_t wins_at =
        std::isnan(guess) ? 0 : static_cast<std::int64_t>(std::clamp<double>(guess, -kFar, kFar));
    std::int64_t loses_at = wins_at;  // then one of the two is moved away, and a bisection ends it
    for (std::int64_t step = 1; wins_at < kFar && !wins(wins_at); step *= 2)
      loses_at = wins_at, wins_at = std::min(kFar, wins_at + step);
    for (std::int64_t step = 1; loses_at > -kFar && wins(loses_at); step *= 2)
      wins_at = loses_at, loses_at = std::max(-kFar, loses_at - step);
    while (wins_at - loses_at > 1) {
      const std::int64_t middle = loses_at + (wins_at - loses_at) / 2;
      (wins(middle) ? wins_at : loses_at) = middle;
    }
    least_ = static_cast<std::int32_t>(wins_at);
    return least_;
  }

 private:
  static constexpr std::int64_t kFar = 1 << 28;  // beyond any score (limits.hpp)
  bool wins(std::int64_t score) const {
    const float value = scoring_.of(static_cast<std::int32_t>(score)) + bias_;
    return ties_win_ ? value >= worst_ : value > worst_;
  }
  const Scoring& scoring_;
  const bool ties_win_;
  float worst_ = kNever, bias_ = kNever;
  std::int32_t least_ = kAny;
};

}  // namespace

BiasLine::BiasLine(const float* by_distance, std::int64_t distances)
    : distances_(by_distance == nullptr ? 1 : distances), any_(by_distance != nullptr) {
  const auto of = [&](std::int64_t d) { return by_distance == nullptr ? 0.0f : by_distance[d]; };
  line_.assign(kPage, of(distances_ - 1));
  for (std::int64_t d = distances_ - 1; d >= 0; --d) line_.push_back(of(d));
  line_.insert(line_.end(), kPage, kNever);
  for (std::size_t at = 0; at + kPage <= line_.size(); ++at)
    most_.push_back(*std::max_element(line_.begin() + static_cast<std::ptrdiff_t>(at),
                                      line_.begin() + static_cast<std::ptrdiff_t>(at + kPage)));
}

void ask_heads(const BitCache& cache, int head, int heads, const std::int8_t* counts, int width, std::int64_t position,
               bool newest_first, AttentionScratch& scratch) {
  const auto room = static_cast<std::size_t>(heads * width);
  if (scratch.feature.size() < room) {
    scratch.feature.resize(room);
    scratch.word.resize(room * kMaxPlanes);
    scratch.worth.resize(room * kMaxPlanes);
  }
  scratch.query.clear();
  for (int h = 0; h < heads; ++h) {
    const std::int64_t at = std::int64_t{h} * width;
    const Query query =
        query_of(counts + at, width, cache, scratch.feature.data() + at, scratch.word.data() + at * kMaxPlanes,
                 scratch.worth.data() + at * kMaxPlanes);
    scratch.query.push_back(query);
    const std::uint64_t* page = cache.keys(newest_first ? position / kPage : 0, head + h);
    const std::int64_t words = query.bytes ? kPage / 8 : 1;  // of a feature, or of a plane of it
    for (std::int64_t i = 0; i < query.n; ++i) __builtin_prefetch(page + query.word[i] * words);
  }
}

void find_winners(const Kernels& kernels, const BitCache& cache, int head, const Query& query,
                  std::int64_t position, const Scoring& scoring, int winners,
                  AttentionScratch& scratch) {
  const std::int64_t pages = position / kPage + 1, words = words_of(query);
  const auto limit = static_cast<std::size_t>(winners);
  std::vector<Winner>& best = scratch.winners;
  best.clear();
  // With a bias near keys tend to win, so the newest page comes first and rules most others out.
  // Without one all pages are alike: the oldest first, for then a tie changes nothing.
  const bool newest_first = scoring.bias->any();
  const std::int64_t step = newest_first ? -1 : 1;
  Bar bar{scoring, newest_first};
  for (std::int64_t k = 0; k < pages;) {
    const std::int64_t page = newest_first ? pages - 1 - k : k;
    std::int32_t least = kAny;
    if (best.size() == limit)
      least = bar.least(best.back().value, scoring.bias->most(page * kPage, position));
    // Far pages share one bias, hence one bar, and are gone through in one call.
    const std::int64_t alike =
        scoring.bias->far(page * kPage, position) ? pages - k : 1;
    alignas(64) std::int32_t score[kPage];
    Found found = kernels.page_scan(cache.pages(head, page, alike, step), query, least, score);
    k += found.looked;
    scratch.pages_read += found.read;
    scratch.pages_skipped += found.looked - found.read;
    scratch.words_read += found.read * words;
    const std::int64_t first = (page + step * (found.looked - 1)) * kPage;
    if (position + 1 - first < kPage)
      found.reached &= (std::uint64_t{1} << (position + 1 - first)) - 1;
    const float* bias = scoring.bias->page(first, position);
    if (limit == 1 && found.reached != 0) {  // keys after the query have a bias of -inf
      alignas(64) float value[kPage];
      const float top = kernels.page_values(score, scoring.unit, scoring.scale, bias, value);
      const Winner one{top, first + place_of(top, value)};
      if (best.empty() || before(one, best.front())) best.assign(1, one);
      continue;
    }
    for (; found.reached != 0; found.reached &= found.reached - 1) {
      const int j = __builtin_ctzll(found.reached);
      const float value = scoring.of(score[j]) + bias[j];
      if (best.size() < limit || value >= best.back().value) insert(best, limit, {value, first + j});
    }
  }
}

void weigh_by_powers(const Kernels& kernels, float* value, std::int64_t n, float top, int digits, float unit) {
  const std::int64_t sum = kernels.octaves(value, n, top, digits);
  int exponent = 0;  // the sum's logarithm is read from its digits
  const double mantissa = std::frexp(std::ldexp(static_cast<double>(sum), 1 - digits - kFurthest), &exponent);
  kernels.powers(value, n, static_cast<float>(exponent + (2.0 * mantissa - 2.0)), unit, digits);
}

void weigh_all(const Kernels& kernels, const BitCache& cache, int head, const Query& query,
               std::int64_t position, const Scoring& scoring, Rule rule, int digits, float unit,
               AttentionScratch& scratch) {
  const std::int64_t pages = position / kPage + 1;
  std::vector<float>& weight = scratch.weight;
  weight.resize(static_cast<std::size_t>(pages * kPage));
  float top = kNever;
  for (std::int64_t page = 0; page < pages; ++page) {
    ++scratch.pages_read;
    scratch.words_read += words_of(query);
    alignas(64) std::int32_t score[kPage];
    kernels.page_scores(cache.keys(page, head), query, score);
    top = std::max(top, kernels.page_values(score, scoring.unit, scoring.scale,
                                            scoring.bias->page(page * kPage, position),
                                            weight.data() + page * kPage));
  }
  if (rule == Rule::powers) {
    weigh_by_powers(kernels, weight.data(), static_cast<std::int64_t>(weight.size()), top, digits, unit);
    return;
  }
  const auto row = weight.begin() + static_cast<std::ptrdiff_t>(position + 1);
  std::fill(row, weight.end(), 0.0f);
  const std::span<float> heard(weight.begin(), row);
  if (rule == Rule::softmax) {
    double sum = 0.0;
    for (float& w : heard) sum += w = std::exp(w - top);
    for (float& w : heard) w = static_cast<float>(w / sum) * unit;
    return;
  }
  // Sparsemax: the threshold tau at which what stands above it sums to one.
  std::vector<float>& sorted = scratch.sorted;
  sorted.resize(static_cast<std::size_t>(pages * kPage));  // room for a page at a time
  sorted.assign(heard.begin(), heard.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  double total = 0.0, tau = 0.0;
  for (std::size_t k = 0; k < sorted.size(); ++k) {
    total += sorted[k];
    if (1.0 + static_cast<double>(k + 1) * sorted[k] <= total) break;
    tau = (total - 1.0) / static_cast<double>(k + 1);
  }
  for (float& w : heard) w = std::max(0.0f, static_cast<float>(w - tau)) * unit;
}

}  // namespace spikeformers
