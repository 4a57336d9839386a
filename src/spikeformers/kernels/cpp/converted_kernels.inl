// Included by converted_kernels.cpp once for each instruction set, as body.inl is by path_*.cpp; the same rules.

constexpr std::int64_t kFloats = SPIKEFORMERS_VECTOR / 4;
typedef float Floats __attribute__((vector_size(SPIKEFORMERS_VECTOR)));
typedef std::int32_t Ints __attribute__((vector_size(SPIKEFORMERS_VECTOR)));
typedef std::int16_t Shorts __attribute__((vector_size(SPIKEFORMERS_VECTOR / 2)));
typedef std::int8_t Bytes __attribute__((vector_size(SPIKEFORMERS_VECTOR / 4)));

#define SPIKEFORMERS_INLINE static inline __attribute__((always_inline))

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

SPIKEFORMERS_INLINE Floats floats(const float* from) { return load<Floats>(from); }
#if defined(SPIKEFORMERS_AVX512)
SPIKEFORMERS_INLINE Floats floats(const Half* from) {
  return reinterpret_cast<Floats>(_mm512_cvtph_ps(load<__m256i>(from)));
}
SPIKEFORMERS_INLINE Floats floats(const std::int16_t* from) {
  return reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(load<__m256i>(from))));
}
SPIKEFORMERS_INLINE Floats floats(const std::int8_t* from) {
  return reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from))));
}
#elif defined(SPIKEFORMERS_AVX2)
SPIKEFORMERS_INLINE Floats floats(const Half* from) {
  return reinterpret_cast<Floats>(_mm256_cvtph_ps(load<__m128i>(from)));
}
SPIKEFORMERS_INLINE Floats floats(const std::int16_t* from) {
  return reinterpret_cast<Floats>(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(load<__m128i>(from))));
}
SPIKEFORMERS_INLINE Floats floats(const std::int8_t* from) {
  return reinterpret_cast<Floats>(_mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))));
}
#else
// Exponents count from -15, not from -127; numbers below the smallest normal one come out right too.
SPIKEFORMERS_INLINE Floats floats(const Half* from) {
  const Ints bits = __builtin_convertvector(load<Shorts>(from), Ints);
  const Floats size = reinterpret_cast<Floats>((bits & 0x7fff) << 13) * 0x1p112f;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(size) | (bits & INT32_MIN));
}
// Twice as wide at a time: for more at once GCC has no instruction, and goes number by number.
SPIKEFORMERS_INLINE Floats floats(Shorts from) {
  return __builtin_convertvector(__builtin_convertvector(from, Ints), Floats);
}
SPIKEFORMERS_INLINE Floats floats(const std::int16_t* from) { return floats(load<Shorts>(from)); }
SPIKEFORMERS_INLINE Floats floats(const std::int8_t* from) {
  return floats(__builtin_convertvector(load<Bytes>(from), Shorts));
}
#endif

std::uint64_t edges(const float* current, float* carry, bool first, float decay, float threshold) {
  std::uint64_t fired = 0;
#if defined(SPIKEFORMERS_AVX512)
  const __m512 bar = _mm512_set1_ps(threshold), keep = _mm512_set1_ps(decay);
  for (int j = 0; j < kPage; j += 16) {
    __m512 u = _mm512_loadu_ps(current + j);
    if (!first) u = _mm512_add_ps(u, _mm512_loadu_ps(carry + j));
    const __mmask16 s = _mm512_cmp_ps_mask(u, bar, _CMP_GE_OQ);
    u = _mm512_mul_ps(keep, u);
    _mm512_storeu_ps(carry + j, _mm512_mask_sub_ps(u, s, u, bar));
    fired |= static_cast<std::uint64_t>(s) << j;
  }
#elif defined(SPIKEFORMERS_AVX2)
  const __m256 bar = _mm256_set1_ps(threshold), keep = _mm256_set1_ps(decay);
  for (int j = 0; j < kPage; j += 8) {
    __m256 u = _mm256_loadu_ps(current + j);
    if (!first) u = _mm256_add_ps(u, _mm256_loadu_ps(carry + j));
    const __m256 s = _mm256_cmp_ps(u, bar, _CMP_GE_OQ);
    _mm256_storeu_ps(carry + j, _mm256_sub_ps(_mm256_mul_ps(keep, u), _mm256_and_ps(s, bar)));
    fired |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_ps(s))) << j;
  }
#else
  for (int j = 0; j < kPage; ++j) {
    const float u = first ? current[j] : carry[j] + current[j];
    const bool s = u >= threshold;
    carry[j] = decay * u - (s ? threshold : 0.0f);
    fired |= static_cast<std::uint64_t>(s) << j;
  }
