// When a token's product reads its matrix from end to end instead of the rows that fired.
#include <algorithm>

#include "sweep.hpp"

namespace spikeformers {
namespace {

constexpr std::int64_t kTokensBefore = 8;  // that are counted before a matrix is packed
// Bytes of a program that are packed. More than a cache holds comes at the speed of memory in either
// order.
constexpr std::int64_t kMostPacked = 32 << 20;

bool has_least(const Weights& w) {
  return std::find(w.i8, w.i8 + w.inputs * w.outputs, INT8_MIN) != w.i8 + w.inputs * w.outputs;
}

}  // namespace

const std::int8_t* Program::swept(const Linear& step, std::int64_t fired, float from) {
  const Weights& w = step.weights;
  Sweep& sweep = sweeps_[step.sweep];
  const float bar = from * static_cast<float>(w.inputs);
  if (w.i8 == nullptr || bar > static_cast<float>(w.inputs)) return nullptr;
  if (sweep.packed.empty() && !sweep.refused) {
    ++sweep.rows;
    sweep.fired += fired;
    if (sweep.rows >= kTokensBefore &&
        static_cast<float>(sweep.fired) >= bar * static_cast<float>(sweep.rows))
      pack_sweep(sweep, w);
  }
  return !sweep.packed.empty() && static_cast<float>(fired) >= bar ? sweep.packed.data() : nullptr;
}

void Program::pack_sweep(Sweep& sweep, const Weights& w) {
  const std::int64_t fours = pieces_of(w.inputs, 4);
  const std::int64_t bytes = pieces_of(w.outputs, kSweepColumns) * fours * 4 * kSweepColumns;
  sweep.refused = swept_bytes_ + bytes > kMostPacked || has_least(w);
  if (sweep.refused) return;
  sweep.packed.assign(static_cast<std::size_t>(bytes), 0);
  swept_bytes_ += bytes;
  for (std::int64_t i = 0; i < w.inputs; ++i)
    for (std::int64_t o = 0; o < w.outputs; ++o) {
      const std::int64_t block = o / kSweepColumns * fours + i / 4;
      sweep.packed[static_cast<std::size_t>((block * kSweepColumns + o % kSweepColumns) * 4 + i % 4)] =
          w.i8[i * w.outputs + o];
    }
}

}  // namespace spikeformers
