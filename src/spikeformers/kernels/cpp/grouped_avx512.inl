// Four-bit weights times counts by VNNI, for grouped.inl: the weights of four rows of an output lie
// beside each other, so that one instruction multiplies four by their counts and adds them to 32 bits.

constexpr int kTogether = 4;                 // rows
constexpr std::int64_t kWholeStep = 2 * kStep;

// The bytes of four rows beside each other: to[k] has, of each lane of 16 bytes, those from 4 k on.
SPIKEFORMERS_INLINE void beside(const __m512i* row, __m512i* to) {
  const __m512i a = _mm512_unpacklo_epi8(row[0], row[1]), b = _mm512_unpackhi_epi8(row[0], row[1]);
  const __m512i c = _mm512_unpacklo_epi8(row[2], row[3]), d = _mm512_unpackhi_epi8(row[2], row[3]);
  to[0] = _mm512_unpacklo_epi16(a, c);
  to[1] = _mm512_unpackhi_epi16(a, c);
  to[2] = _mm512_unpacklo_epi16(b, d);
  to[3] = _mm512_unpackhi_epi16(b, d);
}

SPIKEFORMERS_INLINE __m512i low_halves(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }

SPIKEFORMERS_INLINE __m512i high_halves(__m512i bytes) { return low_halves(_mm512_srli_epi16(bytes, 4)); }

// Sums of `n` rows, a multiple of four, in 16 outputs each, of the bytes from `at` on that `there`
// has: 64 outputs in its lower half, to[0..3], the 64 after them in its upper half, to[4..7].
SPIKEFORMERS_INLINE void sums_of_run(const std::uint8_t* const* row, const std::int8_t* count, int n, std::int64_t at,
                                     __mmask64 there, __m512i* to) {
  __m512i both[4], high[4];  // of whole bytes, and of their high halves, each times 16
  for (int j = 0; j < 4; ++j) both[j] = high[j] = _mm512_setzero_si512();
  for (int k = 0; k < n; k += kTogether) {
    __m512i bytes[kTogether], four[4];
    for (int r = 0; r < kTogether; ++r) bytes[r] = _mm512_maskz_loadu_epi8(there, row[k + r] + at);
    beside(bytes, four);
    std::int32_t word;
    __builtin_memcpy(&word, count + k, sizeof word);
    const __m512i counts = _mm512_set1_epi32(word), mask = _mm512_set1_epi8(-16);
    for (int j = 0; j < 4; ++j) {
      both[j] = _mm512_dpbusd_epi32(both[j], four[j], counts);
      high[j] = _mm512_dpbusd_epi32(high[j], _mm512_and_si512(four[j], mask), counts);
    }
  }
  __m512i low[4];
  for (int j = 0; j < 4; ++j) {
    low[j] = _mm512_sub_epi32(both[j], high[j]);
    high[j] = _mm512_srai_epi32(high[j], 4);
  }
  __m512i first[4], second[4];
  turned(low, first);
  turned(high, second);
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 2; ++k) {
      to[4 * half + k] = first[2 * half + k];
      to[4 * half + 2 + k] = second[2 * half + k];
    }
}

SPIKEFORMERS_INLINE void add_run(const std::uint8_t* const* row, const std::int8_t* count, int n, std::int64_t at,
                                 std::int32_t* sum) {
  __m512i s[8];
  sums_of_run(row, count, n, at, 0xffffffffu, s);
  for (int k = 0; k < 4; ++k)
    _mm512_storeu_si512(sum + 16 * k, _mm512_add_epi32(_mm512_loadu_si512(sum + 16 * k), s[k]));
}

SPIKEFORMERS_INLINE __m512 halves_at(const std::uint16_t* from) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

#define SPIKEFORMERS_WHOLE_STEP
SPIKEFORMERS_INLINE void add_whole_step(const std::uint8_t* const* row, const std::int8_t* count, int n,
                                        std::int64_t at, float total, const std::uint16_t* scale,
                                        const std::uint16_t* minimum, float* out) {
  __m512i s[8];
  sums_of_run(row, count, n, at, ~std::uint64_t{0}, s);
  const __m512 all = _mm512_set1_ps(total);
  for (int k = 0; k < 8; ++k) {
    const __m512 scaled = _mm512_mul_ps(halves_at(scale + 16 * k), _mm512_cvtepi32_ps(s[k]));
    const __m512 moved = _mm512_mul_ps(halves_at(minimum + 16 * k), all);
    _mm512_storeu_ps(out + 16 * k, _mm512_add_ps(_mm512_loadu_ps(out + 16 * k), _mm512_add_ps(scaled, moved)));
  }
}

// The 64 weights of each of a group's rows, unpacked once for many tokens, four rows beside each other.
struct Panel {
  alignas(64) std::uint8_t q[kGroup * 64];
};

SPIKEFORMERS_INLINE void fill(Panel& panel, const std::uint8_t* const* row, std::int64_t at) {
  for (int k = 0; k < kGroup; k += kTogether) {
    __m512i bytes[kTogether], four[4], order[4];
    for (int r = 0; r < kTogether; ++r) bytes[r] = _mm512_maskz_loadu_epi8(0xffffffffu, row[k + r] + at);
    beside(bytes, four);
    turned(four, order);  // the upper half is silent
    std::uint8_t* to = panel.q + 64 * k;
    for (int j = 0; j < 2; ++j) {
      _mm512_store_si512(to + 64 * j, low_halves(order[j]));
      _mm512_store_si512(to + 64 * (j + 2), high_halves(order[j]));
    }
  }
}

SPIKEFORMERS_INLINE void add_panel(const Panel& panel, const GroupCounts* token, std::int64_t tokens,
                                   std::int32_t (*sum)[kStep]) {
  const std::int8_t* near[kCountTokens];
  for (std::int64_t t = 0; t < kCountTokens; ++t) near[t] = token[t < tokens ? t : 0].near;
  __m512i s[kCountTokens][4];
  for (int t = 0; t < kCountTokens; ++t)
    for (int j = 0; j < 4; ++j) s[t][j] = _mm512_setzero_si512();
  for (int k = 0; k < kGroup; k += kTogether) {
    __m512i w[4];
    for (int j = 0; j < 4; ++j) w[j] = _mm512_load_si512(panel.q + 64 * (k + j));
    for (int t = 0; t < kCountTokens; ++t) {
      std::int32_t word;
      __builtin_memcpy(&word, near[t] + k, sizeof word);
      const __m512i counts = _mm512_set1_epi32(word);
      for (int j = 0; j < 4; ++j) s[t][j] = _mm512_dpbusd_epi32(s[t][j], w[j], counts);
    }
  }
  for (int t = 0; t < kCountTokens; ++t)
    for (int j = 0; j < 4; ++j) _mm512_store_si512(sum[t] + 16 * j, s[t][j]);
}
