// Included by counts.cpp once for each instruction set, as body.inl is by path_*.cpp; the same rules.

#define SPIKEFORMERS_INLINE static inline __attribute__((always_inline))
#define SPIKEFORMERS_FETCH(address) __builtin_prefetch(address, 0, 2)  // products.inl says why

constexpr std::int64_t kSums = 4096;   // of a tile: 16 KiB that stay in L1 while rows stream past
constexpr std::int64_t kStep = 64;     // outputs: a line of a row
constexpr int kRows = 8;

// ---- from reals to counts ----------------------------------------------------------------------

// The smallest power of two that is not below a normal x.
SPIKEFORMERS_INLINE float power_of_two_from(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x007fffffu) & 0x7f800000u;
  __builtin_memcpy(&x, &bits, sizeof bits);
  return x;
}

Encoded encode(const TokenCode& code, const float* x, std::int64_t n, const TokenCounts& to) {
  // Eight sums in double and the largest: the same bits on every path, as in norm().
  double part[8] = {};
  float largest[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) {
      const float size = __builtin_fabsf(x[i + k]);
      part[k] += size;
      largest[k] = size > largest[k] ? size : largest[k];
    }
  for (; i < n; ++i) {
    const float size = __builtin_fabsf(x[i]);
    part[0] += size;
    largest[0] = size > largest[0] ? size : largest[0];
  }
  double total = 0.0;
  float top = 0.0f;
  for (int k = 0; k < 8; ++k) {
    total += part[k];
    top = largest[k] > top ? largest[k] : top;
  }
  if (!__builtin_isfinite(total)) return {0.0f, 0, 0, false};
  const float mean = static_cast<float>(total / static_cast<double>(n));
  const float reached = code.reach * mean;
  const float limit = static_cast<float>(code.largest);
  float unit = (top < reached ? top : reached) / limit;
  if (unit < 0x1p-126f) {  // too small to divide by: silence, as for a row of zeros
    for (i = 0; i < n; ++i) to.whole[i] = 0;
    return {0.0f, 0, 0, true};
  }
  if (code.power_of_two) unit = power_of_two_from(unit);
  const float bar = code.dead_zone * mean;
  for (i = 0; i < n; ++i) {
    const float size = __builtin_fabsf(x[i]);
    const std::int32_t fired = size < bar ? 0 : -1;
    const std::int32_t count = static_cast<std::int32_t>(__builtin_fabsf(x[i] / unit) + 0.5f) & fired;
    to.whole[i] = x[i] < 0.0f ? -count : count;
  }
  std::int64_t near = 0, far = 0;
  for (i = 0; i < n; ++i) {  // what is not kept is written over by the next: no branch to guess
    const std::int32_t count = to.whole[i];
    const bool is_near = count <= code.largest && count >= -code.largest;
    to.index[near] = static_cast<std::int32_t>(i);
    to.count[near] = static_cast<std::int8_t>(count);
    near += is_near & (count != 0);
    to.far_index[far] = static_cast<std::int32_t>(i);
    to.far_count[far] = count;
    far += !is_near;
  }
  return {unit, near, far, true};
}

// ---- rows of one token -------------------------------------------------------------------------

struct CountGroup {
  const std::int8_t *row[kRows], *next[kRows];
  std::int8_t count[kRows];
};

