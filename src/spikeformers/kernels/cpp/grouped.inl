// Products with weights of 4 bits in groups, for counts.inl, which includes this once for each
// instruction set.

#if defined(SPIKEFORMERS_AVX512)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Reals __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t Wholes __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t Halves __attribute__((vector_size(2 * kLanes)));

constexpr int kRun = 2184;  // sizes of counts whose sum, times 15, fits 16 bits

SPIKEFORMERS_INLINE float from_half(std::uint16_t half) {
  const std::uint32_t bits = std::uint32_t{half} << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// out += scale * sum + minimum * total, each operation rounded by itself.
SPIKEFORMERS_INLINE void add_scaled(const std::int32_t* sum, float total, const float* scale,
                                    const float* minimum, std::int64_t n, float* out) {
  std::int64_t o = 0;
  for (; o + kLanes <= n; o += kLanes) {
    Wholes whole;
    Reals by, least, to;
    __builtin_memcpy(&whole, sum + o, sizeof whole);
    __builtin_memcpy(&by, scale + o, sizeof by);
    __builtin_memcpy(&least, minimum + o, sizeof least);
    __builtin_memcpy(&to, out + o, sizeof to);
    to = to + (by * __builtin_convertvector(whole, Reals) + least * total);
    __builtin_memcpy(out + o, &to, sizeof to);
  }
  for (; o < n; ++o) {
    const float scaled = scale[o] * static_cast<float>(sum[o]), moved = minimum[o] * total;
    out[o] = out[o] + (scaled + moved);
  }
}

// Scales or minima of up to 64 outputs of a group, in floats; missing ones are 0.
SPIKEFORMERS_INLINE void widen(const std::uint16_t* half, std::int64_t n, float* to) {
  std::int64_t o = 0;
  for (; o + kLanes <= n; o += kLanes) {
    Halves narrow;
    __builtin_memcpy(&narrow, half + o, sizeof narrow);
    const Words bits = __builtin_convertvector(narrow, Words) << 16;
    __builtin_memcpy(to + o, &bits, sizeof bits);
  }
  for (; o < kStep; ++o) to[o] = o < n ? from_half(half[o]) : 0.0f;
}

// sum[64] += the counts of `n` rows, whose sizes are kRun at most together, times 64 weights of each
// from byte `at` on; `n` is a multiple of kTogether.
#if defined(SPIKEFORMERS_AVX512)
#include "grouped_avx512.inl"
#elif defined(SPIKEFORMERS_AVX2)
constexpr int kTogether = 2;
constexpr std::int64_t kWholeStep = kStep;

SPIKEFORMERS_INLINE __m256 eight_halves(const std::uint16_t* from) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

// sum[32] += 16-bit sums in lanes as unpacking leaves them.
SPIKEFORMERS_INLINE void add_wide(std::int32_t* sum, __m256i low, __m256i high) {
  const __m256i half[2] = {_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
  for (int k = 0; k < 4; ++k) {
    const __m128i eight = k % 2 == 0 ? _mm256_castsi256_si128(half[k / 2]) : _mm256_extracti128_si256(half[k / 2], 1);
    auto* to = reinterpret_cast<__m256i*>(sum + 8 * k);
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_cvtepi16_epi32(eight)));
  }
}

// 16-bit sums of 64 outputs, in lanes as unpacking leaves them.
SPIKEFORMERS_INLINE void sums_of_run(const std::uint8_t* const* row, const std::int8_t* count, int n, std::int64_t at,
                                     __m256i* s) {
  const __m256i mask = _mm256_set1_epi8(15);
  for (int j = 0; j < 4; ++j) s[j] = _mm256_setzero_si256();
  for (int k = 0; k < n; k += 2) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[k] + at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[k + 1] + at));
    std::int16_t pair;
    __builtin_memcpy(&pair, count + k, sizeof pair);
    const __m256i counts = _mm256_set1_epi16(pair);
    const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
    const __m256i q[4] = {_mm256_and_si256(low, mask), _mm256_and_si256(high, mask),
                          _mm256_and_si256(_mm256_srli_epi16(low, 4), mask),
                          _mm256_and_si256(_mm256_srli_epi16(high, 4), mask)};
    for (int j = 0; j < 4; ++j) s[j] = _mm256_add_epi16(s[j], _mm256_maddubs_epi16(q[j], counts));
  }
}

SPIKEFORMERS_INLINE void add_run(const std::uint8_t* const* row, const std::int8_t* count, int n, std::int64_t at,
                                 std::int32_t* sum) {
  __m256i s[4];
  sums_of_run(row, count, n, at, s);
  add_wide(sum, s[0], s[1]);
  add_wide(sum + 32, s[2], s[3]);
}

