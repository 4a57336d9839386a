// The kernels in vectors of SPIKEFORMERS_VECTOR bytes. Included by path_*.cpp, once for each
// instruction set, inside a namespace of its own and with the compiler's target switched there:
// nothing in this file may call a function of another header, which could be shared between paths.

constexpr std::int64_t kFloats = SPIKEFORMERS_VECTOR / 4;
constexpr std::int64_t kShorts = SPIKEFORMERS_VECTOR / 2;

typedef float Floats __attribute__((vector_size(SPIKEFORMERS_VECTOR)));
typedef std::int16_t Shorts __attribute__((vector_size(SPIKEFORMERS_VECTOR)));
typedef std::int8_t Bytes __attribute__((vector_size(SPIKEFORMERS_VECTOR / 2)));
typedef std::int32_t Ints __attribute__((vector_size(SPIKEFORMERS_VECTOR)));

#define SPIKEFORMERS_INLINE static inline __attribute__((always_inline))
#define SPIKEFORMERS_MEMBER inline __attribute__((always_inline))

template <class V>
SPIKEFORMERS_INLINE V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
SPIKEFORMERS_INLINE void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

#include "products.inl"
#include "panels.inl"
#include "lists.inl"
#include "neurons.inl"

// ---- attention ---------------------------------------------------------------------------------

// A query reads the words of its own active features only, and adds its count where a bit is set.
// One body for a page: its sums, which of them reach a bar, and, if any does, the sums written out.
// `next` is the page after it, whose words are called for meanwhile.

// Which of a page's sums reach a bar, and, if any does, the sums written out.
#if defined(SPIKEFORMERS_AVX512)
SPIKEFORMERS_INLINE std::uint64_t reached_of(__m512i low, __m512i high, std::int16_t bar, std::int32_t* score) {
  const __m512i floor = _mm512_set1_epi16(bar);
  const std::uint64_t reached =
      static_cast<std::uint64_t>(_mm512_cmpge_epi16_mask(low, floor)) |
      static_cast<std::uint64_t>(_mm512_cmpge_epi16_mask(high, floor)) << 32;
  if (reached == 0) return 0;
  const __m256i quarter[4] = {_mm512_castsi512_si256(low), _mm512_extracti64x4_epi64(low, 1),
                              _mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1)};
  for (int k = 0; k < 4; ++k)
    _mm512_storeu_si512(score + 16 * k, _mm512_cvtepi16_epi32(quarter[k]));
  return reached;
}

SPIKEFORMERS_INLINE std::uint64_t narrow_page(const std::uint64_t* keys, const std::uint64_t* next,
                                              const Query& query, std::int16_t bar,
                                              std::int32_t* score) {
  __m512i low = _mm512_setzero_si512(), high = low;
  for (std::int64_t i = 0; i < query.n; ++i) {
    const std::uint64_t bits = keys[query.word[i]];
    __builtin_prefetch(next + query.word[i]);
    const __m512i worth = _mm512_set1_epi16(query.worth[i]);
    low = _mm512_mask_add_epi16(low, static_cast<__mmask32>(bits), low, worth);
    high = _mm512_mask_add_epi16(high, static_cast<__mmask32>(bits >> 32), high, worth);
  }
  return reached_of(low, high, bar, score);
}

