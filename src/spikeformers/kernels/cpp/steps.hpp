// What the files that put steps together and run them share.
#pragma once

#include <algorithm>
#include <string>

#include "limits.hpp"
#include "program.hpp"

namespace spikeformers {

inline std::string sizes(std::int64_t got, std::int64_t wanted) {
  return " has " + std::to_string(got) + " entries, not " + std::to_string(wanted);
}

// A buffer keeps its rows, for steps before this one read it as it was.
inline void wrote(Buffer& buffer, int steps, bool selected) {
  require(!buffer.written || (buffer.steps == steps && buffer.selected == selected),
          "a buffer is written again, with other rows");
  buffer.written = true;
  buffer.steps = steps;
  buffer.selected = selected;
  buffer.counts = 0;
}

inline bool is_scale(float x) { return between(x, kMinScale, kMaxScale); }

// Bytes of the sums that SSA keeps, in whole numbers of 8 bytes.
inline std::int64_t sum_bytes(std::int64_t heads, std::int64_t width) { return 8 * heads * width * width; }

// Bias of each head by distance; a null `bias` is zeros.
std::vector<BiasLine> bias_lines(Vector bias, int heads, const std::string& what);

// Into the list of one head and simulation step.
inline void keep_winners(const std::vector<Winner>& best, std::vector<Winners>& lists, std::int64_t list) {
  Winners& to = lists[static_cast<std::size_t>(list)];
  to.clear();
  for (const Winner& winner : best) to.push_back(winner.token);
}

constexpr std::int64_t kRowsAtOnce = 16;  // of a batch, to one piece of work

inline std::int64_t pieces_of(std::int64_t n, std::int64_t each) { return (n + each - 1) / each; }

// A token's product is cut into some pieces for each thread, so that a busy processor gets fewer of
// them; whole rows are read where one thread reads them.
inline std::int64_t columns_of_a_piece(std::int64_t outputs, int threads) {
  constexpr std::int64_t kLeast = 512;
  return threads == 1 ? outputs : std::max(kLeast, pieces_of(outputs, 4 * threads * 64) * 64);
}

// work(row) for each of `rows`, some rows to a piece.
template <class Work>
void for_rows(Pool& pool, std::int64_t rows, const Work& work) {
  pool.run(pieces_of(rows, kRowsAtOnce), [&](std::int64_t piece) {
    const std::int64_t end = std::min(rows, (piece + 1) * kRowsAtOnce);
    for (std::int64_t r = piece * kRowsAtOnce; r < end; ++r) work(r);
  });
}

}  // namespace spikeformers