// Of the most frequent case, a single run without far counts over 64 outputs that all exist: what
// add_run(), widen() and add_scaled() do, with sums that stay in registers.
#define SPIKEFORMERS_WHOLE_STEP
SPIKEFORMERS_INLINE void add_whole_step(const std::uint8_t* const* row, const std::int8_t* count, int n,
                                        std::int64_t at, float total, const std::uint16_t* scale,
                                        const std::uint16_t* minimum, float* out) {
  __m256i s[4];
  sums_of_run(row, count, n, at, s);
  const __m256i half[4] = {_mm256_permute2x128_si256(s[0], s[1], 0x20), _mm256_permute2x128_si256(s[0], s[1], 0x31),
                           _mm256_permute2x128_si256(s[2], s[3], 0x20), _mm256_permute2x128_si256(s[2], s[3], 0x31)};
  const __m256 all = _mm256_set1_ps(total);
  for (int k = 0; k < 8; ++k) {
    const __m128i eight = k % 2 == 0 ? _mm256_castsi256_si128(half[k / 2]) : _mm256_extracti128_si256(half[k / 2], 1);
    const __m256 whole = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eight));
    const __m256 by = eight_halves(scale + 8 * k), least = eight_halves(minimum + 8 * k);
    const __m256 more = _mm256_add_ps(_mm256_mul_ps(by, whole), _mm256_mul_ps(least, all));
    _mm256_storeu_ps(out + 8 * k, _mm256_add_ps(_mm256_loadu_ps(out + 8 * k), more));
  }
}

// The 64 weights of each of a group's rows, unpacked once for many tokens: of each pair of rows the
// four vectors that add_run() makes.
struct Panel {
  alignas(32) std::uint8_t q[kGroup * 64];
};

SPIKEFORMERS_INLINE void fill(Panel& panel, const std::uint8_t* const* row, std::int64_t at) {
  const __m256i mask = _mm256_set1_epi8(15);
  for (int k = 0; k < kGroup; k += 2) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[k] + at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[k + 1] + at));
    const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
    auto* to = reinterpret_cast<__m256i*>(panel.q + 64 * k);
    _mm256_store_si256(to, _mm256_and_si256(low, mask));
    _mm256_store_si256(to + 1, _mm256_and_si256(high, mask));
    _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(low, 4), mask));
    _mm256_store_si256(to + 3, _mm256_and_si256(_mm256_srli_epi16(high, 4), mask));
  }
}

SPIKEFORMERS_INLINE void add_some(const Panel& panel, const std::int8_t* count, int first, int end, std::int32_t* sum) {
  __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  for (int k = first; k < end; k += 2) {
    std::int16_t pair;
    __builtin_memcpy(&pair, count + k, sizeof pair);
    const __m256i counts = _mm256_set1_epi16(pair);
    const auto* from = reinterpret_cast<const __m256i*>(panel.q + 64 * k);
    for (int j = 0; j < 4; ++j)
      s[j] = _mm256_add_epi16(s[j], _mm256_maddubs_epi16(_mm256_load_si256(from + j), counts));
  }
  add_wide(sum, s[0], s[1]);
  add_wide(sum + 32, s[2], s[3]);
}
#elif defined(SPIKEFORMERS_NEON)
constexpr int kTogether = 1;

SPIKEFORMERS_INLINE void add_run(const std::uint8_t* const* row, const std::int8_t* count, int n, std::int64_t at,
                                 std::int32_t* sum) {
  int16x8_t s[8];
  for (int j = 0; j < 8; ++j) s[j] = vdupq_n_s16(0);
  for (int k = 0; k < n; ++k) {
    const int8x8_t c = vdup_n_s8(count[k]);
    for (int half = 0; half < 2; ++half) {
      const uint8x16_t two = vld1q_u8(row[k] + at + 16 * half);
      const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(two, vdupq_n_u8(15)));
      const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(two, 4));
      s[2 * half] = vmlal_s8(s[2 * half], vget_low_s8(low), c);
      s[2 * half + 1] = vmlal_s8(s[2 * half + 1], vget_high_s8(low), c);
      s[2 * half + 4] = vmlal_s8(s[2 * half + 4], vget_low_s8(high), c);
      s[2 * half + 5] = vmlal_s8(s[2 * half + 5], vget_high_s8(high), c);
    }
  }
  for (int j = 0; j < 8; ++j) {
    vst1q_s32(sum + 8 * j, vaddw_s16(vld1q_s32(sum + 8 * j), vget_low_s16(s[j])));
    vst1q_s32(sum + 8 * j + 4, vaddw_s16(vld1q_s32(sum + 8 * j + 4), vget_high_s16(s[j])));
  }
}
#else
constexpr int kTogether = 1;

