// When a token's product reads its matrix from end to end instead of the rows that fired.
#include <algorithm>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "sweep.hpp"

namespace spikeformers {
namespace {

constexpr std::int64_t kTokensBefore = 8;  // that are counted before the first choice
constexpr std::int64_t kRemembered = 64;   // tokens, about, that the mean is over
// The mean has to fall this far below the share at which a sweep was chosen before rows are chosen
// again: at the border one copy of the matrix stays in the cache, not both in turns.
constexpr float kSlack = 0.05f;
// Bytes of a program's matrices up to which any of them is packed. More comes at the speed of memory in
// either order: with AVX2 and 16 MiB rows are as fast, with 6 MiB slower.
constexpr std::int64_t kMostPacked = 8 << 20;
constexpr std::size_t kHugePage = 2 << 20;

bool has_least(const Weights& w) {
  return std::find(w.i8, w.i8 + w.inputs * w.outputs, INT8_MIN) != w.i8 + w.inputs * w.outputs;
}

std::int64_t packed_bytes(const Weights& w) {
  return pieces_of(w.outputs, kSweepColumns) * pieces_of(w.inputs, 4) * 4 * kSweepColumns;
}

void pack(const Weights& w, std::int8_t* to) {
  static constexpr std::int8_t silent[kSweepColumns] = {};
  for (std::int64_t begin = 0; begin < w.outputs; begin += kSweepColumns) {
    const std::int64_t columns = std::min(kSweepColumns, w.outputs - begin);
    for (std::int64_t i = 0; i < w.inputs; i += 4, to += 4 * kSweepColumns) {
      const std::int8_t* row[4];
      for (int r = 0; r < 4; ++r) row[r] = i + r < w.inputs ? w.i8 + (i + r) * w.outputs + begin : silent;
      for (std::int64_t o = 0; o < columns; ++o)
        for (int r = 0; r < 4; ++r) to[4 * o + r] = row[r][o];
      std::fill(to + 4 * columns, to + 4 * kSweepColumns, std::int8_t{0});
    }
  }
}

}  // namespace

std::int8_t* SweepMemory::take(std::int64_t bytes, std::int64_t all) {
  if (first_ == nullptr) {
    const std::size_t size = (static_cast<std::size_t>(all) + kHugePage - 1) / kHugePage * kHugePage;
    first_.reset(static_cast<std::int8_t*>(::operator new(size, std::align_val_t{kHugePage})));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(first_.get(), size, MADV_HUGEPAGE);  // a hint, which may be refused
#endif
    room_ = all;
  }
  if (taken_ + bytes > room_) return nullptr;
  taken_ += bytes;
  return first_.get() + taken_ - bytes;
}

void SweepMemory::Free::operator()(std::int8_t* given) const {
  ::operator delete(given, std::align_val_t{kHugePage});
}

const std::int8_t* Program::swept(const Linear& step, std::int64_t fired, float from) {
  const Weights& w = step.weights;
  if (w.i8 == nullptr || from > 1.0f) return nullptr;
  Sweep& sweep = sweeps_[step.sweep];
  if (sweep.refused) return nullptr;
  sweep.tokens = std::min(sweep.tokens + 1, kRemembered);
  const float share = static_cast<float>(fired) / static_cast<float>(w.inputs);
  sweep.share += (share - sweep.share) / static_cast<float>(sweep.tokens);
  if (sweep.tokens < kTokensBefore) return nullptr;
  sweep.chosen = sweep.share >= (sweep.chosen ? from - kSlack : from);
  if (sweep.chosen && sweep.packed == nullptr) pack_sweep(sweep, w);
  if (!sweep.chosen || sweep.packed == nullptr) return nullptr;
  ++counters.sweeps;
  return sweep.packed;
}

void Program::pack_sweep(Sweep& sweep, const Weights& w) {
  std::int64_t all = 0;
  for (const Step& step : steps_)
    if (const auto* linear = std::get_if<Linear>(&step); linear != nullptr && linear->weights.i8 != nullptr)
      all += packed_bytes(linear->weights);
  sweep.packed = all > kMostPacked || has_least(w) ? nullptr : swept_.take(packed_bytes(w), all);
  sweep.refused = sweep.packed == nullptr;
  if (!sweep.refused) pack(w, sweep.packed);
}

}  // namespace spikeformers
