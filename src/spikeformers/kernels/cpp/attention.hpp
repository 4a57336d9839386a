// Attention of one query over a cache of spikes; see spikeformers/attention for the rules.
#pragma once

#include <cstdint>
#include <vector>

#include "cache.hpp"
#include "kernels.hpp"

namespace spikeformers {

enum class Rule : std::int32_t { winners, sparsemax, softmax, powers, ssa };

// Bias of the distances of one head, laid out so that the 64 keys of a page are 64 neighbours:
// 64 times that of the largest distance, then each distance from the largest to 0, then -inf for
// keys that come after the query. Without a relative bias it is zeros and -inf.
class BiasLine {
 public:
  BiasLine(const float* by_distance, std::int64_t distances);  // null: zeros

  // For the page whose first token is `first`, seen from the query at `position`.
  const float* page(std::int64_t first, std::int64_t position) const { return line_.data() + at(first, position); }
  // The largest of those 64.
  float most(std::int64_t first, std::int64_t position) const { return most_[static_cast<std::size_t>(at(first, position))]; }
  // Whether this page and all before it (with a bias), or all pages (without), share one bias.
  bool far(std::int64_t first, std::int64_t position) const {
    return !any_ || at(first, position) == 0;
  }
  bool any() const { return any_; }

 private:
  std::int64_t at(std::int64_t first, std::int64_t position) const {
    const std::int64_t from_end = distances_ - 1 - (position - first);
    return from_end + kPage > 0 ? from_end + kPage : 0;
  }
  std::int64_t distances_;
  bool any_;
  std::vector<float> line_, most_;
};

// Scores of one head: (count * unit) * scale + bias.
struct Scoring {
  float unit;    // q's spike times k's spike
  float scale;   // s of the head
  const BiasLine* bias;

  // Each product rounded by itself, in the order of PyTorch's.
  float of(std::int32_t score) const { return static_cast<float>(score) * unit * scale; }
};

struct Winner {
  float value;
  std::int64_t token;
};

// Memory of one thread for the queries of a token, and for the winners of one of them.
struct AttentionScratch {
  std::vector<std::int32_t> feature, word;
  std::vector<std::int16_t> worth;
  std::vector<Query> query;
  std::vector<Winner> winners;
  std::vector<float> weight, sorted;
  std::int64_t pages_read = 0, pages_skipped = 0, words_read = 0;
};

// The queries of `heads` heads from `head` on, whose counts are [heads, width], into scratch.query. What
// they read of the page that comes first is called for, so that no head waits for its own.
void ask_heads(const BitCache& cache, int head, int heads, const std::int8_t* counts, int width, std::int64_t position,
               bool newest_first, AttentionScratch& scratch);

// The `winners` keys of largest score among tokens 0..position, best first, lowest index on ties.
// Pages that cannot hold a winner, by their bound, are not read.
void find_winners(const Kernels& kernels, const BitCache& cache, int head, const Query& query,
                  std::int64_t position, const Scoring& scoring, int winners, AttentionScratch& scratch);

// Weights by powers of two, to so many binary digits and each times `unit`, of `n` scores whose largest
// is `top`; `n` is a multiple of kPage, and what is not to be heard is -inf.
void weigh_by_powers(const Kernels& kernels, float* value, std::int64_t n, float top, int digits, float unit);

// Weights of all tokens 0..position by softmax, sparsemax or powers of two (to so many binary digits),
// each times `unit`, into scratch.weight, which is filled with zeros to the end of the last page.
void weigh_all(const Kernels& kernels, const BitCache& cache, int head, const Query& query,
               std::int64_t position, const Scoring& scoring, Rule rule, int digits, float unit,
               AttentionScratch& scratch);

}  // namespace spikeformers