SPIKEFORMERS_INLINE void add_run(const std::uint8_t* const* row, const std::int8_t* count, int n, std::int64_t at,
                                 std::int32_t* sum) {
  std::int16_t s[64] = {};
  for (int k = 0; k < n; ++k) {
    const std::uint8_t* from = row[k] + at;
    const std::int16_t c = count[k];
    for (int j = 0; j < 32; ++j) {
      s[j] = static_cast<std::int16_t>(s[j] + (from[j] & 15) * c);
      s[j + 32] = static_cast<std::int16_t>(s[j + 32] + (from[j] >> 4) * c);
    }
  }
  for (int j = 0; j < 64; ++j) sum[j] += s[j];
}
#endif

#if !defined(SPIKEFORMERS_AVX512) && !defined(SPIKEFORMERS_AVX2)
struct Panel {
  const std::uint8_t* row[kGroup];
  std::int64_t at;
};

SPIKEFORMERS_INLINE void fill(Panel& panel, const std::uint8_t* const* row, std::int64_t at) {
  for (int k = 0; k < kGroup; ++k) panel.row[k] = row[k];
  panel.at = at;
}

SPIKEFORMERS_INLINE void add_some(const Panel& panel, const std::int8_t* count, int first, int end, std::int32_t* sum) {
  add_run(panel.row + first, count + first, end - first, panel.at, sum);
}
#endif

#if !defined(SPIKEFORMERS_AVX512)
// sum[t][64] of `tokens` tokens, kCountTokens at most: their counts times the panel.
SPIKEFORMERS_INLINE void add_panel(const Panel& panel, const GroupCounts* token, std::int64_t tokens,
                                   std::int32_t (*sum)[kStep]) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int32_t& each : sum[t]) each = 0;
    const int run = token[t].size <= kRun ? static_cast<int>(kGroup) : 16;
    for (int k = 0; k < kGroup; k += run) add_some(panel, token[t].near, k, k + run, sum[t]);
  }
}
#endif

// The rows of one group that fired, and as many runs of them as 16-bit sums need: one, or two of 16.
struct CountedGroup {
  const std::uint8_t* row[kGroup];
  std::int8_t count[kGroup];
  int n, run;           // a multiple of kTogether; rows of a run
  std::int32_t total;   // of all counts, far ones too
  Events far;
  const std::int32_t* far_count;
};

// The next group in which anything fired, from near event `e` and far event `f` on; its number, or -1.
SPIKEFORMERS_INLINE std::int64_t next_group(const GroupedWeights& w, const RowCounts& from, std::int64_t& e,
                                            std::int64_t& f, CountedGroup& to) {
  const bool any = e < from.near.n, any_far = f < from.far.n;
  if (!any && !any_far) return -1;
  std::int64_t group = any ? from.near.index[e] / kGroup : from.far.index[f] / kGroup;
  if (any && any_far && from.far.index[f] / kGroup < group) group = from.far.index[f] / kGroup;
  to.n = 0;
  to.total = 0;
  std::int32_t size = 0;
  for (; e < from.near.n && from.near.index[e] / kGroup == group; ++e, ++to.n) {
    to.row[to.n] = w.q + from.near.index[e] * w.stride;
    to.count[to.n] = from.count[e];
    to.total += from.count[e];
    size += from.count[e] < 0 ? -from.count[e] : from.count[e];
  }
  for (; to.n % kTogether != 0; ++to.n) {
    to.row[to.n] = to.row[to.n - 1];
    to.count[to.n] = 0;
  }
  to.run = size <= kRun ? static_cast<int>(kGroup) : 16;  // 16 * 127 is below kRun
  const std::int64_t first = f;
  for (; f < from.far.n && from.far.index[f] / kGroup == group; ++f) to.total += from.far_count[f];
  to.far = {from.far.index + first, f - first};
  to.far_count = from.far_count + first;
  return group;
}

SPIKEFORMERS_INLINE void add_far(const GroupedWeights& w, Events far, const std::int32_t* count, std::int64_t at,
                                 std::int32_t* sum) {
  for (std::int64_t f = 0; f < far.n; ++f) {
    const std::uint8_t* row = w.q + far.index[f] * w.stride + at;
    for (int j = 0; j < 32; ++j) {
      sum[j] += (row[j] & 15) * count[f];
      sum[j + 32] += (row[j] >> 4) * count[f];
    }
  }
}

// Calls for the lines of the rows of the next group in the order in which they lie, as rows() does:
// in each step its share of the rows.
struct Caller {
  const CountedGroup& group;
  std::int64_t begin, end, steps;  // bytes of a row; steps of 64 outputs
  std::int64_t due = 0;
  int row = 0;

