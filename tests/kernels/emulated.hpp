// The vector instructions of counts.inl that this processor may lack, one number at a time, as
// Intel's and Arm's manuals define them: AVX-512 with VNNI, and NEON with or without its dot product.
#pragma once

#include <cstdint>
#include <cstring>

namespace emulated {

template <class T, int kN>
struct Vector {
  T at[kN];
};

template <class To, class From>
To cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class V>
V loaded(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
V each(decltype(V{}.at[0] + 0) value) {
  V v;
  for (auto& one : v.at) one = static_cast<std::remove_reference_t<decltype(one)>>(value);
  return v;
}

// Sum of four products of unsigned by signed bytes, or of signed ones, in each 32 bits.
template <class First, int kN>
Vector<std::int32_t, kN> dot(Vector<std::int32_t, kN> sum, const Vector<First, 4 * kN>& a, const Vector<std::int8_t, 4 * kN>& b) {
  for (int i = 0; i < kN; ++i)
    for (int k = 0; k < 4; ++k) sum.at[i] += a.at[4 * i + k] * b.at[4 * i + k];
  return sum;
}

#if defined(EMULATE_AVX512)
using V512 = Vector<std::int32_t, 16>;

template <class T>
V512 unpack(const V512& a, const V512& b, bool high) {  // in lanes of 128 bits
  constexpr int kLane = 16 / sizeof(T);
  const auto x = cast<Vector<T, 4 * kLane>>(a), y = cast<Vector<T, 4 * kLane>>(b);
  Vector<T, 4 * kLane> to;
  for (int lane = 0; lane < 4; ++lane)
    for (int i = 0; i < kLane / 2; ++i) {
      const int from = lane * kLane + (high ? kLane / 2 : 0) + i;
      to.at[lane * kLane + 2 * i] = x.at[from];
      to.at[lane * kLane + 2 * i + 1] = y.at[from];
    }
  return cast<V512>(to);
}

inline V512 shuffle_lanes(const V512& a, const V512& b, int control) {
  V512 to;
  for (int lane = 0; lane < 4; ++lane)
    std::memcpy(to.at + 4 * lane, (lane < 2 ? a : b).at + 4 * (control >> 2 * lane & 3), 16);
  return to;
}

inline V512 minus(V512 a, const V512& b) {
  for (int i = 0; i < 16; ++i) a.at[i] -= b.at[i];
  return a;
}

inline V512 plus(V512 a, const V512& b) {
  for (int i = 0; i < 16; ++i) a.at[i] += b.at[i];
  return a;
}

inline V512 either(V512 a, const V512& b) {
  for (int i = 0; i < 16; ++i) a.at[i] ^= b.at[i];
  return a;
}

inline V512 dot_of(const V512& sum, const V512& a, const V512& b) {
  return dot<std::uint8_t, 16>(sum, cast<Vector<std::uint8_t, 64>>(a), cast<Vector<std::int8_t, 64>>(b));
}

#define __m512i emulated::V512
#define _mm512_loadu_si512(from) emulated::loaded<emulated::V512>(from)
#define _mm512_storeu_si512(to, v) emulated::put(to, v)
#define _mm512_set1_epi32(x) emulated::each<emulated::V512>(x)
#define _mm512_set1_epi8(x) emulated::cast<emulated::V512>(emulated::each<emulated::Vector<std::int8_t, 64>>(x))
#define _mm512_xor_si512(a, b) emulated::either(a, b)
#define _mm512_sub_epi32(a, b) emulated::minus(a, b)
#define _mm512_add_epi32(a, b) emulated::plus(a, b)
#define _mm512_unpacklo_epi8(a, b) emulated::unpack<std::int8_t>(a, b, false)
#define _mm512_unpackhi_epi8(a, b) emulated::unpack<std::int8_t>(a, b, true)
#define _mm512_unpacklo_epi16(a, b) emulated::unpack<std::int16_t>(a, b, false)
#define _mm512_unpackhi_epi16(a, b) emulated::unpack<std::int16_t>(a, b, true)
#define _mm512_dpbusd_epi32(sum, a, b) emulated::dot_of(sum, a, b)
#define _mm512_shuffle_i32x4(a, b, control) emulated::shuffle_lanes(a, b, control)
#elif defined(EMULATE_NEON)
template <class V>
V zip(const V& a, const V& b, bool second) {
  constexpr int kN = sizeof(V::at) / sizeof(V::at[0]);
  V to;
  for (int i = 0; i < kN / 2; ++i) {
    to.at[2 * i] = a.at[(second ? kN / 2 : 0) + i];
    to.at[2 * i + 1] = b.at[(second ? kN / 2 : 0) + i];
  }
  return to;
}

template <class T, int kN>
Vector<T, kN / 2> half(const Vector<T, kN>& from, bool high) {
  return loaded<Vector<T, kN / 2>>(from.at + (high ? kN / 2 : 0));
}

inline Vector<std::int16_t, 8> plus_products(Vector<std::int16_t, 8> sum, const Vector<std::int8_t, 8>& a, const Vector<std::int8_t, 8>& b) {
  for (int i = 0; i < 8; ++i) sum.at[i] = static_cast<std::int16_t>(sum.at[i] + a.at[i] * b.at[i]);
  return sum;
}

inline Vector<std::int32_t, 4> plus_wide(Vector<std::int32_t, 4> sum, const Vector<std::int16_t, 4>& a) {
  for (int i = 0; i < 4; ++i) sum.at[i] += a.at[i];
  return sum;
}

template <class Map>
Vector<std::uint8_t, 16> mapped(Vector<std::uint8_t, 16> v, Map map) {
  for (auto& one : v.at) one = static_cast<std::uint8_t>(map(one));
  return v;
}

#define int8x8_t emulated::Vector<std::int8_t, 8>
#define int8x16_t emulated::Vector<std::int8_t, 16>
#define uint8x16_t emulated::Vector<std::uint8_t, 16>
#define int16x8_t emulated::Vector<std::int16_t, 8>
#define int32x4_t emulated::Vector<std::int32_t, 4>
#define vld1_s8(from) (emulated::loaded<int8x8_t>(from))
#define vld1q_s8(from) (emulated::loaded<int8x16_t>(from))
#define vld1q_u8(from) (emulated::loaded<uint8x16_t>(from))
#define vld1q_s32(from) (emulated::loaded<int32x4_t>(from))
#define vst1q_s32(to, v) emulated::put(to, v)
#define vdup_n_s8(x) (emulated::each<int8x8_t>(x))
#define vdupq_n_u8(x) (emulated::each<uint8x16_t>(x))
#define vdupq_n_s16(x) (emulated::each<int16x8_t>(x))
#define vdupq_n_s32(x) (emulated::each<int32x4_t>(x))
#define vreinterpretq_s8_s32(v) (emulated::cast<int8x16_t>(v))
#define vreinterpretq_s8_u8(v) (emulated::cast<int8x16_t>(v))
#define vreinterpretq_s8_s16(v) (emulated::cast<int8x16_t>(v))
#define vreinterpretq_s16_s8(v) (emulated::cast<int16x8_t>(v))
#define vzip1q_s8(a, b) emulated::zip(a, b, false)
#define vzip2q_s8(a, b) emulated::zip(a, b, true)
#define vzip1q_s16(a, b) emulated::zip(a, b, false)
#define vzip2q_s16(a, b) emulated::zip(a, b, true)
#define vdotq_s32(sum, a, b) emulated::dot(sum, a, b)
#define vmull_s8(a, b) emulated::plus_products({}, a, b)
#define vmlal_s8(sum, a, b) emulated::plus_products(sum, a, b)
#define vaddw_s16(sum, a) emulated::plus_wide(sum, a)
#define vget_low_s16(v) emulated::half(v, false)
#define vget_high_s16(v) emulated::half(v, true)
#define vget_low_s8(v) emulated::half(v, false)
#define vget_high_s8(v) emulated::half(v, true)
#define vandq_u8(a, b) emulated::mapped(a, [by = (b).at[0]](int x) { return x & by; })
#define vshrq_n_u8(a, n) emulated::mapped(a, [](int x) { return x >> (n); })
#endif

template <class V>
void put(void* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}

}  // namespace emulated
