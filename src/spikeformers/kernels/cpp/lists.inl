// From counts of a row to the inputs that fired, for body.inl.

#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
// The places of the bits that are set in a byte, ascending, a byte each.
struct Places {
  std::uint64_t of[256];
  constexpr Places() : of() {
    for (int mask = 0; mask < 256; ++mask)
      for (int bit = 0, at = 0; bit < 8; ++bit)
        if (mask >> bit & 1) of[mask] |= static_cast<std::uint64_t>(bit) << (8 * at++);
  }
};
constexpr Places kPlaces;
#endif

// The inputs that fired and their counts: all of them, or, with `apart`, those below zero and then the
// others. What is not kept is written over by the next: no branch to guess, and nothing is written past
// the places of the inputs so far.
class Lists {
 public:
  SPIKEFORMERS_MEMBER Lists(const Listing& to, std::int64_t n)
      : to_(to),
        apart_(to.below_first && to.index != nullptr),
        index_(apart_ ? to.scratch : to.index),
        listed_(apart_ ? reinterpret_cast<std::int8_t*>(to.scratch + n) : to.listed) {}

  // Of 32 inputs from `first` on.
  SPIKEFORMERS_MEMBER void add(const std::int8_t* count, std::int64_t first) {
#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(count));
    const auto silent = static_cast<std::uint32_t>(
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(c, _mm256_setzero_si256())));
    if (to_.index == nullptr) {
      over_ += __builtin_popcount(~silent);
      return;
    }
    const std::uint32_t below = apart_ ? static_cast<std::uint32_t>(_mm256_movemask_epi8(c)) : 0;
    for (int k = 0; k < 32; k += 8) {
      over_ += put(count + k, (~silent & ~below) >> k & 255, first + k, index_ + over_, listed_ + over_);
      if (apart_)
        under_ += put(count + k, below >> k & 255, first + k, to_.index + under_, to_.listed + under_);
    }
#else
    for (std::int64_t i = 0; i < 32; ++i) add_one(count[i], first + i);
#endif
  }

  SPIKEFORMERS_MEMBER void add_one(std::int8_t count, std::int64_t i) {
    if (to_.index == nullptr) {
      over_ += count != 0;
      return;
    }
    const bool below = apart_ && count < 0;
    index_[over_] = static_cast<std::int32_t>(i);
    listed_[over_] = count;
    over_ += count != 0 && !below;
    if (!apart_) return;
    to_.index[under_] = static_cast<std::int32_t>(i);
    to_.listed[under_] = count;
    under_ += below;
  }

  // How many there are, once they lie together.
  SPIKEFORMERS_MEMBER std::int64_t close() {
    if (apart_) {
      __builtin_memcpy(to_.index + under_, index_, static_cast<std::size_t>(over_) * sizeof *index_);
      __builtin_memcpy(to_.listed + under_, listed_, static_cast<std::size_t>(over_));
    }
    return under_ + over_;
  }

 private:
#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
  // Writes eight places and counts, of which those of set bits are kept.
  SPIKEFORMERS_MEMBER static std::int64_t put(const std::int8_t* count, std::uint32_t mask, std::int64_t first,
                                              std::int32_t* index, std::int8_t* listed) {
    const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of + mask));
    const __m128i counts = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(count));
    const __m256i all = _mm256_add_epi32(_mm256_cvtepu8_epi32(places),
                                         _mm256_set1_epi32(static_cast<std::int32_t>(first)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(index), all);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(listed), _mm_shuffle_epi8(counts, places));
    return __builtin_popcount(mask);
  }
#endif
  const Listing to_;
  const bool apart_;
  std::int32_t* const index_;   // of those that are not below zero, or of all
  std::int8_t* const listed_;
  std::int64_t under_ = 0, over_ = 0;
};

std::int64_t list(const std::int8_t* count, std::int64_t n, const Listing& to) {
  Lists lists(to, n);
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) lists.add(count + i, i);
  for (; i < n; ++i) lists.add_one(count[i], i);
  return lists.close();
}
