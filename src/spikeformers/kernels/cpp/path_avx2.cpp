// The target is switched for the functions of body.inl alone, by attribute, not by a compiler flag
// for the file: a flag would reach inline functions of headers, which the linker shares with code
// that has to run on older processors.
#include "kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#define SPIKEFORMERS_VECTOR 32
#define SPIKEFORMERS_PATH "avx2"
#define SPIKEFORMERS_AVX2

namespace spikeformers {
namespace avx2 {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#include "body.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
#include "body.inl"
#pragma GCC pop_options
#endif
}  // namespace avx2

const Kernels* avx2_kernels() { return &avx2::table; }

}  // namespace spikeformers
#else
const spikeformers::Kernels* spikeformers::avx2_kernels() { return nullptr; }
#endif
