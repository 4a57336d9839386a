// Panels of whole weights for many tokens, for counts.inl, which includes this once for each
// instruction set.

#if defined(SPIKEFORMERS_AVX512)
// Byte 256 * (i / 4) + 4 * column + i % 4 is a weight of row i plus 128.
void pack(const std::int8_t* w, std::int64_t stride, std::int64_t inputs, std::int64_t columns,
          std::int16_t* panel) {
  static constexpr std::int8_t silent[kCountColumns] = {};
  for (std::int64_t i = 0; i < inputs; i += 4, panel += 2 * kCountColumns) {
    const std::int8_t* row[4];
    for (int r = 0; r < 4; ++r) row[r] = i + r < inputs ? w + (i + r) * stride : silent;
    std::uint32_t four[kCountColumns];
    for (std::int64_t o = 0; o < kCountColumns; ++o) four[o] = 0;
    for (int r = 0; r < 4; ++r)
      for (std::int64_t o = 0; o < (columns < kCountColumns ? columns : kCountColumns); ++o)
        four[o] |= std::uint32_t{static_cast<std::uint8_t>(row[r][o])} << (8 * r);
    for (std::int64_t o = 0; o < kCountColumns; ++o) four[o] ^= 0x80808080u;
    __builtin_memcpy(panel, four, sizeof four);
  }
}

// The sum of up to kCountRows counts.
SPIKEFORMERS_INLINE std::int32_t total_of(const std::int8_t* count, std::int64_t n) {
  const __m512i one = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < n; i += 64) {
    const __mmask64 there = n - i < 64 ? (std::uint64_t{1} << (n - i)) - 1 : ~std::uint64_t{0};
    sum = _mm512_dpbusd_epi32(sum, one, _mm512_maskz_loadu_epi8(there, count + i));
  }
  alignas(64) std::int32_t part[16];
  _mm512_store_si512(part, sum);
  std::int32_t total = 0;
  for (const std::int32_t each : part) total += each;
  return total;
}

// Four inputs, of which `n` exist, of all tokens.
SPIKEFORMERS_INLINE void add_four(const std::uint8_t* from, const std::int8_t* count, std::int64_t stride,
                                  std::size_t n, __m512i (*s)[4]) {
  __m512i w[4];
  for (int k = 0; k < 4; ++k) w[k] = _mm512_loadu_si512(from + 64 * k);
  for (int t = 0; t < kCountTokens; ++t) {
    std::int32_t word = 0;
    __builtin_memcpy(&word, count + t * stride, n);
    const __m512i counts = _mm512_set1_epi32(word);
    for (int k = 0; k < 4; ++k) s[t][k] = _mm512_dpbusd_epi32(s[t][k], w[k], counts);
  }
}

void block(const std::int16_t* panel, std::int64_t inputs, const std::int8_t* count,
           std::int64_t count_stride, std::int32_t* sum) {
  const auto* from = reinterpret_cast<const std::uint8_t*>(panel);
  __m512i s[kCountTokens][4];
  for (int t = 0; t < kCountTokens; ++t) {
    const __m512i over = _mm512_set1_epi32(128 * total_of(count + t * count_stride, inputs));
    for (int k = 0; k < 4; ++k)
      s[t][k] = _mm512_sub_epi32(_mm512_loadu_si512(sum + t * kCountColumns + 16 * k), over);
  }
  std::int64_t i = 0;
  for (; i + 4 <= inputs; i += 4) add_four(from + 64 * i, count + i, count_stride, 4, s);
  if (i < inputs) add_four(from + 64 * i, count + i, count_stride, static_cast<std::size_t>(inputs - i), s);
  for (int t = 0; t < kCountTokens; ++t)
    for (int k = 0; k < 4; ++k) _mm512_storeu_si512(sum + t * kCountColumns + 16 * k, s[t][k]);
}
#elif defined(SPIKEFORMERS_AVX2)
// Number 128 * (i / 2) + 2 * column + i % 2 is a weight of row i, in two bytes.
void pack(const std::int8_t* w, std::int64_t stride, std::int64_t inputs, std::int64_t columns,
          std::int16_t* panel) {
  static constexpr std::int8_t silent[kCountColumns] = {};
  for (std::int64_t i = 0; i < inputs; i += 2, panel += 2 * kCountColumns) {
    const std::int8_t *one = w + i * stride, *other = i + 1 < inputs ? one + stride : silent;
    if (columns < kCountColumns) {
      for (std::int64_t o = 0; o < kCountColumns; ++o) {
        panel[2 * o] = o < columns ? one[o] : std::int8_t{0};
        panel[2 * o + 1] = o < columns ? other[o] : std::int8_t{0};
      }
      continue;
    }
    for (std::int64_t o = 0; o < kCountColumns; o += 16) {
      const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(one + o));
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(other + o));
      put256(panel + 2 * o, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)));
      put256(panel + 2 * o + 16, _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b)));
    }
  }
}

void block(const std::int16_t* panel, std::int64_t inputs, const std::int8_t* count,
           std::int64_t count_stride, std::int32_t* sum) {
  alignas(32) std::int16_t wide[kCountTokens][kCountRows + 1];
  for (int t = 0; t < kCountTokens; ++t) {
    for (std::int64_t i = 0; i < inputs; ++i) wide[t][i] = count[t * count_stride + i];
    wide[t][inputs] = 0;
  }
  for (std::int64_t o = 0; o < kCountColumns; o += 16) {
    __m256i s[kCountTokens][2];
    for (int t = 0; t < kCountTokens; ++t)
      for (int k = 0; k < 2; ++k) s[t][k] = at256(sum + t * kCountColumns + o + 8 * k);
    for (std::int64_t i = 0; i < inputs; i += 2) {
      const __m256i a = at256(panel + 64 * i + 2 * o), b = at256(panel + 64 * i + 2 * o + 16);
      for (int t = 0; t < kCountTokens; ++t) {
        std::int32_t pair;
        __builtin_memcpy(&pair, wide[t] + i, sizeof pair);
        const __m256i counts = _mm256_set1_epi32(pair);
        s[t][0] = _mm256_add_epi32(s[t][0], _mm256_madd_epi16(a, counts));
        s[t][1] = _mm256_add_epi32(s[t][1], _mm256_madd_epi16(b, counts));
      }
    }
    for (int t = 0; t < kCountTokens; ++t)
      for (int k = 0; k < 2; ++k) put256(sum + t * kCountColumns + o + 8 * k, s[t][k]);
  }
}
#else
void pack(const std::int8_t* w, std::int64_t stride, std::int64_t inputs, std::int64_t columns,
          std::int16_t* panel) {
  for (std::int64_t i = 0; i < inputs; ++i)
    for (std::int64_t o = 0; o < kCountColumns; ++o)
      panel[kCountColumns * i + o] = o < columns ? w[i * stride + o] : std::int8_t{0};
}

void block(const std::int16_t* panel, std::int64_t inputs, const std::int8_t* count,
           std::int64_t count_stride, std::int32_t* sum) {
  for (int t = 0; t < kCountTokens; ++t, sum += kCountColumns)
    for (std::int64_t i = 0; i < inputs; ++i) {
      const std::int16_t c = count[t * count_stride + i];
      if (c == 0) continue;
      for (std::int64_t o = 0; o < kCountColumns; ++o)
        sum[o] += static_cast<std::int16_t>(panel[kCountColumns * i + o] * c);
    }
}
#endif