#endif
  return fired;
}

// ---- pairs of neurons, activations -------------------------------------------------------------

SPIKEFORMERS_INLINE float whole(float size, float most) {
  // floor(size + 1/2), and no further than it may go; beyond 2^23 there are no fractions.
  const float up = size + 0.5f;
  const float bounded = up < most + 0.5f ? up : most;
  return static_cast<float>(static_cast<std::int32_t>(bounded));
}

void pair(const float* x, const float* on, const float* off, std::int64_t n, float low, float high,
          bool counts, float* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = x[i] >= 0.0f ? on[i] : off[i];
    const float u = x[i] / value;
    const float count = u >= 0.0f ? whole(u, high) : -whole(-u, -low);
    out[i] = counts ? count : count * value;
  }
}

// Cephes' expf: within 2e-7 of the true value, relatively.
SPIKEFORMERS_INLINE Floats exp_of(Floats x) {
  const Floats least = Floats{} - 87.0f, most = Floats{} + 88.0f;
  x = x > least ? x : least;
  x = x < most ? x : most;
  const Floats big = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
  const Floats n = (x * 1.44269504088896341f + big) - big;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats y = p * r * r + r + 1.0f;
  return y * reinterpret_cast<Floats>((__builtin_convertvector(n, Ints) + 127) << 23);
}

SPIKEFORMERS_INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp_of(-x)); }

// 1 - erf(z) of z >= 0, within 2e-7: Abramowitz and Stegun, 7.1.26.
SPIKEFORMERS_INLINE Floats erfc_of(Floats z) {
  const Floats t = 1.0f / (z * 0.3275911f + 1.0f);
  Floats p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  return p * t * exp_of(-(z * z));
}

enum class Map { exp, soft_cap, relu, silu, quick_gelu, gelu_tanh, gelu_erf };

// No lambda: GCC would not compile one for the target of this file.
template <Map map>
SPIKEFORMERS_INLINE Floats mapped(Floats v, float most) {
  if constexpr (map == Map::exp) return exp_of(v - most);
  if constexpr (map == Map::soft_cap) return most * (2.0f * sigmoid(v * (2.0f / most)) - 1.0f);
  if constexpr (map == Map::relu) return v < Floats{} ? Floats{} : v;  // NaN stays
  if constexpr (map == Map::silu) return v * sigmoid(v);
  if constexpr (map == Map::gelu_erf) {
    const Floats size = v < Floats{} ? -v : v, rest = erfc_of(size * 0.70710678118654752f);
    return v * 0.5f * (v < Floats{} ? rest : 2.0f - rest);  // NaN stays
  }
  if constexpr (map == Map::quick_gelu) return v * sigmoid(v * 1.702f);
  // x / 2 * (1 + tanh(y)) is x * sigmoid(2 y)
  return v * sigmoid(1.5957691216057308f * (v + 0.044715f * (v * v * v)));
}

// In vectors; the last one is filled up with zeros.
template <Map map>
SPIKEFORMERS_INLINE void each(float* x, std::int64_t n, float most) {
  std::int64_t i = 0;
  for (; i + kFloats <= n; i += kFloats) store(x + i, mapped<map>(load<Floats>(x + i), most));
  if (i == n) return;
  float rest[kFloats] = {};
  for (std::int64_t k = i; k < n; ++k) rest[k - i] = x[k];
  store(rest, mapped<map>(load<Floats>(rest), most));
  for (std::int64_t k = i; k < n; ++k) x[k] = rest[k - i];
}

void activate(Activation kind, float* x, std::int64_t n) {
  if (kind == Activation::relu)
    each<Map::relu>(x, n, 0.0f);
  else if (kind == Activation::silu)
    each<Map::silu>(x, n, 0.0f);
  else if (kind == Activation::quick_gelu)
    each<Map::quick_gelu>(x, n, 0.0f);
  else if (kind == Activation::gelu_erf)
    each<Map::gelu_erf>(x, n, 0.0f);
  else
    each<Map::gelu_tanh>(x, n, 0.0f);
}

void soft_cap(float* x, std::int64_t n, float cap) { each<Map::soft_cap>(x, n, cap); }

void exps(float* x, std::int64_t n, float most) { each<Map::exp>(x, n, most); }

// ---- attention over rows -----------------------------------------------------------------------

template <class T>
SPIKEFORMERS_INLINE void scores_of(const T* keys, const std::int32_t* feature, const float* query,
                                   std::int64_t n, float* score) {
  Floats sum[kPage / kFloats] = {};
  for (std::int64_t e = 0; e < n; ++e) {
    const T* from = keys + feature[e] * kPage;
    for (std::int64_t k = 0; k < kPage / kFloats; ++k) sum[k] += floats(from + k * kFloats) * query[e];
  }
  for (std::int64_t k = 0; k < kPage / kFloats; ++k) store(score + k * kFloats, sum[k]);
}

