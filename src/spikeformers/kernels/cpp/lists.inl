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

// Writes eight places, of which those of set bits are kept: no branch to guess.
SPIKEFORMERS_INLINE std::int64_t put_places(std::uint32_t mask, std::int64_t first, std::int32_t* to) {
  const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of + mask));
  const __m256i index = _mm256_add_epi32(_mm256_cvtepu8_epi32(places),
                                         _mm256_set1_epi32(static_cast<std::int32_t>(first)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), index);
  return __builtin_popcount(mask);
}
#endif

// The indices of counts that are not zero into `over`, or, with `apart`, those below zero into `under`.
struct Listed {
  std::int64_t under, over;
};

SPIKEFORMERS_INLINE Listed put_lists(const std::int8_t* count, std::int64_t n, bool apart,
                                     std::int32_t* under, std::int32_t* over) {
  Listed held = {0, 0};
  std::int64_t i = 0;
#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
  for (; i + 32 <= n; i += 32) {
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(count + i));
    const auto silent = static_cast<std::uint32_t>(
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(c, _mm256_setzero_si256())));
    const std::uint32_t below = apart ? static_cast<std::uint32_t>(_mm256_movemask_epi8(c)) : 0;
    for (int k = 0; k < 32; k += 8) {
      held.over += put_places((~silent & ~below) >> k & 255, i + k, over + held.over);
      if (apart) held.under += put_places(below >> k & 255, i + k, under + held.under);
    }
  }
#endif
  for (; i < n; ++i) {  // what is not kept is written over by the next
    const bool below = apart && count[i] < 0;
    over[held.over] = static_cast<std::int32_t>(i);
    held.over += count[i] != 0 && !below;
    if (!apart) continue;
    under[held.under] = static_cast<std::int32_t>(i);
    held.under += below;
  }
  return held;
}

std::int64_t list(const std::int8_t* count, std::int64_t n, bool below_first, std::int32_t* scratch,
                  std::int32_t* index, std::int8_t* listed) {
  if (index == nullptr) {
    std::int64_t fired = 0;
    for (std::int64_t i = 0; i < n; ++i) fired += count[i] != 0;
    return fired;
  }
  std::int32_t *under = scratch, *over = scratch + n + 8;
  const Listed held = put_lists(count, n, below_first, under, over);
  __builtin_memcpy(index, under, static_cast<std::size_t>(held.under) * sizeof *index);
  __builtin_memcpy(index + held.under, over, static_cast<std::size_t>(held.over) * sizeof *index);
  const std::int64_t fired = held.under + held.over;
  for (std::int64_t e = 0; e < fired; ++e) listed[e] = count[index[e]];
  return fired;
}
