// Kernels that only some architectures take; as those of kernels.hpp, once for each instruction set
// and with the same bits on all of them.
#pragma once

#include "kernels.hpp"

namespace spikeformers {

enum class Activation : std::int32_t { relu, silu, gelu_tanh, gelu_erf, quick_gelu };
enum class Number : std::int32_t { i8, i16, f16, f32 };  // of a cache of rows

// A float in two bytes, as IEEE 754 has it; infinity where it would be beyond kMaxHalf.
struct Half {
  std::uint16_t bits;
};
constexpr float kMaxHalf = 65504.0f;

struct MoreKernels {
  // One simulation step of 64 neurons, of edges between a query and the keys of a page:
  //   U = current + carry;  fires where U >= threshold;  carry = decay * U - threshold where it fired
  std::uint64_t (*edges)(const float* current, float* carry, bool first, float decay, float threshold);
  // Counts of pairs of neurons: clip(round(x / value), low, high), halves away from zero, by `on`
  // where x >= 0 and by `off` elsewhere; times that value unless `counts`.
  void (*pair)(const float* x, const float* on, const float* off, std::int64_t n, float low, float high,
               bool counts, float* out);
  // In place.
  void (*activate)(Activation kind, float* x, std::int64_t n);
  // x[i] = cap * tanh(x[i] / cap).
  void (*soft_cap)(float* x, std::int64_t n, float cap);
  // x[i] = exp(x[i] - most).
  void (*exps)(float* x, std::int64_t n, float most);
  // Scores of the 64 keys of a page, [feature][64], with the features listed.
  void (*key_scores)(Number type, const void* keys, const std::int32_t* feature, const float* query,
                     std::int64_t n, float* score);
  // The same of several queries at once, [queries][features] in all of them: each key is read, and
  // made a float, once for three of them. Scores of a query are `stride` after those of the one before.
  void (*key_scores_of_all)(Number type, const void* keys, const float* query, std::int64_t queries,
                            std::int64_t features, float* score, std::int64_t stride);
  // out[q][0..n) += weight[q * stride + j] * row j, of `count` rows of n numbers, three q at once.
  void (*add_rows)(Number type, const void* rows, std::int64_t count, const float* weight,
                   std::int64_t stride, std::int64_t queries, std::int64_t n, float* out);
  // Real inputs against int8 rows: the head of a model that does not spike there, for one.
  void (*rows_i8_coef)(const std::int8_t* w, std::int64_t stride, Events events, const float* coef,
                       std::int64_t begin, std::int64_t end, float* out);
  // Four rows x at once, `x_stride` apart, against all inputs: out[r][begin..end) = x[r] W, in the
  // order of the rows of W, like the two above. `w` is float or int8.
  void (*block)(Number type, const void* w, std::int64_t stride, std::int64_t inputs, const float* x,
                std::int64_t x_stride, std::int64_t begin, std::int64_t end, float* out,
                std::int64_t out_stride);
};

// Those of the same path as `chosen`.
const MoreKernels& more_kernels(const Kernels& chosen);

}  // namespace spikeformers