SPIKEFORMERS_INLINE std::uint64_t narrow_byte_page(const std::int8_t* keys, const Query& query, std::int16_t bar,
                                                   std::int32_t* score) {
  __m512i low = _mm512_setzero_si512(), high = low;
  for (std::int64_t i = 0; i < query.n; ++i) {
    const __m512i row = _mm512_loadu_si512(keys + query.word[i] * kPage), worth = _mm512_set1_epi16(query.worth[i]);
    const __m512i first = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(row));
    const __m512i second = _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(row, 1));
    low = _mm512_add_epi16(low, _mm512_mullo_epi16(first, worth));
    high = _mm512_add_epi16(high, _mm512_mullo_epi16(second, worth));
  }
  return reached_of(low, high, bar, score);
}
#elif defined(SPIKEFORMERS_AVX2)
SPIKEFORMERS_INLINE std::uint64_t reached_of(const __m256i (&sum)[4], std::int16_t bar, std::int32_t* score) {
  const __m256i floor = _mm256_set1_epi16(bar);
  __m256i below[4];
  for (int k = 0; k < 4; ++k) below[k] = _mm256_cmpgt_epi16(floor, sum[k]);
  // packs keeps 128-bit lanes apart; the permutation puts tokens back in order.
  const __m256i first = _mm256_permute4x64_epi64(_mm256_packs_epi16(below[0], below[1]), 0xd8);
  const __m256i second = _mm256_permute4x64_epi64(_mm256_packs_epi16(below[2], below[3]), 0xd8);
  const std::uint64_t reached =
      ~(static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(first))) |
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(second))) << 32);
  if (reached == 0) return 0;
  for (int k = 0; k < 4; ++k) {
    auto* to = reinterpret_cast<__m256i*>(score + 16 * k);
    _mm256_storeu_si256(to, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum[k])));
    _mm256_storeu_si256(to + 1, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum[k], 1)));
  }
  return reached;
}

SPIKEFORMERS_INLINE std::uint64_t narrow_page(const std::uint64_t* keys, const std::uint64_t* next,
                                              const Query& query, std::int16_t bar,
                                              std::int32_t* score) {
  const __m256i select = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                           8192, 16384, static_cast<short>(-32768));
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
  for (std::int64_t i = 0; i < query.n; ++i) {
    const std::uint64_t bits = keys[query.word[i]];
    __builtin_prefetch(next + query.word[i]);
    const __m256i worth = _mm256_set1_epi16(query.worth[i]);
    for (int k = 0; k < 4; ++k) {
      const __m256i spread = _mm256_set1_epi16(static_cast<std::int16_t>(bits >> (16 * k)));
      const __m256i set = _mm256_cmpeq_epi16(_mm256_and_si256(spread, select), select);
      sum[k] = _mm256_add_epi16(sum[k], _mm256_and_si256(set, worth));
    }
  }
  return reached_of(sum, bar, score);
}

SPIKEFORMERS_INLINE std::uint64_t narrow_byte_page(const std::int8_t* keys, const Query& query, std::int16_t bar,
                                                   std::int32_t* score) {
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
  for (std::int64_t i = 0; i < query.n; ++i) {
    const std::int8_t* row = keys + query.word[i] * kPage;
    const __m256i worth = _mm256_set1_epi16(query.worth[i]);
    for (int k = 0; k < 4; ++k) {
      const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 16 * k));
      sum[k] = _mm256_add_epi16(sum[k], _mm256_mullo_epi16(_mm256_cvtepi8_epi16(sixteen), worth));
    }
  }
  return reached_of(sum, bar, score);
}
#endif

// Event against event: only where query and key both fired is there anything to add.
SPIKEFORMERS_INLINE std::uint64_t any_page(const std::uint64_t* keys, const Query& query,
                                           std::int32_t least, std::int32_t* score) {
  for (int j = 0; j < kPage; ++j) score[j] = 0;
  for (std::int64_t i = 0; i < query.n; ++i)
    for (std::uint64_t bits = keys[query.word[i]]; bits != 0; bits &= bits - 1)
      score[__builtin_ctzll(bits)] += query.worth[i];
  std::uint64_t reached = 0;
  for (int j = 0; j < kPage; ++j)
    reached |= static_cast<std::uint64_t>(score[j] >= least) << j;
  return reached;
}