#if defined(SPIKEFORMERS_AVX512)
// Four rows are put byte by byte beside each other in lanes of 128 bits, so that one instruction
// multiplies four weights of an output by their counts. Weights are made unsigned by adding 128; the
// caller takes 128 * counts off. Sums lie out of order until ordered().
SPIKEFORMERS_INLINE void add_group(const CountGroup& group, std::int64_t o, std::int32_t* sum) {
  __m512i s[4];
  for (int k = 0; k < 4; ++k) s[k] = _mm512_loadu_si512(sum + o + 16 * k);
  for (int four = 0; four < kRows; four += 4) {
    std::int32_t word;
    __builtin_memcpy(&word, group.count + four, 4);
    const __m512i counts = _mm512_set1_epi32(word), middle = _mm512_set1_epi8(-128);
    __m512i row[4];
    for (int k = 0; k < 4; ++k)
      row[k] = _mm512_xor_si512(_mm512_loadu_si512(group.row[four + k] + o), middle);
    const __m512i a = _mm512_unpacklo_epi8(row[0], row[1]), b = _mm512_unpackhi_epi8(row[0], row[1]);
    const __m512i c = _mm512_unpacklo_epi8(row[2], row[3]), d = _mm512_unpackhi_epi8(row[2], row[3]);
    s[0] = _mm512_dpbusd_epi32(s[0], _mm512_unpacklo_epi16(a, c), counts);
    s[1] = _mm512_dpbusd_epi32(s[1], _mm512_unpackhi_epi16(a, c), counts);
    s[2] = _mm512_dpbusd_epi32(s[2], _mm512_unpacklo_epi16(b, d), counts);
    s[3] = _mm512_dpbusd_epi32(s[3], _mm512_unpackhi_epi16(b, d), counts);
  }
  for (int k = 0; k < 4; ++k) _mm512_storeu_si512(sum + o + 16 * k, s[k]);
}

// Lane l of s[k], four outputs, becomes lane k of to[l].
SPIKEFORMERS_INLINE void turned(const __m512i* s, __m512i* to) {
  const __m512i a = _mm512_shuffle_i32x4(s[0], s[1], 0x44), b = _mm512_shuffle_i32x4(s[2], s[3], 0x44);
  const __m512i c = _mm512_shuffle_i32x4(s[0], s[1], 0xee), d = _mm512_shuffle_i32x4(s[2], s[3], 0xee);
  to[0] = _mm512_shuffle_i32x4(a, b, 0x88);
  to[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
  to[2] = _mm512_shuffle_i32x4(c, d, 0x88);
  to[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

SPIKEFORMERS_INLINE void ordered(std::int32_t* sum, std::int64_t blocks, std::int32_t over) {
  const __m512i off = _mm512_set1_epi32(over);
  for (std::int64_t o = 0; o < blocks; o += kStep) {
    __m512i s[4], to[4];
    for (int k = 0; k < 4; ++k) s[k] = _mm512_sub_epi32(_mm512_loadu_si512(sum + o + 16 * k), off);
    turned(s, to);
    for (int k = 0; k < 4; ++k) _mm512_storeu_si512(sum + o + 16 * k, to[k]);
  }
}
#elif defined(SPIKEFORMERS_AVX2)
SPIKEFORMERS_INLINE __m256i at256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

SPIKEFORMERS_INLINE void put256(void* to, __m256i v) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), v);
}

// maddubs multiplies unsigned by signed bytes: sizes of weights by counts with the weights' signs.
// Two products are at most 2 * 128 * 127, and fit its 16 bits.
SPIKEFORMERS_INLINE __m256i dot(__m256i sum, __m256i weights, __m256i counts) {
  const __m256i two = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(counts, weights));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
}

// As with AVX-512, 32 outputs at a time.
SPIKEFORMERS_INLINE void add_group(const CountGroup& group, std::int64_t o, std::int32_t* sum) {
  for (std::int64_t half = o; half < o + kStep; half += 32) {
    __m256i s[4];
    for (int k = 0; k < 4; ++k) s[k] = at256(sum + half + 8 * k);
    for (int four = 0; four < kRows; four += 4) {
      std::int32_t word;
      __builtin_memcpy(&word, group.count + four, 4);
      const __m256i counts = _mm256_set1_epi32(word);
      const __m256i r0 = at256(group.row[four] + half), r1 = at256(group.row[four + 1] + half);
      const __m256i r2 = at256(group.row[four + 2] + half), r3 = at256(group.row[four + 3] + half);
      const __m256i a = _mm256_unpacklo_epi8(r0, r1), b = _mm256_unpackhi_epi8(r0, r1);
      const __m256i c = _mm256_unpacklo_epi8(r2, r3), d = _mm256_unpackhi_epi8(r2, r3);
      s[0] = dot(s[0], _mm256_unpacklo_epi16(a, c), counts);
      s[1] = dot(s[1], _mm256_unpackhi_epi16(a, c), counts);
      s[2] = dot(s[2], _mm256_unpacklo_epi16(b, d), counts);
      s[3] = dot(s[3], _mm256_unpackhi_epi16(b, d), counts);
    }
    for (int k = 0; k < 4; ++k) put256(sum + half + 8 * k, s[k]);
  }
}

