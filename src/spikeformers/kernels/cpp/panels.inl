// Products of many tokens, for body.inl: packed blocks of weights serve all of them.

// Packs rows x 64 weights into groups of four rows: byte 4 * column + r of a group is row r's
// weight plus 128, so that unsigned weights meet signed counts; the sum's 128 * counts is taken off
// by the caller. Missing rows of the last group are weight zero.
void panel_pack(const std::int8_t* w, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                std::uint8_t* panel) {
  static constexpr std::int8_t silent[kPanelColumns] = {};
  for (std::int64_t group = 0; 4 * group < rows; ++group) {
    const std::int8_t* row[4];
    for (int r = 0; r < 4; ++r)
      row[r] = 4 * group + r < rows ? w + (4 * group + r) * stride : silent;
    std::uint8_t* to = panel + group * 4 * kPanelColumns;
    if (columns < kPanelColumns) {
      for (std::int64_t o = 0; o < kPanelColumns; ++o)
        for (int r = 0; r < 4; ++r)
          to[4 * o + r] = static_cast<std::uint8_t>((o < columns ? row[r][o] : 0) + 128);
      continue;
    }
    std::uint32_t four[kPanelColumns];  // a whole word at a time, which compilers vectorise
    for (std::int64_t o = 0; o < kPanelColumns; ++o) {
      const auto a = static_cast<std::uint8_t>(row[0][o]), b = static_cast<std::uint8_t>(row[1][o]);
      const auto c = static_cast<std::uint8_t>(row[2][o]), d = static_cast<std::uint8_t>(row[3][o]);
      four[o] = (std::uint32_t{a} | std::uint32_t{b} << 8 | std::uint32_t{c} << 16 |
                 std::uint32_t{d} << 24) ^ 0x80808080u;
    }
    __builtin_memcpy(to, four, sizeof four);
  }
}

// sum[64] += four counts (packed in a word) times the four rows of each listed group.
void panel_add(const std::uint8_t* panel, const std::int32_t* group, const std::uint32_t* four,
               std::int64_t groups, std::int32_t* sum) {
#if defined(SPIKEFORMERS_AVX512)
  __m512i s0 = _mm512_loadu_si512(sum), s1 = _mm512_loadu_si512(sum + 16);
  __m512i s2 = _mm512_loadu_si512(sum + 32), s3 = _mm512_loadu_si512(sum + 48);
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::uint8_t* from = panel + group[g] * 4 * kPanelColumns;
    const __m512i counts = _mm512_set1_epi32(static_cast<int>(four[g]));
    s0 = _mm512_dpbusd_epi32(s0, _mm512_loadu_si512(from), counts);
    s1 = _mm512_dpbusd_epi32(s1, _mm512_loadu_si512(from + 64), counts);
    s2 = _mm512_dpbusd_epi32(s2, _mm512_loadu_si512(from + 128), counts);
    s3 = _mm512_dpbusd_epi32(s3, _mm512_loadu_si512(from + 192), counts);
  }
  _mm512_storeu_si512(sum, s0);
  _mm512_storeu_si512(sum + 16, s1);
  _mm512_storeu_si512(sum + 32, s2);
  _mm512_storeu_si512(sum + 48, s3);
#elif defined(SPIKEFORMERS_AVX2)
  // maddubs sums two products in 16 bits: 2 * 255 * 64 is the most, and fits (kMaxLevels).
  const __m256i ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; ++half) {
    __m256i s[4];
    for (int k = 0; k < 4; ++k)
      s[k] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sum + 32 * half + 8 * k));
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::uint8_t* from = panel + group[g] * 4 * kPanelColumns + 128 * half;
      const __m256i counts = _mm256_set1_epi32(static_cast<int>(four[g]));
      for (int k = 0; k < 4; ++k) {
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32 * k));
        s[k] = _mm256_add_epi32(s[k], _mm256_madd_epi16(_mm256_maddubs_epi16(w, counts), ones));
      }
    }
    for (int k = 0; k < 4; ++k)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sum + 32 * half + 8 * k), s[k]);
  }
#else
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::uint8_t* from = panel + group[g] * 4 * kPanelColumns;
    for (int r = 0; r < 4; ++r) {
      const auto c = static_cast<std::int8_t>(four[g] >> (8 * r));
      if (c == 0) continue;
      for (std::int64_t o = 0; o < kPanelColumns; ++o) sum[o] += from[4 * o + r] * c;
    }
  }
#endif
}
