// The arithmetic of the engine, once for each instruction set, behind one table of functions.
//
// Every loop adds in the same order whatever the vector width, and no product is fused into a sum
// (-ffp-contract=off), so that all paths, one token or many, give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spikeformers {

constexpr int kPage = 64;        // tokens of a cache page: one machine word holds a bit of each
constexpr int kMaxPlanes = 8;    // counts to 64, and a sign
constexpr int kFurthest = 8;     // octaves below the winner at which a key is still heard
constexpr int kMaxDigits = 4;    // binary ones of a weight
constexpr float kUnheard = 31.0f;
constexpr float kOctaves = 1.44269504f;  // of a factor of e
constexpr int kMaxLevels = 64;   // of counts, by size: two times a weight, 2 * 64 * 255, fit 16 bits

enum class SpikeType : std::int32_t { binary, integer, ternary };
enum class Reset : std::int32_t { soft, hard, delayed };
enum class NormKind : std::int32_t { none, layer, rms };

// One neuron layer: see spikeformers/neurons, whose files are the specification.
struct Neuron {
  SpikeType type = SpikeType::integer;
  int levels = 1;         // integer: counts to this
  float unit = 1.0f;      // value of one spike; amplitude of a ternary one
  float decay = 0.0f;     // with more than one simulation step
  float threshold = 1.0f; // binary
  float ratio = 0.5f;     // ternary: it fires from ratio * unit
  Reset reset = Reset::soft;
  // integer: counts of either sign; the potential, times the gain, of one count, and below which
  // there is none
  bool sign = false;
  float step = 1.0f, dead_zone = 0.0f, gain = 1.0f;
};

// The inputs of one row that fired: indices in ascending order.
struct Events {
  const std::int32_t* index;
  std::int64_t n;
};

// y = norm(x) of a row: `gain` and `shift` as its kind has them.
struct Normaliser {
  NormKind kind;
  const float *gain, *shift;
  float eps;
};

// Where the inputs of one row that fired are listed, ascending, with their counts; with `below_first`
// those below zero come before the others, as rows_i8 takes them. With a null `index` they are only
// counted. `index` and `listed` have room for n, `scratch` for 2 * n.
struct Listing {
  bool below_first;
  std::int32_t *scratch, *index;
  std::int8_t* listed;
};

// How many inputs of a row fired; `finite` is false where a value of it, or its norm, is not.
struct Fired {
  std::int64_t n;
  bool finite;
};

// From whole sums to reals: sum * (scale * unit) + bias, each operation rounded by itself.
struct Finish {
  const float* scale;  // of each output
  float unit;          // of the inputs' spikes
  const float* bias;   // of each output, or null
};

// One query against pages of keys (cache.hpp has the layout): the words of the features that fired,
// one for each bit plane, and what a set bit of each adds to the score; of keys in bytes, the features
// and their counts.
struct Query {
  const std::int32_t* word;
  const std::int16_t* worth;
  std::int64_t n;
  std::int64_t spikes, top;  // sum of its counts, and the largest
  bool narrow;               // every score fits 16 bits
  bool bytes = false;
};

// The largest spike count, and sum of them, of any key of a page: no score can be larger than
// min(query's sum * count, query's count * sum).
struct Most {
  std::int32_t sum = 0, count = 0;
};

// Pages of one head to go through: `count` of them from `first` on, upwards or downwards.
struct Pages {
  const std::uint64_t* const* page;
  std::int64_t offset;  // of the head's keys in a page
  const Most* most;     // of the head in page 0; `heads` apart
  std::int64_t heads, first, count, step;
};

struct Found {
  std::int64_t looked;    // pages gone through, the found one included
  std::int64_t read;      // of which this many were read, the others ruled out by their Most
  std::uint64_t reached;  // a bit for each key of the last one; 0: there was none
};

struct Kernels {
  const char* name;

