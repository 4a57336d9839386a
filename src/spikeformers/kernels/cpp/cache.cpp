#include "cache.hpp"

#include <algorithm>
#include <cstring>

#include "limits.hpp"

namespace spikeformers {

Planes Planes::of(const Neuron& neuron) {
  Planes planes;
  for (planes.n = 0; most_count(neuron) >> planes.n != 0; ++planes.n)
    planes.weight[planes.n] = 1 << planes.n;
  if (has_sign(neuron)) {
    planes.weight[planes.n] = -(1 << planes.n);
    ++planes.n;
  }
  return planes;
}

BitCache::BitCache(int heads, int width, const Planes& keys, const Planes& values)
    : heads_(heads),
      width_(width),
      words_((width + 63) / 64),
      keys_(keys),
      values_(values),
      key_words_(static_cast<std::int64_t>(width) * keys.n),
      value_words_(in_bytes(values) ? (width + 7) / 8 : std::int64_t{values.n} * words_),
      page_words_(heads * (key_words_ + kPage * value_words_)) {}

std::int64_t BitCache::bytes() const {
  return static_cast<std::int64_t>(pages_.size()) * page_words_ * 8 +
         static_cast<std::int64_t>(most_.size() * sizeof(Most));
}

void BitCache::extend(std::int64_t more) {
  if (tokens_ % kPage != 0 && more > 0) {
    own_last_page(pages_, page_words_);
    page_.back() = pages_.back().get();
  }
  tokens_ += more;
  while (static_cast<std::int64_t>(pages_.size()) * kPage < tokens_) {
    pages_.emplace_back(new std::uint64_t[static_cast<std::size_t>(page_words_)]());
    page_.push_back(pages_.back().get());
    most_.resize(most_.size() + static_cast<std::size_t>(heads_));
  }
}

void BitCache::put_key(std::int64_t token, int head, const std::int8_t* count) {
  constexpr int kSome = 64;  // features that are listed at a time
  const auto page = static_cast<std::size_t>(token / kPage);
  std::uint64_t* words = pages_[page].get() + head * key_words_;
  auto* byte = reinterpret_cast<std::int8_t*>(words) + token % kPage;
  const std::uint64_t bit = std::uint64_t{1} << (token % kPage);
  std::int32_t sum = 0, top = 0;
  for (int first = 0; first < width_; first += kSome) {
    int fired[kSome], n = 0;
    for (int d = first; d < std::min(width_, first + kSome); ++d) {
      fired[n] = d;  // a silent one is written over by the next: no branch to guess
      n += count[d] != 0;
      const std::int32_t size = count[d] < 0 ? -count[d] : count[d];
      sum += size;
      top = top < size ? size : top;
    }
    if (in_bytes(keys_)) {
      for (int i = 0; i < n; ++i) byte[fired[i] * kPage] = count[fired[i]];
      continue;
    }
    for (int i = 0; i < n; ++i) {
      const auto set = static_cast<std::uint32_t>(count[fired[i]]);
      for (int p = 0; p < keys_.n; ++p) words[fired[i] * keys_.n + p] |= set >> p & 1 ? bit : 0;
    }
  }
  Most& most = most_[page * static_cast<std::size_t>(heads_) + static_cast<std::size_t>(head)];
  most.sum = most.sum < sum ? sum : most.sum;
  most.count = most.count < top ? top : most.count;
}

void BitCache::put_value(std::int64_t token, int head, const std::int8_t* count) {
  std::uint64_t* words = mutable_value(token, head);
  if (in_bytes(values_)) {
    std::memcpy(words, count, static_cast<std::size_t>(width_));
    return;
  }
  for (int d = 0; d < width_; ++d) {
    if (count[d] == 0) continue;
    const auto set = static_cast<std::uint32_t>(count[d]);
    for (int p = 0; p < values_.n; ++p)
      if (set >> p & 1) words[p * words_ + d / 64] |= std::uint64_t{1} << (d % 64);
  }
}

std::int64_t BitCache::add_values(const Kernels& kernels, std::int64_t first, std::int64_t n, int head,
                                  const float* weight, float* out) const {
  const std::int64_t heard = n - std::count(weight, weight + n, 0.0f);
  if (heard == 0) return 0;
  if (in_bytes(values_)) {
    kernels.add_counts(reinterpret_cast<const std::int8_t*>(value(first, head)), heads_ * value_bytes(), weight,
                       n, width_, out);
    return heard;
  }
  for (std::int64_t j = 0; j < n; ++j)
    if (weight[j] != 0.0f) add_value(first + j, head, weight[j], out);
  return heard;
}

}  // namespace spikeformers
