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

// ---- event-driven products ---------------------------------------------------------------------

// Rows are short and lie apart, so a processor that loads them one after the other waits for each:
// it has some twenty loads under way, and no more. Prefetches into the second cache (locality 2) do
// not count among those, and bring the next rows in while these are added.
#define SPIKEFORMERS_FETCH(address) __builtin_prefetch(address, 0, 2)

// Sums of a tile stay near while rows stream past it, several rows to a load and store of a sum.
constexpr std::int64_t kTile = 2048;

SPIKEFORMERS_INLINE void add_row_f32(const float* row, float c, std::int64_t n, float* sum) {
  std::int64_t o = 0;
  for (; o + kFloats <= n; o += kFloats)
    store(sum + o, load<Floats>(sum + o) + load<Floats>(row + o) * c);
  for (; o < n; ++o) sum[o] += row[o] * c;
}

void rows_f32(const float* w, std::int64_t stride, Events events, const float* coef,
              std::int64_t begin, std::int64_t end, float* out) {
  for (std::int64_t tile = begin; tile < end; tile += kTile) {
    const std::int64_t n = end - tile < kTile ? end - tile : kTile;
    float* sum = out + tile;
    for (std::int64_t o = 0; o < n; ++o) sum[o] = 0.0f;
    std::int64_t e = 0;
    for (; e + 4 <= events.n; e += 4) {
      const float *row[4], *next[4];
      for (int k = 0; k < 4; ++k) {
        row[k] = w + events.index[e + k] * stride + tile;
        next[k] = w + events.index[e + 4 + k < events.n ? e + 4 + k : e + k] * stride + tile;
      }
      const float c0 = coef[e], c1 = coef[e + 1], c2 = coef[e + 2], c3 = coef[e + 3];
      std::int64_t o = 0;
      for (; o + kFloats <= n; o += kFloats) {
        for (int k = 0; k < 4; ++k) SPIKEFORMERS_FETCH(next[k] + o);
        Floats s = load<Floats>(sum + o) + load<Floats>(row[0] + o) * c0;
        s = s + load<Floats>(row[1] + o) * c1;
        s = s + load<Floats>(row[2] + o) * c2;
        s = s + load<Floats>(row[3] + o) * c3;
        store(sum + o, s);
      }
      for (; o < n; ++o) {
        float s = sum[o] + row[0][o] * c0;
        s = s + row[1][o] * c1;
        s = s + row[2][o] * c2;
        sum[o] = s + row[3][o] * c3;
      }
    }
    for (; e < events.n; ++e) add_row_f32(w + events.index[e] * stride + tile, coef[e], n, sum);
  }
}

// Whole numbers, of 8 bits or of 4. Eight rows go past a tile of 16-bit sums at a time; where fewer
// are left, or eight could overflow, the others count 0.
constexpr std::int64_t kWideTile = 16384;
constexpr std::int64_t kBlock = 64;  // outputs: a cache line of a row of 8 bits, half a line of 4
constexpr int kRows = 8;

// Counts that a 16-bit sum holds at worst: 127 * 258 and 15 * 2184 are below 2^15.
template <int kBits>
constexpr int kMost = kBits == 8 ? 258 : 2184;

struct Group {
  const std::int8_t *row[kRows], *next[kRows];
  std::int16_t count[kRows];
};

// 64 weights of 4 bits lie in 32 bytes: the low halves are outputs 0 to 31, the high ones 32 to 63,
// each plus 8, so that halves are unsigned; 8 times the sum of counts is taken off in the end.
template <int kBits>
SPIKEFORMERS_INLINE void add_plain(const Group& group, std::int64_t o, std::int16_t* sum) {
  if constexpr (kBits == 8) {
    for (std::int64_t at = o; at < o + kBlock; at += kShorts) {
      Shorts s = load<Shorts>(sum + at);
      for (int k = 0; k < kRows; ++k)
        s += __builtin_convertvector(load<Bytes>(group.row[k] + at), Shorts) * group.count[k];
      store(sum + at, s);
    }
  } else {
    for (std::int64_t at = 0; at < kBlock / 2; at += kShorts) {
      Shorts low = load<Shorts>(sum + o + at), high = load<Shorts>(sum + o + at + kBlock / 2);
      for (int k = 0; k < kRows; ++k) {
        const Bytes two = load<Bytes>(group.row[k] + o / 2 + at);
        low += __builtin_convertvector(two & 15, Shorts) * group.count[k];
        high += __builtin_convertvector((two >> 4) & 15, Shorts) * group.count[k];
      }
      store(sum + o + at, low);
      store(sum + o + at + kBlock / 2, high);
    }
  }
}