  // out[begin..end) of sum_e coef[e] * w[index[e]][...], w input-major with rows of `stride`.
  void (*rows_f32)(const float* w, std::int64_t stride, Events events, const float* coef,
                   std::int64_t begin, std::int64_t end, float* out);
  // The same over int8 rows and whole counts up to kMaxLevels by size, those below zero first, of at
  // most 131072 inputs: exact, in 16-bit sums that spill in time into 32; count[e] is that of index[e].
  void (*rows_i8)(const std::int8_t* w, std::int64_t stride, Events events,
                  const std::int8_t* count, std::int64_t begin, std::int64_t end,
                  const Finish& finish, float* out);
  // The same over rows of 4 bits, `stride` bytes long, and counts in any order; `begin` is a multiple
  // of 64.
  void (*rows_i4)(const std::int8_t* w, std::int64_t stride, Events events,
                  const std::int8_t* count, std::int64_t begin, std::int64_t end,
                  const Finish& finish, float* out);
  // Real inputs against them: the head of a model that does not spike there.
  void (*rows_i4_real)(const std::int8_t* w, std::int64_t stride, Events events, const float* coef,
                       std::int64_t begin, std::int64_t end, float* out);
  // Blocks of 32 bytes into 64 whole weights each, -8 to 7.
  void (*unpack_i4)(const std::int8_t* from, std::int64_t blocks, std::int8_t* to);
  // Four input rows a group, packed so that a token multiplies four counts at once; see panel.
  void (*panel_pack)(const std::int8_t* w, std::int64_t stride, std::int64_t rows,
                     std::int64_t columns, std::uint8_t* panel);
  void (*panel_add)(const std::uint8_t* panel, const std::int32_t* group, const std::uint32_t* four,
                    std::int64_t groups, std::int32_t* sum);
  // y = norm(x): `out` may be `x`. False where x is not finite, or has no norm: then y is not either.
  bool (*norm)(NormKind kind, const float* x, std::int64_t n, const float* gain,
               const float* shift, float eps, float* out);
  // One simulation step. `carry` is null where nothing recurs; `first` starts it at zero. NaN is
  // silent.
  void (*fire)(const Neuron& neuron, const float* current, float* carry, bool first,
               std::int64_t n, std::int8_t* count);
  // Returns how many inputs of one row fired.
  std::int64_t (*list)(const std::int8_t* count, std::int64_t n, const Listing& to);
  // norm, fire without recurrence and list, in one pass over a row.
  Fired (*fire_row)(const Neuron& neuron, const Normaliser& norm, const float* x, std::int64_t n,
                    std::int8_t* count, const Listing& to);
  // Scores of the 64 keys of a page, as whole numbers.
  void (*page_scores)(const std::uint64_t* keys, const Query& query, std::int32_t* score);
  // Goes through pages until one has a key whose score is at least `least`: writes its scores.
  Found (*page_scan)(const Pages& pages, const Query& query, std::int32_t least,
                     std::int32_t* score);
  // value[j] = score[j] * unit * scale + bias[j] in this order; returns the largest.
  float (*page_values)(const std::int32_t* score, float unit, float scale, const float* bias,
                       float* value);
  // Weights by powers of two (attention/power_of_two.py), of n scores, a multiple of 64, whose largest
  // is `top`. First the octaves by which each is below it, kUnheard where it is too far to be heard;
  // returns the sum of 2^-octaves, each to so many binary digits, in units of 2^(1 - digits - kFurthest).
  std::int64_t (*octaves)(float* value, std::int64_t n, float top, int digits);
  // Then from those, with the octaves that the sum takes, unit * 2^-octaves to so many digits, or 0.
  void (*powers)(float* value, std::int64_t n, float place, float unit, int digits);
  // out[d] += weight[j] * rows[j * stride + d], j ascending.
  void (*add_counts)(const std::int8_t* rows, std::int64_t stride, const float* weight, std::int64_t n,
                     std::int64_t width, float* out);
};

constexpr int kPanelColumns = 64;
constexpr int kPanelRows = 256;  // 16 KiB of packed weights: they stay in L1 over the tokens

// The table of a path: "portable", "neon", "avx2" or "avx512"; null where this build has none.
const Kernels* portable_kernels();
const Kernels* neon_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace spikeformers
