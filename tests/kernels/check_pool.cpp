// Loops of which some pieces throw, beside loops of which none does; test_sanitizers.py runs it.
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "pool.hpp"

using namespace spikeformers;

int main() {
  Pool pool(8);
  long wrong = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    const int pieces = 1 + trial % 37, throws = trial % 3 == 0 ? trial % (pieces + 1) : pieces;
    std::vector<int> seen(static_cast<std::size_t>(pieces), 0);  // each piece writes its own
    bool thrown = false;
    try {
      pool.run(pieces, [&](std::int64_t piece) {
        seen[static_cast<std::size_t>(piece)] = 1;
        if (piece >= throws) throw std::runtime_error("piece");
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    wrong += thrown != (throws < pieces);
    for (int piece = 0; piece < throws; ++piece) wrong += seen[static_cast<std::size_t>(piece)] != 1;
  }
  std::printf("%ld wrong, %d threads\n", wrong, pool.threads());
  return wrong != 0;
}
