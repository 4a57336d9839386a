// What a sequence remembers of keys and values that are not bits: counts in one or two bytes, reals
// in two or four.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "converted_kernels.hpp"

namespace spikeformers {

// Keys and values of one attention layer. A page holds 64 tokens, for each head: keys as
// [feature][64 tokens], so that a query reads the features that it has for 64 keys at once, and
// values as [token][feature]: what a head reads lies in one piece. Pages never move; a copy shares
// them.
class RowCache {
 public:
  RowCache(Number type, int heads, int width);

  Number type() const { return type_; }
  std::int64_t size() const { return size_; }  // bytes of a number
  std::int64_t bytes() const {
    return (static_cast<std::int64_t>(pages_.size()) - forgotten_) * page_bytes_;
  }
  void extend();  // by one token
  void forget_before(std::int64_t token);  // the pages that end before it: nobody reads them again
  void put(std::int64_t token, int head, const float* key, const float* value);
  const std::byte* keys(std::int64_t page, int head) const {
    return pages_[static_cast<std::size_t>(page)].get() + head * width_ * kPage * size_;
  }
  // Values of the page's first token.
  const std::byte* values(std::int64_t page, int head) const {
    return pages_[static_cast<std::size_t>(page)].get() + page_bytes_ / 2 + head * width_ * kPage * size_;
  }

 private:
  Number type_;
  std::int64_t heads_, width_, size_, page_bytes_, tokens_ = 0, forgotten_ = 0;
  std::vector<std::shared_ptr<std::byte[]>> pages_;
};

}  // namespace spikeformers
