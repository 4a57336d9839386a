// Products with spikes, for body.inl, which includes this once for each instruction set: rows of the
// inputs that fired; panels.inl has those of many tokens.

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

struct Group {
  const std::int8_t *row[kRows], *next[kRows];
  std::int16_t count[kRows];
};

// 64 weights of 4 bits lie in 32 bytes: the low halves are outputs 0 to 31, the high ones 32 to 63,
// each plus 8, so that halves are unsigned; 8 times the sum of counts is taken off in the end.
//
// maddubs multiplies unsigned by signed bytes and adds neighbours: counts by weights of 8 bits, at
// most 2 * 64 * 128, or weights of 4 bits by counts. Two rows are unpacked into neighbours, in lanes
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
SPIKEFORMERS_INLINE void add_group(const Group& group, std::int64_t o, std::int16_t* sum) {
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
SPIKEFORMERS_INLINE void add_group(const Group& group, std::int64_t o, std::int16_t* sum) {
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
#elif defined(SPIKEFORMERS_NEON)
// One instruction multiplies eight bytes by a signed count and adds them to 16-bit sums.
SPIKEFORMERS_INLINE void add_sixteen(int8x16_t weights, std::int16_t count, std::int16_t* sum) {
  const int8x16_t c = vdupq_n_s8(static_cast<std::int8_t>(count));
  vst1q_s16(sum, vmlal_s8(vld1q_s16(sum), vget_low_s8(weights), vget_low_s8(c)));
  vst1q_s16(sum + 8, vmlal_high_s8(vld1q_s16(sum + 8), weights, c));
}

template <int kBits>
SPIKEFORMERS_INLINE void add_group(const Group& group, std::int64_t o, std::int16_t* to) {
  std::int16_t sum[kBlock];  // in registers, as the compiler sees the bounds
  __builtin_memcpy(sum, to + o, sizeof sum);
  for (int k = 0; k < kRows; ++k)
    for (std::int64_t at = 0; at < (kBits == 8 ? kBlock : kBlock / 2); at += 16) {
      const std::int8_t* from = group.row[k] + (kBits == 8 ? o : o / 2) + at;
      if constexpr (kBits == 8) {
        add_sixteen(vld1q_s8(from), group.count[k], sum + at);
      } else {
        const uint8x16_t two = vreinterpretq_u8_s8(vld1q_s8(from));
        const uint8x16_t low = vandq_u8(two, vdupq_n_u8(15)), high = vshrq_n_u8(two, 4);
        add_sixteen(vreinterpretq_s8_u8(low), group.count[k], sum + at);
        add_sixteen(vreinterpretq_s8_u8(high), group.count[k], sum + kBlock / 2 + at);
      }
    }
  __builtin_memcpy(to + o, sum, sizeof sum);
}

SPIKEFORMERS_INLINE void in_order(std::int64_t, std::int16_t*) {}
#else
template <int kBits>
SPIKEFORMERS_INLINE void add_group(const Group& group, std::int64_t o, std::int16_t* sum) {
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

SPIKEFORMERS_INLINE void in_order(std::int64_t, std::int16_t*) {}
#endif

template <int kBits>
SPIKEFORMERS_INLINE void rows_whole(const std::int8_t* w, std::int64_t stride, Events events,
                                    const std::int8_t* count, std::int64_t begin, std::int64_t end,
                                    const Finish& finish, float* out) {
  alignas(64) std::int16_t sum[kWideTile];
  alignas(64) std::int32_t spilled[kWideTile];
  std::int32_t all = 0;
  std::int64_t below = 0;  // how many are below zero, of weights of 8 bits: counts have to be unsigned,
  for (std::int64_t e = 0; e < events.n; ++e) {  // so their sizes are added and the sums turned round
    below += kBits == 8 && count[e] < 0;
    all += count[e];
  }
  const std::int32_t offset = kBits == 4 ? 8 * all : 0;
  // Counts that a 16-bit sum holds at worst: 15 * 2184 is below 2^15; -128 * 256 is -2^15, which
  // cannot be turned round.
  const int most = kBits == 4 ? 2184 : below == 0 ? 256 : 255;
  for (std::int64_t tile = begin; tile < end; tile += kWideTile) {
    const std::int64_t n = end - tile < kWideTile ? end - tile : kWideTile;
    // Rows of 4 bits are filled up to whole blocks.
    const std::int64_t blocks = (kBits == 4 ? n + kBlock - 1 : n) / kBlock * kBlock;
    const std::int64_t sums = blocks > n ? blocks : n;
    const std::int64_t from = kBits == 4 ? tile / 2 : tile;
    for (std::int64_t o = 0; o < sums; ++o) sum[o] = 0;
    // Short rows are added sooner than the next eight arrive.
    const std::int64_t ahead = n <= 1024 ? kRows : 0;
    int held = 0;
    bool over = false;
    for (std::int64_t e = 0, part = 0; part < 2; ++part) {  // those below zero, then the others
      const std::int64_t stop = part == 0 ? below : events.n;
      while (e < stop) {
        Group group;
        int taken = 0, total = 0;
        for (; taken < kRows && e + taken < stop; ++taken) {
          const int c = count[e + taken];
          const int size = c < 0 ? -c : c;
          if (total + size > most) break;
          total += size;
          group.row[taken] = w + events.index[e + taken] * stride + from;
          group.count[taken] = static_cast<std::int16_t>(kBits == 8 ? size : c);
        }
        for (int k = taken; k < kRows; ++k) {
          group.row[k] = group.row[0];
          group.count[k] = 0;
        }
        e += taken;
        for (int k = 0; k < kRows; ++k)
          group.next[k] = w + events.index[e + k + ahead < events.n ? e + k + ahead : events.n - 1] * stride + from;
        if (held + total > most) {
          in_order(blocks, sum);
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
          add_group<kBits>(group, o, sum);
        }
        for (std::int64_t o = blocks; o < n; ++o) {
          int s = sum[o];
          for (int k = 0; k < kRows; ++k) s += group.row[k][o] * group.count[k];
          sum[o] = static_cast<std::int16_t>(s);
        }
      }
      if (part == 0 && below > 0) {
        for (std::int64_t o = 0; o < sums; ++o) sum[o] = static_cast<std::int16_t>(-sum[o]);
        for (std::int64_t o = 0; over && o < n; ++o) spilled[o] = -spilled[o];
      }
    }
    in_order(blocks, sum);
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
