// What the last token of a sequence cost, layer by layer, and which tokens won its attention. A sequence
// keeps them on request; for another nothing is counted.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace spikeformers {

// Neurons that were computed, how many of them fired, and bytes of weights that were read for it.
struct Cost {
  std::int64_t neurons = 0, events = 0, weight_bytes = 0;

  Cost& operator+=(const Cost& more) {
    neurons += more.neurons;
    events += more.events;
    weight_bytes += more.weight_bytes;
    return *this;
  }
};

using Winners = std::vector<std::int64_t>;  // tokens, by their place in the sequence

struct Details {
  std::int64_t tokens = 0;  // read since details are kept
  Cost total;               // of all of them, embeddings left out
  Cost outside;             // of the last one, in no layer: the head
  std::vector<Cost> layers; // of the last one
  // Of the last one: [attention step][simulation step * heads + head], best first; an attention
  // without winners has no entries. A head's thread writes its own entries alone.
  std::vector<std::vector<Winners>> winners;
};

// What a caller reads: the details, with winners by layer and head, each token once, and nothing for a
// layer whose attention has no winners.
struct DetailsRead {
  Details details;
  std::vector<std::optional<std::vector<Winners>>> winners;
};

}  // namespace spikeformers
