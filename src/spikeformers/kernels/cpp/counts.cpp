// The target is switched for the functions of counts.inl alone: path_avx2.cpp says why.
#include "counts.hpp"

#include <string>

#if defined(__x86_64__)
#include <immintrin.h>

namespace spikeformers {
namespace counts_avx512 {
#define SPIKEFORMERS_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#include "counts.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own headers: bug 105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")
#include "counts.inl"
#pragma GCC pop_options
#endif
#undef SPIKEFORMERS_AVX512
}  // namespace counts_avx512
namespace counts_avx2 {
#define SPIKEFORMERS_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#include "counts.inl"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
#include "counts.inl"
#pragma GCC pop_options
#endif
#undef SPIKEFORMERS_AVX2
}  // namespace counts_avx2
}  // namespace spikeformers
#elif defined(__aarch64__)
#include <arm_neon.h>

namespace spikeformers {
namespace counts_neon {
#define SPIKEFORMERS_NEON
#include "counts.inl"
#undef SPIKEFORMERS_NEON
}  // namespace counts_neon
}  // namespace spikeformers
#endif

namespace spikeformers {
namespace counts_portable {
#include "counts.inl"
}  // namespace counts_portable

const CountKernels& count_kernels(const Kernels& chosen) {
  const std::string name = chosen.name;
#if defined(__x86_64__)
  if (name == "avx512") return counts_avx512::table;
  if (name == "avx2") return counts_avx2::table;
#elif defined(__aarch64__)
  if (name == "neon") return counts_neon::table;
#endif
  return counts_portable::table;
}

}  // namespace spikeformers
