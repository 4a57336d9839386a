// Kernels that only some architectures take; as those of kernels.hpp, once for each instruction set
// and with the same bits on all of them.
#pragma once

#include "kernels.hpp"

namespace spikeformers {

struct MoreKernels {
  // One simulation step of 64 neurons, of edges between a query and the keys of a page:
  //   U = current + carry;  fires where U >= threshold;  carry = decay * U - threshold where it fired
  std::uint64_t (*edges)(const float* current, float* carry, bool first, float decay, float threshold);
};

// Those of the same path as `chosen`.
const MoreKernels& more_kernels(const Kernels& chosen);

}  // namespace spikeformers
