// The token shift: part of a token's spikes are those of the token before
// (spikeformers/layers/shift.py).
#include "steps.hpp"

namespace spikeformers {

void Program::shift(int to, std::int64_t moved) {
  const Buffer& spikes = input(to, Holds::spikes, "shift");
  require(!spikes.selected && spikes.steps == steps, "shift: it comes before select");
  require(moved >= 1 && moved <= spikes.width, "shift: no such number of features");
  steps_.emplace_back(Shift{to, moved, shifts_++});
}

// Rows of a sequence come in order, so each leaves its own spikes where the next finds them.
void Program::run(const Shift& step, const Frame& frame) {
  Buffer& to = at(step.to, "shift");
  const auto rows = static_cast<std::int64_t>(frame.token.size());
  for (int s = 0; s < steps; ++s)
    for (std::int64_t r = 0; r < rows; ++r) {
      Sequence& sequence = *frame.sequence[static_cast<std::size_t>(r)];
      std::int8_t* last = sequence.last_[static_cast<std::size_t>(step.slot * steps + s)].data();
      std::swap_ranges(last, last + step.moved, to.count.data() + (s * rows + r) * to.width);
    }
  collect(to, false);  // they fired before
}

}  // namespace spikeformers
