// The target is switched for the functions of body.inl alone, by attribute, not by a compiler flag
// for the file: a flag would reach inline functions of headers, which the linker shares with code
// that has to run on older processors.
#include "kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#define SPIKEFORMERS_VECTOR 64
#define SPIKEFORMERS_PATH "avx512"
#define SPIKEFORMERS_AVX512

namespace spikeformers {
namespace avx512 {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#include "body.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own headers: bug 105593
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")
#include "body.inl"
#pragma GCC pop_options
#endif
}  // namespace avx512

const Kernels* avx512_kernels() { return &avx512::table; }

}  // namespace spikeformers
#else
const spikeformers::Kernels* spikeformers::avx512_kernels() { return nullptr; }
#endif
