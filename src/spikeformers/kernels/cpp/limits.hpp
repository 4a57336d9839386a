// What a program may be asked for. Within these bounds no whole sum overflows and no product of
// units and scales leaves the range of floats, so that the kernels need not check again.
#pragma once

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace spikeformers {

constexpr std::int64_t kMaxHead = 4096;          // features of a head: whole scores stay below 2^24
constexpr std::int64_t kMaxRows = 1 << 16;       // tokens of one call
constexpr std::int64_t kMaxSums = 1 << 30;       // bytes of what SSA remembers, in one layer
constexpr float kMinUnit = 0x1p-20f, kMaxUnit = 0x1p20f;    // value of one spike
constexpr float kMinScale = 0x1p-56f, kMaxScale = 0x1p56f;  // of attention scores
constexpr float kMaxBias = 0x1p100f;                        // added to them
constexpr float kMinValue = 0x1p-126f, kMaxValue = 0x1p40f; // of a pair's spike
constexpr float kMaxThreshold = 0x1p40f;
constexpr float kMaxFrequency = 0x1p20f;         // radians per token

inline void require(bool fine, const std::string& what) {
  if (!fine) throw std::invalid_argument(what);
}
inline void require(bool fine, const char* what) {  // makes no string where all is fine
  if (!fine) throw std::invalid_argument(what);
}

// NaN lies between nothing.
inline bool between(float x, float least, float most) { return x >= least && x <= most; }

// Whether none of them is NaN or infinite; compilers make vectors of it.
inline bool all_finite(const float* x, std::int64_t n) {
  std::uint32_t beyond = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    beyond |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return beyond == 0;
}

// Counts that a neuron emits.
inline int most_count(const Neuron& neuron) {
  return neuron.type == SpikeType::integer ? neuron.levels : 1;
}
inline bool has_sign(const Neuron& neuron) { return neuron.type == SpikeType::ternary || neuron.sign; }
inline int least_count(const Neuron& neuron) { return has_sign(neuron) ? -most_count(neuron) : 0; }

inline void check_neuron(const Neuron& neuron) {
  require(neuron.levels >= 1 && neuron.levels <= kMaxLevels,
          "levels=" + std::to_string(neuron.levels) + ": levels must be 1 to " + std::to_string(kMaxLevels));
  require(between(neuron.unit, kMinUnit, kMaxUnit),
          "unit=" + std::to_string(neuron.unit) + ": the value of a spike must be 2^-20 to 2^20");
  require(between(neuron.decay, 0.0f, 1.0f), "decay=" + std::to_string(neuron.decay) + ": it must be 0 to 1");
  require(neuron.threshold > 0.0f && neuron.threshold <= kMaxThreshold,
          "threshold=" + std::to_string(neuron.threshold) + ": it must be positive, and at most 2^40");
  require(between(neuron.ratio, 0.0f, kMaxThreshold),
          "ratio=" + std::to_string(neuron.ratio) + ": it must be 0 to 2^40");
  require(between(neuron.step, kMinUnit, kMaxUnit),
          "step=" + std::to_string(neuron.step) + ": the potential of a count must be 2^-20 to 2^20");
  require(between(neuron.dead_zone, 0.0f, kMaxThreshold),
          "dead_zone=" + std::to_string(neuron.dead_zone) + ": it must be 0 to 2^40");
  require(between(neuron.gain, kMinUnit, kMaxUnit),
          "gain=" + std::to_string(neuron.gain) + ": it must be 2^-20 to 2^20");
  require(neuron.type == SpikeType::integer || (!neuron.sign && neuron.step == 1.0f && neuron.dead_zone == 0.0f &&
                                                      neuron.gain == 1.0f),
          "sign, step, dead zone and gain are those of an integer neuron");
  require(neuron.type != SpikeType::integer || neuron.reset == Reset::soft,
          "an integer neuron has the reset \"soft\"");
  require(neuron.type != SpikeType::ternary || neuron.reset != Reset::delayed,
          "a ternary neuron has the resets \"soft\" and \"hard\"");
}

}  // namespace spikeformers