// maddubs multiplies unsigned by signed bytes and adds neighbours: counts by weights of 8 bits, at
// most 2 * 64 * 127, or weights of 4 bits by counts. Two rows are unpacked into neighbours, in lanes
// of 128 bits, so a block of sums lies out of order until in_order() puts it right.
#if defined(SPIKEFORMERS_AVX512)
template <int kBits>
SPIKEFORMERS_INLINE __m512i block_of(const std::int8_t* row, std::int64_t o) {
  if constexpr (kBits == 8) return _mm512_loadu_si512(row + o);
  const __m256i two = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + o / 2));
  const __m512i shift = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
  return _mm512_and_si512(_mm512_srlv_epi16(_mm512_broadcast_i64x4(two), shift),
                          _mm512_set1_epi8(15));
}

template <int kBits>
SPIKEFORMERS_INLINE __m512i times(__m512i counts, __m512i weights) {
  return kBits == 8 ? _mm512_maddubs_epi16(counts, weights) : _mm512_maddubs_epi16(weights, counts);
}

template <int kBits>
SPIKEFORMERS_INLINE void add_pairs(const Group& group, std::int64_t o, std::int16_t* sum) {
  __m512i low = _mm512_load_si512(sum + o), high = _mm512_load_si512(sum + o + 32);
  for (int k = 0; k < kRows; k += 2) {
    const __m512i a = block_of<kBits>(group.row[k], o), b = block_of<kBits>(group.row[k + 1], o);
    const __m512i c = _mm512_set1_epi16(
        static_cast<std::int16_t>((group.count[k] & 255) | group.count[k + 1] * 256));
    low = _mm512_add_epi16(low, times<kBits>(c, _mm512_unpacklo_epi8(a, b)));
    high = _mm512_add_epi16(high, times<kBits>(c, _mm512_unpackhi_epi8(a, b)));
  }
  _mm512_store_si512(sum + o, low);
  _mm512_store_si512(sum + o + 32, high);
}

SPIKEFORMERS_INLINE void in_order(std::int64_t n, std::int16_t* sum) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (std::int64_t o = 0; o < n; o += kBlock) {
    const __m512i low = _mm512_load_si512(sum + o), high = _mm512_load_si512(sum + o + 32);
    _mm512_store_si512(sum + o, _mm512_permutex2var_epi64(low, first, high));
    _mm512_store_si512(sum + o + 32, _mm512_permutex2var_epi64(low, second, high));
  }
}
#elif defined(SPIKEFORMERS_AVX2)
SPIKEFORMERS_INLINE __m256i at256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

SPIKEFORMERS_INLINE void put256(void* to, __m256i v) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), v);
}

template <int kBits>
SPIKEFORMERS_INLINE __m256i half_of(const std::int8_t* row, std::int64_t o, bool second) {
  if constexpr (kBits == 8) return at256(row + o + (second ? 32 : 0));
  const __m256i two = at256(row + o / 2);
  return _mm256_and_si256(second ? _mm256_srli_epi16(two, 4) : two, _mm256_set1_epi8(15));
}

template <int kBits>
SPIKEFORMERS_INLINE __m256i times(__m256i counts, __m256i weights) {
  return kBits == 8 ? _mm256_maddubs_epi16(counts, weights) : _mm256_maddubs_epi16(weights, counts);
}