void key_scores(Number type, const void* keys, const std::int32_t* feature, const float* query,
                std::int64_t n, float* score) {
  if (type == Number::i8)
    scores_of(static_cast<const std::int8_t*>(keys), feature, query, n, score);
  else if (type == Number::i16)
    scores_of(static_cast<const std::int16_t*>(keys), feature, query, n, score);
  else if (type == Number::f16)
    scores_of(static_cast<const Half*>(keys), feature, query, n, score);
  else
    scores_of(static_cast<const float*>(keys), feature, query, n, score);
}

template <class T, int kQueries>
SPIKEFORMERS_INLINE void scores_of_some(const T* keys, const float* query, std::int64_t features,
                                        float* score, std::int64_t stride) {
  for (std::int64_t t = 0; t < kPage; t += 4 * kFloats) {
    Floats sum[kQueries][4] = {};
    for (std::int64_t e = 0; e < features; ++e)
      for (int k = 0; k < 4; ++k) {
        const Floats key = floats(keys + e * kPage + t + k * kFloats);
        for (int q = 0; q < kQueries; ++q) sum[q][k] += key * query[q * features + e];
      }
    for (int q = 0; q < kQueries; ++q)
      for (int k = 0; k < 4; ++k) store(score + q * stride + t + k * kFloats, sum[q][k]);
  }
}

template <class T>
SPIKEFORMERS_INLINE void scores_of_all(const T* keys, const float* query, std::int64_t queries,
                                       std::int64_t features, float* score, std::int64_t stride) {
  std::int64_t q = 0;
  for (; q + 3 <= queries; q += 3) scores_of_some<T, 3>(keys, query + q * features, features, score + q * stride, stride);
  if (queries - q == 2) scores_of_some<T, 2>(keys, query + q * features, features, score + q * stride, stride);
  if (queries - q == 1) scores_of_some<T, 1>(keys, query + q * features, features, score + q * stride, stride);
}

void key_scores_of_all(Number type, const void* keys, const float* query, std::int64_t queries,
                       std::int64_t features, float* score, std::int64_t stride) {
  if (type == Number::i8)
    scores_of_all(static_cast<const std::int8_t*>(keys), query, queries, features, score, stride);
  else if (type == Number::i16)
    scores_of_all(static_cast<const std::int16_t*>(keys), query, queries, features, score, stride);
  else if (type == Number::f16)
    scores_of_all(static_cast<const Half*>(keys), query, queries, features, score, stride);
  else
    scores_of_all(static_cast<const float*>(keys), query, queries, features, score, stride);
}

template <class T>
SPIKEFORMERS_INLINE float one_float(const T* from) {
  return static_cast<float>(*from);
}

SPIKEFORMERS_INLINE float one_float(const Half* from) {
  const std::uint32_t rest = static_cast<std::uint32_t>(from->bits & 0x7fff) << 13;
  float size;
  __builtin_memcpy(&size, &rest, sizeof size);
  size *= 0x1p112f;
  return from->bits >> 15 ? -size : size;
}

template <class T, int kQueries>
SPIKEFORMERS_INLINE void add_rows_of_some(const T* rows, std::int64_t count, const float* weight,
                                          std::int64_t stride, std::int64_t n, float* out) {
  std::int64_t d = 0;
  for (; d + 4 * kFloats <= n; d += 4 * kFloats) {
    Floats sum[kQueries][4];
    for (int q = 0; q < kQueries; ++q)
      for (int k = 0; k < 4; ++k) sum[q][k] = load<Floats>(out + q * n + d + k * kFloats);
    for (std::int64_t j = 0; j < count; ++j)
      for (int k = 0; k < 4; ++k) {
        const Floats value = floats(rows + j * n + d + k * kFloats);
        for (int q = 0; q < kQueries; ++q) sum[q][k] += value * weight[q * stride + j];
      }
    for (int q = 0; q < kQueries; ++q)
      for (int k = 0; k < 4; ++k) store(out + q * n + d + k * kFloats, sum[q][k]);
  }
  for (int q = 0; q < kQueries; ++q)
    for (std::int64_t j = 0; j < count; ++j)
      for (std::int64_t i = d; i < n; ++i) out[q * n + i] += one_float(rows + j * n + i) * weight[q * stride + j];
}