SPIKEFORMERS_INLINE void ordered(std::int32_t* sum, std::int64_t blocks, std::int32_t) {
  for (std::int64_t o = 0; o < blocks; o += 32) {
    __m256i s[4];
    for (int k = 0; k < 4; ++k) s[k] = at256(sum + o + 8 * k);
    put256(sum + o, _mm256_permute2x128_si256(s[0], s[1], 0x20));
    put256(sum + o + 8, _mm256_permute2x128_si256(s[2], s[3], 0x20));
    put256(sum + o + 16, _mm256_permute2x128_si256(s[0], s[1], 0x31));
    put256(sum + o + 24, _mm256_permute2x128_si256(s[2], s[3], 0x31));
  }
}
#else
#if defined(SPIKEFORMERS_NEON) && defined(__ARM_FEATURE_DOTPROD)
SPIKEFORMERS_INLINE void add_group(const CountGroup& group, std::int64_t o, std::int32_t* sum) {
  for (std::int64_t at = o; at < o + kStep; at += 16) {
    int32x4_t s[4];
    for (int k = 0; k < 4; ++k) s[k] = vld1q_s32(sum + at + 4 * k);
    for (int four = 0; four < kRows; four += 4) {
      std::int32_t word;
      __builtin_memcpy(&word, group.count + four, 4);
      const int8x16_t counts = vreinterpretq_s8_s32(vdupq_n_s32(word));
      const int8x16_t r0 = vld1q_s8(group.row[four] + at), r1 = vld1q_s8(group.row[four + 1] + at);
      const int8x16_t r2 = vld1q_s8(group.row[four + 2] + at), r3 = vld1q_s8(group.row[four + 3] + at);
      const int16x8_t a = vreinterpretq_s16_s8(vzip1q_s8(r0, r1)), b = vreinterpretq_s16_s8(vzip2q_s8(r0, r1));
      const int16x8_t c = vreinterpretq_s16_s8(vzip1q_s8(r2, r3)), d = vreinterpretq_s16_s8(vzip2q_s8(r2, r3));
      s[0] = vdotq_s32(s[0], vreinterpretq_s8_s16(vzip1q_s16(a, c)), counts);
      s[1] = vdotq_s32(s[1], vreinterpretq_s8_s16(vzip2q_s16(a, c)), counts);
      s[2] = vdotq_s32(s[2], vreinterpretq_s8_s16(vzip1q_s16(b, d)), counts);
      s[3] = vdotq_s32(s[3], vreinterpretq_s8_s16(vzip2q_s16(b, d)), counts);
    }
    for (int k = 0; k < 4; ++k) vst1q_s32(sum + at + 4 * k, s[k]);
  }
}
#elif defined(SPIKEFORMERS_NEON)
// Two products, at most 2 * 128 * 127, fit 16 bits.
SPIKEFORMERS_INLINE void add_group(const CountGroup& group, std::int64_t o, std::int32_t* sum) {
  for (std::int64_t at = o; at < o + kStep; at += 8) {
    int32x4_t low = vld1q_s32(sum + at), high = vld1q_s32(sum + at + 4);
    for (int k = 0; k < kRows; k += 2) {
      int16x8_t two = vmull_s8(vld1_s8(group.row[k] + at), vdup_n_s8(group.count[k]));
      two = vmlal_s8(two, vld1_s8(group.row[k + 1] + at), vdup_n_s8(group.count[k + 1]));
      low = vaddw_s16(low, vget_low_s16(two));
      high = vaddw_s16(high, vget_high_s16(two));
    }
    vst1q_s32(sum + at, low);
    vst1q_s32(sum + at + 4, high);
  }
}
#else
SPIKEFORMERS_INLINE void add_group(const CountGroup& group, std::int64_t o, std::int32_t* sum) {
  for (int k = 0; k < kRows; k += 2) {
    const std::int8_t *one = group.row[k] + o, *other = group.row[k + 1] + o;
    const std::int16_t c = group.count[k], d = group.count[k + 1];
    for (std::int64_t i = 0; i < kStep; ++i)  // two products, at most 2 * 128 * 127, fit 16 bits
      sum[o + i] += static_cast<std::int16_t>(one[i] * c + other[i] * d);
  }
}
#endif

