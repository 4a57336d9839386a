// A product with a matrix from end to end, for counts.inl; counts.hpp has how the matrix is packed.

#if defined(SPIKEFORMERS_AVX512)
constexpr float kSweepCountsFrom = 0.5f, kSweepSpikesFrom = 0.6f;

void sweep(const std::int8_t* block, std::int64_t fours, const std::int8_t* count, std::int32_t* sum) {
  const __m512i middle = _mm512_set1_epi8(-128);
  __m512i s[2][4];
  std::int32_t total = 0;
  for (std::int64_t i = 0; i < 4 * fours; ++i) total += count[i];
  for (int k = 0; k < 4; ++k) {
    s[0][k] = _mm512_set1_epi32(-128 * total);
    s[1][k] = _mm512_set1_epi32(0);
  }
  std::int64_t g = 0;
  for (; g + 2 <= fours; g += 2, block += 512)
    for (int two = 0; two < 2; ++two) {
      std::int32_t word;
      __builtin_memcpy(&word, count + 4 * (g + two), 4);
      const __m512i counts = _mm512_set1_epi32(word);
      for (int k = 0; k < 4; ++k) {
        const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(block + 256 * two + 64 * k), middle);
        s[two][k] = _mm512_dpbusd_epi32(s[two][k], w, counts);
      }
    }
  if (g < fours) {
    std::int32_t word;
    __builtin_memcpy(&word, count + 4 * g, 4);
    for (int k = 0; k < 4; ++k) {
      const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(block + 64 * k), middle);
      s[0][k] = _mm512_dpbusd_epi32(s[0][k], w, _mm512_set1_epi32(word));
    }
  }
  for (int k = 0; k < 4; ++k) _mm512_storeu_si512(sum + 16 * k, _mm512_add_epi32(s[0][k], s[1][k]));
}
#elif defined(SPIKEFORMERS_AVX2)
constexpr float kSweepCountsFrom = 0.5f, kSweepSpikesFrom = 2.0f;

// Sizes of counts by weights with the counts' signs: two products, at most 2 * 127 * 127, fit 16 bits.
// What lies 2 KiB ahead is called for: the processor's own streams end at each 4 KiB.
void sweep(const std::int8_t* block, std::int64_t fours, const std::int8_t* count, std::int32_t* sum) {
  __m256i s[8];
  for (__m256i& each : s) each = _mm256_setzero_si256();
  const __m256i one = _mm256_set1_epi16(1);
  for (std::int64_t g = 0; g < fours; ++g, block += 256) {
    std::int32_t word;
    __builtin_memcpy(&word, count + 4 * g, 4);
    const __m256i counts = _mm256_set1_epi32(word), sizes = _mm256_abs_epi8(counts);
    for (int line = 0; line < 4; ++line) SPIKEFORMERS_FETCH(block + 2048 + 64 * line);
    for (int k = 0; k < 8; ++k) {
      const __m256i two = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(at256(block + 32 * k), counts));
      s[k] = _mm256_add_epi32(s[k], _mm256_madd_epi16(two, one));
    }
  }
  for (int k = 0; k < 8; ++k) put256(sum + 8 * k, s[k]);
}
#else
#if defined(SPIKEFORMERS_NEON) && defined(__ARM_FEATURE_DOTPROD)
constexpr float kSweepCountsFrom = 0.5f, kSweepSpikesFrom = 2.0f;
#else
constexpr float kSweepCountsFrom = 2.0f, kSweepSpikesFrom = 2.0f;
#endif

void sweep(const std::int8_t* block, std::int64_t fours, const std::int8_t* count, std::int32_t* sum) {
  for (std::int64_t o = 0; o < kSweepColumns; ++o) sum[o] = 0;
  for (std::int64_t g = 0; g < fours; ++g, block += 256) {
#if defined(SPIKEFORMERS_NEON) && defined(__ARM_FEATURE_DOTPROD)
    std::int32_t word;
    __builtin_memcpy(&word, count + 4 * g, 4);
    const int8x16_t counts = vreinterpretq_s8_s32(vdupq_n_s32(word));
    for (int k = 0; k < 16; ++k)
      vst1q_s32(sum + 4 * k, vdotq_s32(vld1q_s32(sum + 4 * k), vld1q_s8(block + 16 * k), counts));
#else
    for (std::int64_t o = 0; o < kSweepColumns; ++o)
      for (int i = 0; i < 4; ++i) sum[o] += block[4 * o + i] * count[4 * g + i];
#endif
  }
}
#endif