template <class T>
SPIKEFORMERS_INLINE void add_rows_of_all(const T* rows, std::int64_t count, const float* weight,
                                         std::int64_t stride, std::int64_t queries, std::int64_t n, float* out) {
  std::int64_t q = 0;
  for (; q + 3 <= queries; q += 3) add_rows_of_some<T, 3>(rows, count, weight + q * stride, stride, n, out + q * n);
  if (queries - q == 2) add_rows_of_some<T, 2>(rows, count, weight + q * stride, stride, n, out + q * n);
  if (queries - q == 1) add_rows_of_some<T, 1>(rows, count, weight + q * stride, stride, n, out + q * n);
}

void add_rows(Number type, const void* rows, std::int64_t count, const float* weight, std::int64_t stride,
              std::int64_t queries, std::int64_t n, float* out) {
  if (type == Number::i8)
    add_rows_of_all(static_cast<const std::int8_t*>(rows), count, weight, stride, queries, n, out);
  else if (type == Number::i16)
    add_rows_of_all(static_cast<const std::int16_t*>(rows), count, weight, stride, queries, n, out);
  else if (type == Number::f16)
    add_rows_of_all(static_cast<const Half*>(rows), count, weight, stride, queries, n, out);
  else
    add_rows_of_all(static_cast<const float*>(rows), count, weight, stride, queries, n, out);
}

// ---- products ----------------------------------------------------------------------------------

void rows_i8_coef(const std::int8_t* w, std::int64_t stride, Events events, const float* coef,
                  std::int64_t begin, std::int64_t end, float* out) {
  constexpr std::int64_t kStrip = 8 * kFloats;  // its sums stay in registers
  constexpr std::int64_t kAhead = 16;           // rows whose strip is called for meanwhile
  constexpr std::int64_t kLine = 64;            // bytes that a processor fetches at once
  std::int64_t o = begin;
  for (; o + kStrip <= end; o += kStrip) {
    Floats sum[8] = {};
    for (std::int64_t e = 0; e < events.n; ++e) {
      const std::int8_t* row = w + events.index[e] * stride + o;
      const std::int8_t* next = w + events.index[e + kAhead < events.n ? e + kAhead : e] * stride + o;
      // A strip may begin within a line: the line of its last byte is another one then.
      for (std::int64_t at = 0; at < kStrip; at += kLine) __builtin_prefetch(next + at);
      __builtin_prefetch(next + kStrip - 1);
      for (int k = 0; k < 8; ++k) sum[k] += floats(row + k * kFloats) * coef[e];
    }
    for (int k = 0; k < 8; ++k) store(out + o + k * kFloats, sum[k]);
  }
  if (o == end) return;
  for (std::int64_t i = o; i < end; ++i) out[i] = 0.0f;
  for (std::int64_t e = 0; e < events.n; ++e) {
    const std::int8_t* row = w + events.index[e] * stride;
    for (std::int64_t i = o; i < end; ++i) out[i] += static_cast<float>(row[i]) * coef[e];
  }
}

template <class T>
SPIKEFORMERS_INLINE void block_of(const T* w, std::int64_t stride, std::int64_t inputs, const float* x,
                                  std::int64_t x_stride, std::int64_t begin, std::int64_t end,
                                  float* out, std::int64_t out_stride) {
  std::int64_t o = begin;
  for (; o + 2 * kFloats <= end; o += 2 * kFloats) {
    Floats sum[4][2] = {};
    for (std::int64_t i = 0; i < inputs; ++i) {
      const Floats one = floats(w + i * stride + o), other = floats(w + i * stride + o + kFloats);
      for (int r = 0; r < 4; ++r) {
        sum[r][0] += one * x[r * x_stride + i];
        sum[r][1] += other * x[r * x_stride + i];
      }
    }
    for (int r = 0; r < 4; ++r)
      for (int k = 0; k < 2; ++k) store(out + r * out_stride + o + k * kFloats, sum[r][k]);
  }
  for (; o < end; ++o)
    for (int r = 0; r < 4; ++r) {
      float sum = 0.0f;
      for (std::int64_t i = 0; i < inputs; ++i)
        sum += static_cast<float>(w[i * stride + o]) * x[r * x_stride + i];
      out[r * out_stride + o] = sum;
    }
}

void block(Number type, const void* w, std::int64_t stride, std::int64_t inputs, const float* x,
           std::int64_t x_stride, std::int64_t begin, std::int64_t end, float* out,
           std::int64_t out_stride) {
  if (type == Number::i8)
    block_of(static_cast<const std::int8_t*>(w), stride, inputs, x, x_stride, begin, end, out, out_stride);
  else
    block_of(static_cast<const float*>(w), stride, inputs, x, x_stride, begin, end, out, out_stride);
}

#undef SPIKEFORMERS_INLINE

const MoreKernels table = {edges,      pair,         activate, soft_cap, exps,
                           key_scores, key_scores_of_all, add_rows, rows_i8_coef, block};