// Keys in bytes, 64 of a feature after each other: whole rows are added, as in products.
SPIKEFORMERS_INLINE void byte_scores(const std::uint64_t* page, const Query& query,
                                     std::int32_t* score) {
  const auto* keys = reinterpret_cast<const std::int8_t*>(page);
  if (query.narrow) {
    Shorts sum[kPage / kShorts] = {};
    for (std::int64_t i = 0; i < query.n; ++i) {
      const std::int8_t* row = keys + query.word[i] * kPage;
      for (std::int64_t k = 0; k < kPage / kShorts; ++k)
        sum[k] += __builtin_convertvector(load<Bytes>(row + k * kShorts), Shorts) * query.worth[i];
    }
    alignas(64) std::int16_t narrow[kPage];
    for (std::int64_t k = 0; k < kPage / kShorts; ++k) store(narrow + k * kShorts, sum[k]);
    for (int j = 0; j < kPage; ++j) score[j] = narrow[j];
    return;
  }
  for (int j = 0; j < kPage; ++j) score[j] = 0;
  for (std::int64_t i = 0; i < query.n; ++i) {
    const std::int8_t* row = keys + query.word[i] * kPage;
    for (int j = 0; j < kPage; ++j) score[j] += row[j] * query.worth[i];
  }
}

SPIKEFORMERS_INLINE std::uint64_t byte_page(const std::uint64_t* keys, const Query& query,
                                            std::int32_t least, std::int32_t* score) {
#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
  if (query.narrow) {  // no score is as large as the bounds of 16 bits
    const auto bar = static_cast<std::int16_t>(least < -32768 ? -32768 : least > 32767 ? 32767 : least);
    return narrow_byte_page(reinterpret_cast<const std::int8_t*>(keys), query, bar, score);
  }
#endif
  byte_scores(keys, query, score);
  std::uint64_t reached = 0;
  for (int j = 0; j < kPage; ++j) reached |= static_cast<std::uint64_t>(score[j] >= least) << j;
  return reached;
}

void page_scores(const std::uint64_t* keys, const Query& query, std::int32_t* score) {
  if (query.bytes) {
    byte_page(keys, query, -32768, score);  // no narrow score is below the bar, so all are written
    return;
  }
#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
  if (query.narrow) {
    narrow_page(keys, keys, query, -32768, score);
    return;
  }
#endif
  any_page(keys, query, -2147483647, score);
}

Found page_scan(const Pages& pages, const Query& query, std::int32_t least, std::int32_t* score) {
  Found found{0, 0, 0};
#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
  const bool narrow = query.narrow && least <= 32767;
  const auto bar = static_cast<std::int16_t>(least < -32768 ? -32768 : least);
#endif
  for (std::int64_t at = pages.first; found.looked < pages.count; at += pages.step) {
    ++found.looked;
    const Most& most = pages.most[at * pages.heads];
    if (query.spikes * most.count < least || query.top * most.sum < least) continue;
    ++found.read;
    const std::uint64_t* keys = pages.page[at] + pages.offset;
    if (query.bytes) {
      found.reached = byte_page(keys, query, least, score);
      if (found.reached != 0) break;
      continue;
    }
#if defined(SPIKEFORMERS_AVX512) || defined(SPIKEFORMERS_AVX2)
    const std::uint64_t* next =
        found.looked < pages.count ? pages.page[at + pages.step] + pages.offset : keys;
    found.reached = narrow ? narrow_page(keys, next, query, bar, score)
                           : any_page(keys, query, least, score);
#else
    found.reached = any_page(keys, query, least, score);
#endif
    if (found.reached != 0) break;
  }
  return found;
}

// The order of PyTorch's operations, each rounded to float: winners are the same, ties included.
float page_values(const std::int32_t* score, float unit, float scale, const float* bias,
                  float* value) {
  Floats best = Floats{} - __builtin_inff();
  for (int j = 0; j < kPage; j += kFloats) {
    const Floats v = __builtin_convertvector(load<Ints>(score + j), Floats) * unit * scale +
                     load<Floats>(bias + j);
    store(value + j, v);
    best = v > best ? v : best;
  }
  float top = best[0];
  for (int k = 1; k < kFloats; ++k) top = best[k] > top ? best[k] : top;
  return top;
}