template <int kBits>
SPIKEFORMERS_INLINE void add_pairs(const Group& group, std::int64_t o, std::int16_t* sum) {
  for (int half = 0; half < 2; ++half) {
    std::int16_t* at = sum + o + 32 * half;
    __m256i low = at256(at), high = at256(at + 16);
    for (int k = 0; k < kRows; k += 2) {
      const __m256i a = half_of<kBits>(group.row[k], o, half != 0);
      const __m256i b = half_of<kBits>(group.row[k + 1], o, half != 0);
      const __m256i c = _mm256_set1_epi16(
          static_cast<std::int16_t>((group.count[k] & 255) | group.count[k + 1] * 256));
      low = _mm256_add_epi16(low, times<kBits>(c, _mm256_unpacklo_epi8(a, b)));
      high = _mm256_add_epi16(high, times<kBits>(c, _mm256_unpackhi_epi8(a, b)));
    }
    put256(at, low);
    put256(at + 16, high);
  }
}

SPIKEFORMERS_INLINE void in_order(std::int64_t n, std::int16_t* sum) {
  for (std::int64_t o = 0; o < n; o += 32) {
    const __m256i low = at256(sum + o), high = at256(sum + o + 16);
    put256(sum + o, _mm256_permute2x128_si256(low, high, 0x20));
    put256(sum + o + 16, _mm256_permute2x128_si256(low, high, 0x31));
  }
}
#else
template <int kBits>
SPIKEFORMERS_INLINE void add_pairs(const Group& group, std::int64_t o, std::int16_t* sum) {
  add_plain<kBits>(group, o, sum);
}

SPIKEFORMERS_INLINE void in_order(std::int64_t, std::int16_t*) {}
#endif

template <int kBits>
SPIKEFORMERS_INLINE void rows_whole(const std::int8_t* w, std::int64_t stride, Events events,
                                    const std::int8_t* count, std::int64_t begin, std::int64_t end,
                                    const Finish& finish, float* out) {
  alignas(64) std::int16_t sum[kWideTile];
  alignas(64) std::int32_t spilled[kWideTile];
  bool paired = true;  // counts of weights of 8 bits have to be unsigned for it
  std::int32_t all = 0;
  for (std::int64_t e = 0; e < events.n; ++e) {
    paired = paired && (kBits == 4 || count[e] >= 0);
    all += count[e];
  }
  const std::int32_t offset = kBits == 4 ? 8 * all : 0;
  for (std::int64_t tile = begin; tile < end; tile += kWideTile) {
    const std::int64_t n = end - tile < kWideTile ? end - tile : kWideTile;
    // Rows of 4 bits are filled up to whole blocks.
    const std::int64_t blocks = (kBits == 4 ? n + kBlock - 1 : n) / kBlock * kBlock;
    const std::int64_t sums = blocks > n ? blocks : n;
    const std::int64_t from = kBits == 4 ? tile / 2 : tile;
    for (std::int64_t o = 0; o < sums; ++o) sum[o] = 0;
    int held = 0;
    bool over = false;
    for (std::int64_t e = 0; e < events.n;) {
      Group group;
      int taken = 0, total = 0;
      for (; taken < kRows && e + taken < events.n; ++taken) {
        const int c = count[e + taken];
        const int size = c < 0 ? -c : c;
        if (total + size > kMost<kBits>) break;
        total += size;
        group.row[taken] = w + events.index[e + taken] * stride + from;
        group.count[taken] = static_cast<std::int16_t>(c);
      }
      for (int k = taken; k < kRows; ++k) {
        group.row[k] = group.row[0];
        group.count[k] = 0;
      }
      e += taken;
      for (int k = 0; k < kRows; ++k)
        group.next[k] = w + events.index[e + k < events.n ? e + k : events.n - 1] * stride + from;
      if (held + total > kMost<kBits>) {
        if (paired) in_order(blocks, sum);
        if (over)
          for (std::int64_t o = 0; o < n; ++o) spilled[o] += sum[o];
        else
          for (std::int64_t o = 0; o < n; ++o) spilled[o] = sum[o];
        for (std::int64_t o = 0; o < sums; ++o) sum[o] = 0;
        over = true;
        held = 0;
      }
      held += total;
      for (std::int64_t o = 0; o < blocks; o += kBlock) {
        for (int k = 0; k < kRows; ++k) SPIKEFORMERS_FETCH(group.next[k] + (kBits == 4 ? o / 2 : o));
        if (paired)
          add_pairs<kBits>(group, o, sum);
        else
          add_plain<kBits>(group, o, sum);
      }
      for (std::int64_t o = blocks; o < n; ++o) {
        int s = sum[o];
        for (int k = 0; k < kRows; ++k) s += group.row[k][o] * group.count[k];
        sum[o] = static_cast<std::int16_t>(s);
      }
    }
    if (paired) in_order(blocks, sum);
    const float* scale = finish.scale + tile;
    float* to = out + tile;
    if (over)
      for (std::int64_t o = 0; o < n; ++o)
        to[o] = static_cast<float>(spilled[o] + sum[o] - offset) * (scale[o] * finish.unit);
    else
      for (std::int64_t o = 0; o < n; ++o)
        to[o] = static_cast<float>(sum[o] - offset) * (scale[o] * finish.unit);
    if (finish.bias != nullptr)
      for (std::int64_t o = 0; o < n; ++o) to[o] += finish.bias[tile + o];
  }
}

