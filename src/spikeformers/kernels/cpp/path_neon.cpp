// NEON is part of every aarch64 processor, so no target has to be switched.
#include "kernels.hpp"

#if defined(__aarch64__)
#include <arm_neon.h>

#define SPIKEFORMERS_VECTOR 16
#define SPIKEFORMERS_PATH "neon"
#define SPIKEFORMERS_NEON

namespace spikeformers {
namespace neon {
#include "body.inl"
}  // namespace neon

const Kernels* neon_kernels() { return &neon::table; }

}  // namespace spikeformers
#else
const spikeformers::Kernels* spikeformers::neon_kernels() { return nullptr; }
#endif