// 2^-octaves, of 0 to 2^7, to so many binary digits: octaves' fraction becomes a float's own.
SPIKEFORMERS_INLINE Floats half_to(Floats octaves, int digits) {
  const Floats whole = Floats{} + 12582912.0f;  // beyond it a float has no digit after the point
  const Floats rounded = (octaves * static_cast<float>(1 << (digits - 1)) + whole) - whole;
  const Ints bits = (127 << 23) - (__builtin_convertvector(rounded, Ints) << (24 - digits));
  return load<Floats>(&bits);
}

std::int64_t octaves(float* value, std::int64_t n, float top, int digits) {
  const auto units = static_cast<float>(1 << (kFurthest + digits - 1));
  std::int64_t total = 0;
  for (std::int64_t first = 0; first < n; first += kPage) {
    Ints sum = {};
    for (std::int64_t j = first; j < first + kPage; j += kFloats) {
      Floats below = (top - load<Floats>(value + j)) * kOctaves;
      below = below <= static_cast<float>(kFurthest) ? below : Floats{} + kUnheard;
      store(value + j, below);
      sum += __builtin_convertvector(half_to(below, digits) * units, Ints);
    }
    for (int k = 0; k < kFloats; ++k) total += sum[k];
  }
  return total;
}

void powers(float* value, std::int64_t n, float place, float unit, int digits) {
  for (std::int64_t j = 0; j < n; j += kFloats) {
    const Floats below = load<Floats>(value + j);
    const Ints heard = below <= static_cast<float>(kFurthest);
    const Floats weight = half_to(below + place, digits) * unit;
    store(value + j, heard & load<Ints>(&weight));
  }
}

// kFloats counts. (By itself GCC would convert the lanes one by one.)
SPIKEFORMERS_INLINE Floats as_floats(const std::int8_t* count) {
#if defined(SPIKEFORMERS_AVX512)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(count))));
#elif defined(SPIKEFORMERS_AVX2)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(count))));
#else
  Floats v;
  for (int k = 0; k < kFloats; ++k) v[k] = static_cast<float>(count[k]);
  return v;
#endif
}

// Some outputs, which stay in registers over the rows.
template <int kVectors>
SPIKEFORMERS_INLINE void add_block(const std::int8_t* rows, std::int64_t stride, const float* weight,
                                   std::int64_t n, float* out) {
  Floats sum[kVectors];
  for (int k = 0; k < kVectors; ++k) sum[k] = load<Floats>(out + k * kFloats);
  for (std::int64_t j = 0; j < n; ++j)
    for (int k = 0; k < kVectors; ++k) sum[k] += weight[j] * as_floats(rows + j * stride + k * kFloats);
  for (int k = 0; k < kVectors; ++k) store(out + k * kFloats, sum[k]);
}

void add_counts(const std::int8_t* rows, std::int64_t stride, const float* weight, std::int64_t n,
                std::int64_t width, float* out) {
  std::int64_t d = 0;
  for (; d + 4 * kFloats <= width; d += 4 * kFloats) add_block<4>(rows + d, stride, weight, n, out + d);
  for (; d + 2 * kFloats <= width; d += 2 * kFloats) add_block<2>(rows + d, stride, weight, n, out + d);
  for (; d + kFloats <= width; d += kFloats) add_block<1>(rows + d, stride, weight, n, out + d);
  for (std::int64_t j = 0; j < n && d < width; ++j)
    for (std::int64_t k = d; k < width; ++k) out[k] += weight[j] * static_cast<float>(rows[j * stride + k]);
}

#undef SPIKEFORMERS_INLINE
#undef SPIKEFORMERS_MEMBER

const Kernels table = {SPIKEFORMERS_PATH, rows_f32,  rows_i8, rows_i4, rows_i4_real, unpack_i4,
                       panel_pack,        panel_add, norm,    fire,    list,         fire_row,
                       page_scores,       page_scan, page_values,  octaves, powers,       add_counts};