void rows_i8(const std::int8_t* w, std::int64_t stride, Events events, const std::int8_t* count,
             std::int64_t begin, std::int64_t end, const Finish& finish, float* out) {
  rows_whole<8>(w, stride, events, count, begin, end, finish, out);
}

void rows_i4(const std::int8_t* w, std::int64_t stride, Events events, const std::int8_t* count,
             std::int64_t begin, std::int64_t end, const Finish& finish, float* out) {
  rows_whole<4>(w, stride, events, count, begin, end, finish, out);
}

void unpack_i4(const std::int8_t* from, std::int64_t blocks, std::int8_t* to) {
  for (std::int64_t b = 0; b < blocks; ++b, from += kBlock / 2, to += kBlock)
    for (std::int64_t j = 0; j < kBlock / 2; ++j) {
      to[j] = static_cast<std::int8_t>((from[j] & 15) - 8);
      to[j + kBlock / 2] = static_cast<std::int8_t>((from[j] >> 4 & 15) - 8);
    }
}

void rows_i8_real(const std::int8_t* w, std::int64_t stride, Events events, const float* coef,
                  std::int64_t begin, std::int64_t end, float* out) {
  for (std::int64_t tile = begin; tile < end; tile += kTile) {
    const std::int64_t n = end - tile < kTile ? end - tile : kTile;
    float* sum = out + tile;
    for (std::int64_t o = 0; o < n; ++o) sum[o] = 0.0f;
    for (std::int64_t e = 0; e < events.n; ++e) {
      const std::int8_t* row = w + events.index[e] * stride + tile;
      const float c = coef[e];
      for (std::int64_t o = 0; o < n; ++o) sum[o] += static_cast<float>(row[o]) * c;
    }
  }
}

void rows_i4_real(const std::int8_t* w, std::int64_t stride, Events events, const float* coef,
                  std::int64_t begin, std::int64_t end, float* out) {
  for (std::int64_t o = begin; o < end; ++o) out[o] = 0.0f;
  for (std::int64_t e = 0; e < events.n; ++e)
    for (std::int64_t block = begin; block < end; block += kBlock) {
      std::int8_t plain[kBlock];
      unpack_i4(w + events.index[e] * stride + block / 2, 1, plain);
      const std::int64_t n = end - block < kBlock ? end - block : kBlock;
      for (std::int64_t o = 0; o < n; ++o) out[block + o] += static_cast<float>(plain[o]) * coef[e];
    }
}

// ---- products of many tokens -------------------------------------------------------------------

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

// ---- norms and neurons -------------------------------------------------------------------------

