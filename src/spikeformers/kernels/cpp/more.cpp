// The target is switched for the functions of more.inl alone: path_avx2.cpp says why.
#include "more.hpp"

#include <string>

#if defined(__x86_64__)
#include <immintrin.h>

namespace spikeformers {
namespace more_avx512 {
#define SPIKEFORMERS_AVX512
#define SPIKEFORMERS_VECTOR 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#include "more.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own headers: bug 105593
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")
#include "more.inl"
#pragma GCC pop_options
#endif
#undef SPIKEFORMERS_AVX512
#undef SPIKEFORMERS_VECTOR
}  // namespace more_avx512
namespace more_avx2 {
#define SPIKEFORMERS_AVX2
#define SPIKEFORMERS_VECTOR 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,f16c,lzcnt,popcnt"))), apply_to = function)
#include "more.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,f16c,lzcnt,popcnt")
#include "more.inl"
#pragma GCC pop_options
#endif
#undef SPIKEFORMERS_AVX2
#undef SPIKEFORMERS_VECTOR
}  // namespace more_avx2
}  // namespace spikeformers
#endif

namespace spikeformers {
#define SPIKEFORMERS_VECTOR 16
namespace more_portable {
#include "more.inl"
}  // namespace more_portable

const MoreKernels& more_kernels(const Kernels& chosen) {
#if defined(__x86_64__)
  if (std::string(chosen.name) == "avx512") return more_avx512::table;
  if (std::string(chosen.name) == "avx2") return more_avx2::table;
#endif
  return more_portable::table;
}

}  // namespace spikeformers
