// What the compiler makes of plain loops for the oldest processor of this architecture: SSE2 on
// x86-64.
#include "kernels.hpp"

#define SPIKEFORMERS_VECTOR 16
#define SPIKEFORMERS_PATH "portable"

namespace spikeformers {
namespace portable {
#include "body.inl"
}  // namespace portable

const Kernels* portable_kernels() { return &portable::table; }

}  // namespace spikeformers