  void step() {
    for (due += group.n; due >= steps; due -= steps, ++row)
      for (std::int64_t line = begin; line < end; line += kStep) SPIKEFORMERS_FETCH(group.row[row] + line);
  }
};

void grouped(const GroupedWeights& w, const RowCounts& counts, std::int64_t begin, std::int64_t end, float* out) {
  for (std::int64_t tile = begin; tile < end; tile += kSums, out += kSums) {
    const std::int64_t n = end - tile < kSums ? end - tile : kSums;
    for (std::int64_t o = 0; o < n; ++o) out[o] = 0.0f;
    CountedGroup both[2];
    std::int64_t e = 0, f = 0;
    int now = 0;
    std::int64_t group = next_group(w, counts, e, f, both[0]);
    while (group >= 0) {
      const CountedGroup& here = both[now];
      CountedGroup& then = both[1 - now];
      const std::int64_t after = next_group(w, counts, e, f, then);
      if (after < 0) then.n = 0;
      const std::int64_t steps = (n + kStep - 1) / kStep;
      Caller caller{then, tile / 2, tile / 2 + steps * kStep / 2, steps};
      for (std::int64_t o = 0; o < n; o += kStep) {
        caller.step();
#if defined(SPIKEFORMERS_WHOLE_STEP)
        if (n - o >= kWholeStep && here.n <= here.run && here.far.n == 0) {
          const std::int64_t to = group * w.outputs + tile + o;
          for (std::int64_t more = kStep; more < kWholeStep; more += kStep) caller.step();
          add_whole_step(here.row, here.count, here.n, (tile + o) / 2, static_cast<float>(here.total), w.scale + to,
                         w.minimum + to, out + o);
          o += kWholeStep - kStep;
          continue;
        }
#endif
        const std::int64_t left = n - o < kStep ? n - o : kStep, at = (tile + o) / 2;
        alignas(64) std::int32_t sum[kStep] = {};
        for (int k = 0; k < here.n; k += here.run)
          add_run(here.row + k, here.count + k, here.n - k < here.run ? here.n - k : here.run, at, sum);
        add_far(w, here.far, here.far_count, at, sum);
        alignas(64) float scale[kStep], minimum[kStep];
        widen(w.scale + group * w.outputs + tile + o, left, scale);
        widen(w.minimum + group * w.outputs + tile + o, left, minimum);
        add_scaled(sum, static_cast<float>(here.total), scale, minimum, left, out + o);
      }
      group = after;
      now = 1 - now;
    }
  }
}

void grouped_block(const GroupedWeights& w, std::int64_t group, std::int64_t inputs, std::int64_t begin,
                   const GroupCounts* counts, std::int64_t tokens, float* out) {
  const std::int64_t left = w.outputs - begin < kStep ? w.outputs - begin : kStep;
  alignas(64) float scale[kStep], minimum[kStep];
  widen(w.scale + group * w.outputs + begin, left, scale);
  widen(w.minimum + group * w.outputs + begin, left, minimum);
  const std::uint8_t* row[kGroup];  // those that are missing count 0
  for (std::int64_t i = 0; i < kGroup; ++i)
    row[i] = w.q + (group * kGroup + (i < inputs ? i : 0)) * w.stride;
  Panel panel;
  fill(panel, row, begin / 2);
  for (std::int64_t t = 0; t < tokens; t += kCountTokens) {
    const std::int64_t some = tokens - t < kCountTokens ? tokens - t : kCountTokens;
    alignas(64) std::int32_t sum[kCountTokens][kStep];
    add_panel(panel, counts + t, some, sum);
    for (std::int64_t k = 0; k < some; ++k, out += kStep) {
      const GroupCounts& token = counts[t + k];
      add_far(w, token.far, token.far_count, begin / 2, sum[k]);
      add_scaled(sum[k], static_cast<float>(token.total), scale, minimum, left, out);
    }
  }
}

void grouped_reals(const GroupedWeights& w, std::int64_t group, std::int64_t inputs, std::int64_t begin,
                   float* weight) {
  const std::int64_t left = w.outputs - begin < kStep ? w.outputs - begin : kStep;
  float scale[kStep], minimum[kStep];
  widen(w.scale + group * w.outputs + begin, left, scale);
  widen(w.minimum + group * w.outputs + begin, left, minimum);
  for (std::int64_t i = 0; i < inputs; ++i, weight += kStep) {
    const std::uint8_t* row = w.q + (group * kGroup + i) * w.stride + begin / 2;
    for (std::int64_t o = 0; o < kStep; ++o) {
      const int q = o < 32 ? row[o] & 15 : row[o - 32] >> 4;
      weight[o] = scale[o] * static_cast<float>(q) + minimum[o];
    }
  }
}
#undef SPIKEFORMERS_WHOLE_STEP