void norm(NormKind kind, const float* x, std::int64_t n, const float* gain, const float* shift,
          float eps, float* out) {
  if (kind == NormKind::none) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = x[i];
    return;
  }
  // Eight sums in double: the same bits on every path, and closer than any order in float.
  double part[8] = {};
  double mean = 0.0;
  std::int64_t i = 0;
  if (kind == NormKind::layer) {
    for (; i + 8 <= n; i += 8)
      for (int k = 0; k < 8; ++k) part[k] += x[i + k];
    for (; i < n; ++i) part[0] += x[i];
    for (int k = 0; k < 8; ++k) mean += part[k];
    mean /= static_cast<double>(n);
  }
  for (int k = 0; k < 8; ++k) part[k] = 0.0;
  for (i = 0; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) part[k] += (x[i + k] - mean) * (x[i + k] - mean);
  for (; i < n; ++i) part[0] += (x[i] - mean) * (x[i] - mean);
  double variance = 0.0;
  for (int k = 0; k < 8; ++k) variance += part[k];
  variance /= static_cast<double>(n);
  const float centre = static_cast<float>(mean);
  const float factor = static_cast<float>(1.0 / __builtin_sqrt(variance + eps));
  if (kind == NormKind::layer)
    for (i = 0; i < n; ++i) out[i] = (x[i] - centre) * factor * gain[i] + shift[i];
  else
    for (i = 0; i < n; ++i) out[i] = x[i] * factor * gain[i];
}

// Nearest whole number, halves to even, of 0 <= u < 2^22.
SPIKEFORMERS_INLINE float nearest(float u) {
  constexpr float big = 12582912.0f;  // 1.5 * 2^23: its neighbours are whole numbers
  return (u + big) - big;
}

void fire(const Neuron& neuron, const float* current, float* carry, bool first, std::int64_t n,
          std::int8_t* count) {
  const float decay = neuron.decay;
  if (neuron.type == SpikeType::integer) {
    const float top = static_cast<float>(neuron.levels);
    if (carry == nullptr) {
      for (std::int64_t i = 0; i < n; ++i) {
        const float u = current[i] > 0.0f ? current[i] : 0.0f;
        count[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(nearest(u < top ? u : top)));
      }
      return;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const float u = first ? current[i] : carry[i] + current[i];
      const float up = u > 0.0f ? u : 0.0f;
      const float c = nearest(up < top ? up : top);
      count[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(c));
      carry[i] = decay * (u - c);
    }
    return;
  }
  if (neuron.type == SpikeType::binary) {
    for (std::int64_t i = 0; i < n; ++i) {
      const float u = first || carry == nullptr ? current[i] : carry[i] + current[i];
      const bool s = u - neuron.threshold >= 0.0f;
      count[i] = s;
      if (carry == nullptr) continue;
      if (neuron.reset == Reset::soft)
        carry[i] = decay * (u - neuron.threshold * static_cast<float>(s));
      else if (neuron.reset == Reset::hard)
        carry[i] = s ? 0.0f : decay * u;
      else
        carry[i] = decay * u - neuron.threshold * static_cast<float>(s);
    }
    return;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const float u = first || carry == nullptr ? current[i] : carry[i] + current[i];
    const float x = u / neuron.unit;
    const int s = x >= neuron.ratio && x > 0.0f ? 1 : -x >= neuron.ratio && x < 0.0f ? -1 : 0;
    count[i] = static_cast<std::int8_t>(s);
    if (carry == nullptr) continue;
    if (neuron.reset == Reset::hard)
      carry[i] = s != 0 ? 0.0f : decay * u;
    else
      carry[i] = decay * (u - neuron.unit * static_cast<float>(s));
  }
}

// ---- attention ---------------------------------------------------------------------------------

// A query reads the words of its own active features only, and adds its count where a bit is set.
// One body for a page: its sums, which of them reach a bar, and, if any does, the sums written out.
// `next` is the page after it, whose words are called for meanwhile.

#if defined(SPIKEFORMERS_AVX512)
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
#elif defined(SPIKEFORMERS_AVX2)
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

void page_scores(const std::uint64_t* keys, const Query& query, std::int32_t* score) {
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

#undef SPIKEFORMERS_INLINE

const Kernels table = {SPIKEFORMERS_PATH, rows_f32, rows_i8, rows_i4, rows_i8_real, rows_i4_real,
                       unpack_i4, panel_pack, panel_add, norm, fire, page_scores, page_scan, page_values};