SPIKEFORMERS_INLINE void ordered(std::int32_t*, std::int64_t, std::int32_t) {}
#endif

void rows(const std::int8_t* w, std::int64_t stride, Events events, const std::int8_t* count,
          std::int64_t begin, std::int64_t end, std::int32_t* sum) {
  std::int32_t total = 0;
  for (std::int64_t e = 0; e < events.n; ++e) total += count[e];
  for (std::int64_t tile = begin; tile < end; tile += kSums, sum += kSums) {
    const std::int64_t n = end - tile < kSums ? end - tile : kSums, blocks = n / kStep * kStep;
    for (std::int64_t o = 0; o < n; ++o) sum[o] = 0;
    for (std::int64_t e = 0; e < events.n; e += kRows) {
      CountGroup group;
      for (int k = 0; k < kRows; ++k) {
        const std::int64_t at = e + k < events.n ? e + k : e, then = at + kRows < events.n ? at + kRows : at;
        group.row[k] = w + events.index[at] * stride + tile;
        group.next[k] = w + events.index[then] * stride + tile;
        group.count[k] = e + k < events.n ? count[at] : static_cast<std::int8_t>(0);
      }
      // Lines of the rows to come are called for in the order in which they lie, eight for each
      // block: memory gives them twice as fast as eight rows side by side.
      int row = 0;
      std::int64_t line = 0;
      for (std::int64_t o = 0; o < blocks; o += kStep) {
        for (int k = 0; k < kRows; ++k) {
          SPIKEFORMERS_FETCH(group.next[row] + line);
          const bool ended = line + kStep >= n;
          line = ended ? 0 : line + kStep;
          row += ended && row < kRows - 1;
        }
        add_group(group, o, sum);
      }
      for (std::int64_t o = blocks; o < n; ++o)
        for (int k = 0; k < kRows; ++k) sum[o] += group.row[k][o] * group.count[k];
    }
    ordered(sum, blocks, 128 * total);
  }
}

void far_rows(const std::int8_t* w, std::int64_t stride, Events events, const std::int32_t* count,
              std::int64_t begin, std::int64_t end, std::int32_t* sum) {
  for (std::int64_t e = 0; e < events.n; ++e) {
    const std::int8_t* row = w + events.index[e] * stride + begin;
    const std::int32_t c = count[e];
    for (std::int64_t o = 0; o < end - begin; ++o) sum[o] += row[o] * c;
  }
}

#include "count_blocks.inl"
#include "grouped.inl"
#include "sweep.inl"

#undef SPIKEFORMERS_INLINE
#undef SPIKEFORMERS_FETCH

const CountKernels table = {encode,        rows,          far_rows, pack,
                            block,         grouped,       grouped_block, grouped_reals,
                            sweep,         kSweepCountsFrom, kSweepSpikesFrom};
