// Products of counts whose threshold follows their token (spikeformers/neurons/token_if.py): each
// row of an input has a unit of its own, and its signed counts multiply whole weights. As the tables
// of kernels.hpp, once for each instruction set and with the same bits on all of them: sums are
// whole numbers, and floats are made of them in one order.
#pragma once

#include "kernels.hpp"

namespace spikeformers {

constexpr int kMaxTokenSteps = 8;                     // near counts fit a signed byte
constexpr std::int64_t kMaxTokenInputs = 1 << 16;     // whole sums stay below 2^31: limits.hpp
constexpr float kMinReach = 1.0f, kMaxReach = 0x1p10f;
constexpr float kMaxDeadZone = 0x1p20f;

// How a row x of n values becomes counts:
//   m = mean |x|;  unit = min(max |x|, reach m) / largest;  s = round(x / unit), halves away from
//   zero, 0 where |x| < dead_zone m.  Counts beyond `largest` are those of far neurons.
struct TokenCode {
  int largest = 127;  // L = 2^(T-1) - 1
  float reach = 8.0f;
  float dead_zone = 0.0f;
  bool power_of_two = false;  // the unit is rounded up to one
};

// Far counts of a row of n values at most: each is larger than reach m, and all sum to n m. One
// place more is written to.
inline std::int64_t far_room(std::int64_t n, float reach) {
  return static_cast<std::int64_t>(static_cast<float>(n) / reach) + 2;
}

// The counts of one row: `whole` of every value, as scratch; of those that fired, ascending, near
// ones (at most `largest` by size; room for n) and far ones (far_room).
struct TokenCounts {
  std::int32_t* whole;
  std::int32_t* index;
  std::int8_t* count;
  std::int32_t* far_index;
  std::int32_t* far_count;
};

struct Encoded {
  float unit;  // 0: nothing fired
  std::int64_t near, far;
  bool finite;
};

// Weights of 4 bits in groups of 32 inputs: scale * q + minimum, q from 0 to 15, where scale and
// minimum belong to a group and an output and are the upper halves of floats (bfloat16). Of each
// input, 64 outputs lie in 32 bytes, the low halves those of the first 32. Missing ones are there.
constexpr std::int64_t kGroup = 32;

struct GroupedWeights {
  const std::uint8_t* q;
  std::int64_t stride;  // bytes of a row
  const std::uint16_t *scale, *minimum;
  std::int64_t outputs;
};

// Near and far counts of one row, as `encode` writes them.
struct RowCounts {
  Events near;
  const std::int8_t* count;
  Events far;
  const std::int32_t* far_count;
};

// Counts of one group of one row: its near ones [kGroup], zeros where nothing fired, and far ones;
// the sum of all, and of the near ones' sizes.
struct GroupCounts {
  const std::int8_t* near;
  Events far;
  const std::int32_t* far_count;
  std::int32_t total, size;
};

constexpr std::int64_t kCountColumns = 64;  // of a panel
constexpr std::int64_t kCountRows = 128;    // of it; 16 KiB of two-byte weights stay in L1
constexpr std::int64_t kCountTokens = 4;    // that a panel meets at a time
// Tokens from which on packing a panel pays: with a scale per output, and in groups.
constexpr std::int64_t kPackFrom = 8, kPackGroupsFrom = 12;

// A matrix for tokens in which most inputs fire, whose product reads it from end to end: blocks of 64
// outputs, of each the inputs in fours, of each the four weights of an output beside each other.
// Missing ones are 0.
constexpr std::int64_t kSweepColumns = 64;

struct CountKernels {
  Encoded (*encode)(const TokenCode& code, const float* x, std::int64_t n, const TokenCounts& to);
  // sum[0..end-begin) = sum_e count[e] * w[index[e]][begin..end), of at most kMaxTokenInputs rows.
  void (*rows)(const std::int8_t* w, std::int64_t stride, Events events, const std::int8_t* count,
               std::int64_t begin, std::int64_t end, std::int32_t* sum);
  // Adds the same of counts of any size.
  void (*far_rows)(const std::int8_t* w, std::int64_t stride, Events events, const std::int32_t* count,
                   std::int64_t begin, std::int64_t end, std::int32_t* sum);
  // Up to kCountRows x kCountColumns weights, as `block` reads them; missing ones are 0.
  void (*pack)(const std::int8_t* w, std::int64_t stride, std::int64_t rows, std::int64_t columns,
               std::int16_t* panel);
  // sum[t][64] += the counts of kCountTokens tokens, `count_stride` apart, times the panel.
  void (*block)(const std::int16_t* panel, std::int64_t rows, const std::int8_t* count,
                std::int64_t count_stride, std::int32_t* sum);
  // out[0..end-begin) = sum_g scale * (sum_i s_i q_i) + minimum * (sum_i s_i), groups ascending, the
  // sums in brackets whole; `begin` is a multiple of 64.
  void (*grouped)(const GroupedWeights& w, const RowCounts& counts, std::int64_t begin, std::int64_t end,
                  float* out);
  // Adds the same of one group and up to 64 outputs from `begin` on, for tokens after each other:
  // out[t][64]. Of the group's inputs there are `inputs`.
  void (*grouped_block)(const GroupedWeights& w, std::int64_t group, std::int64_t inputs, std::int64_t begin,
                        const GroupCounts* counts, std::int64_t tokens, float* out);
  // weight[kGroup][64] of one group and 64 outputs in reals.
  void (*grouped_reals)(const GroupedWeights& w, std::int64_t group, std::int64_t inputs, std::int64_t begin,
                        float* weight);
  // sum[64] = sum_i count[i] * w[i][..] of one block of a matrix that is packed as above, of no weight
  // -128; `count` has `fours` times four.
  void (*sweep)(const std::int8_t* block, std::int64_t fours, const std::int8_t* count, std::int32_t* sum);
  // The share of inputs from which on that is faster than rows: of counts, and of spikes. 2: never.
  float sweep_counts_from, sweep_spikes_from;
};

// Those of the same path as `chosen`.
const CountKernels& count_kernels(const Kernels& chosen);

}  // namespace spikeformers
