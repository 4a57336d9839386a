// A token's product by a sweep (CountKernels::sweep), for the files of products.
#pragma once

#include "counts.hpp"
#include "steps.hpp"

namespace spikeformers {

// finish(begin, end, sums) for each 64 outputs of the product of a token's `count`, of whole fours, and
// a packed matrix.
template <class Finish>
void sweep_token(Pool& pool, const CountKernels& kernels, const Weights& w, const std::int8_t* packed,
                 const std::vector<std::int8_t>& count, const Finish& finish) {
  const auto fours = static_cast<std::int64_t>(count.size() / 4);
  const std::int64_t columns = columns_of_a_piece(w.outputs, pool.threads());
  pool.run(pieces_of(w.outputs, columns), [&](std::int64_t piece) {
    const std::int64_t stop = std::min(w.outputs, (piece + 1) * columns);
    for (std::int64_t begin = piece * columns; begin < stop; begin += kSweepColumns) {
      alignas(64) std::int32_t sum[kSweepColumns];
      kernels.sweep(packed + begin * fours * 4, fours, count.data(), sum);
      finish(begin, std::min(stop, begin + kSweepColumns), sum);
    }
  });
}

}  // namespace spikeformers
