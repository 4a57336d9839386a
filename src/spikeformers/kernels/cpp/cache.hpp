// What a sequence remembers: keys and values as bit planes, in pages that never move.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace spikeformers {

// Bits of a neuron's counts, and what each is worth: where it has a sign, those of two's complement,
// whose highest bit is worth less than nothing.
struct Planes {
  int n = 1;
  std::int32_t weight[kMaxPlanes] = {1};

  static Planes of(const Neuron& neuron);
};

// The last page before a token is put into it: where a fork of the sequence reads it too, it is copied,
// so that a page which several sequences share never changes.
template <class T>
void own_last_page(std::vector<std::shared_ptr<T[]>>& pages, std::int64_t size) {
  if (pages.back().use_count() == 1) return;
  std::shared_ptr<T[]> copy(new T[static_cast<std::size_t>(size)]);
  std::copy_n(pages.back().get(), size, copy.get());
  pages.back() = std::move(copy);
}

// Keys and values of one attention layer and simulation step. A copy shares the pages.
//
// A page holds 64 tokens: for each head, keys as [feature][plane] words with one bit per token, and
// values as [token][plane][words of the head's features] with one bit a feature. So a query reads
// the words of its active features for 64 keys at once, and a winner's value is a few words.
//
// Counts of eight planes are kept as bytes instead, keys as [feature][token] and values as
// [token][feature]: no larger, and a feature is added for 64 keys by a few instructions.
class BitCache {
 public:
  BitCache(int heads, int width, const Planes& keys, const Planes& values);

  std::int64_t tokens() const { return tokens_; }
  std::int64_t bytes() const;

  // Room for `more` tokens, whose bits are clear; put() then fills them in.
  void extend(std::int64_t more);
  void put_key(std::int64_t token, int head, const std::int8_t* count);
  void put_value(std::int64_t token, int head, const std::int8_t* count);

  const std::uint64_t* keys(std::int64_t page, int head) const {
    return pages_[static_cast<std::size_t>(page)].get() + head * key_words_;
  }
  // `count` pages from `first` on in steps of +1 or -1.
  Pages pages(int head, std::int64_t first, std::int64_t count, std::int64_t step) const {
    return {page_.data(), head * key_words_, most_.data() + head, heads_, first, count, step};
  }
  // Adds weight * value to `out`.
  template <class T>
  void add_value(std::int64_t token, int head, T weight, T* out) const {
    const std::uint64_t* word = value(token, head);
    if (in_bytes(values_)) {
      const auto* count = reinterpret_cast<const std::int8_t*>(word);
      for (int d = 0; d < width_; ++d) out[d] = static_cast<T>(out[d] + weight * static_cast<T>(count[d]));
      return;
    }
    for (int p = 0; p < values_.n; ++p)
      for (int w = 0; w < words_; ++w)
        for (std::uint64_t bits = word[p * words_ + w]; bits != 0; bits &= bits - 1) {
          T& sum = out[64 * w + __builtin_ctzll(bits)];
          sum = static_cast<T>(sum + weight * static_cast<T>(values_.weight[p]));
        }
  }
  // Adds the values of `n` tokens of one page from `first` on, each times its weight; returns how many
  // weights are not 0.
  std::int64_t add_values(const Kernels& kernels, std::int64_t first, std::int64_t n, int head,
                          const float* weight, float* out) const;
  std::int64_t value_bytes() const { return 8 * value_words_; }
  bool keys_in_bytes() const { return in_bytes(keys_); }
  int key_planes() const { return keys_.n; }
  const std::int32_t* key_weights() const { return keys_.weight; }

 private:
  static bool in_bytes(const Planes& planes) { return planes.n == kMaxPlanes; }
  const std::uint64_t* value(std::int64_t token, int head) const {
    return pages_[static_cast<std::size_t>(token / kPage)].get() + heads_ * key_words_ +
           ((token % kPage) * heads_ + head) * value_words_;
  }
  std::uint64_t* mutable_value(std::int64_t token, int head) {
    return const_cast<std::uint64_t*>(value(token, head));
  }

  int heads_, width_, words_;
  Planes keys_, values_;
  std::int64_t key_words_, value_words_, page_words_, tokens_ = 0;
  std::vector<std::shared_ptr<std::uint64_t[]>> pages_;
  std::vector<const std::uint64_t*> page_;  // the same, as kernels take them
  std::vector<Most> most_;                  // [page][head]
};

// What SSA needs of the past: the sum of k v^T over its tokens, in whole numbers, for each head.
// (Q K^T) V = Q (K^T V): without a competition the past has a fixed size.
struct SumCache {
  SumCache(int heads, int width)
      : sum(static_cast<std::size_t>(heads) * static_cast<std::size_t>(width * width)) {}
  std::vector<std::int64_t> sum;  // [head][key feature][value feature]
};

}  // namespace spikeformers
