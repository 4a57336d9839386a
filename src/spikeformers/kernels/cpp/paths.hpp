// Which instruction sets this build has and this processor runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace spikeformers {

struct Path {
  std::string name;
  const Kernels* kernels;  // null where it cannot run
  std::string reason;      // what it needs, or what is missing
};

// All paths, best first.
const std::vector<Path>& paths();

// The path of that name, or the best for "auto"; std::invalid_argument says what is missing.
const Path& choose_path(const std::string& name);

}  // namespace spikeformers
