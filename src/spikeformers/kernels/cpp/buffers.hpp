// What the steps of a program (program.hpp) read and write: matrices of the engine file, and buffers.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "counts.hpp"
#include "kernels.hpp"

namespace spikeformers {

// A matrix as it lies in the engine file: input-major, so that a row is what one input adds.
struct Weights {
  const float* f32 = nullptr;
  const std::int8_t* i8 = nullptr;
  const std::int8_t* i4 = nullptr;  // blocks of 64 outputs in 32 bytes, see rows_i4
  const float* scale = nullptr;     // of int8 and int4, one an output
  // Of int4 in groups of inputs (counts.hpp), which has no `scale`: [groups, outputs].
  const std::uint16_t *group_scale = nullptr, *group_minimum = nullptr;
  std::int64_t inputs = 0, outputs = 0;

  bool grouped() const { return group_scale != nullptr; }
  GroupedWeights in_groups() const {
    return {reinterpret_cast<const std::uint8_t*>(i4), row_bytes(), group_scale, group_minimum, outputs};
  }

  std::int64_t row_bytes() const {
    return f32 != nullptr ? 4 * outputs : i8 != nullptr ? outputs : (outputs + 63) / 64 * 32;
  }
  // A weight of int8 or int4, before its scale.
  int whole(std::int64_t input, std::int64_t output) const {
    if (i8 != nullptr) return i8[input * outputs + output];
    const int two = i4[input * row_bytes() + output / 64 * 32 + output % 32];
    return (output % 64 < 32 ? two & 15 : two >> 4 & 15) - 8;
  }
};

struct Vector {
  const float* data = nullptr;
  std::int64_t n = 0;
};

// What a buffer holds: reals [S, rows, width], spikes with the neuron that emits them, or counts whose
// unit follows their token.
enum class Holds : std::int32_t { reals, spikes, counts };

struct Buffer {
  std::int64_t width = 0;
  Holds holds = Holds::reals;
  Neuron neuron;
  // Known while the program is put together: whether a step has written it, with rows for each
  // simulation step, and for all tokens or for the selected ones.
  bool written = false, selected = false;
  int steps = 1;
  std::int64_t counts = 0;            // reals that are whole numbers, no larger than this; 0: any
  std::int64_t rows = 0;              // of all simulation steps together
  std::vector<float> real;
  std::vector<std::int8_t> count;
  std::vector<std::int32_t> index;    // of the inputs that fired, a row of `width` for each row
  std::vector<std::int8_t> listed;    // and their counts, of spikes that a product reads
  bool is_listed = false, below_first = false;  // in the order that the product takes
  std::vector<std::int64_t> fired;    // how many did
  // Of counts with a unit for each row: `count`, `index` and `fired` are those of near neurons, the
  // counts packed as the indices are; far neurons have their own.
  std::vector<std::int32_t> far_index, far_count;  // room for `far_width` in each row
  std::int64_t far_width = 0;
  std::vector<std::int64_t> far;
  std::vector<float> unit;

  void resize(std::int64_t rows);
  Events events(std::int64_t row) const {
    return {index.data() + row * width, fired[static_cast<std::size_t>(row)]};
  }
  Events far_events(std::int64_t row) const {
    return {far_index.data() + row * far_width, far[static_cast<std::size_t>(row)]};
  }
  const std::int32_t* far_counts(std::int64_t row) const { return far_count.data() + row * far_width; }
  // Counts with a unit per token, near and far ones together, [rows, width].
  template <class T>
  void put_whole(std::vector<T>& all) const {
    all.assign(static_cast<std::size_t>(rows * width), T{});
    for (std::int64_t r = 0; r < rows; ++r) {
      T* row = all.data() + r * width;
      const Events near = events(r), beyond = far_events(r);
      for (std::int64_t e = 0; e < near.n; ++e) row[near.index[e]] = static_cast<T>(count[static_cast<std::size_t>(r * width + e)]);
      for (std::int64_t e = 0; e < beyond.n; ++e) row[beyond.index[e]] = static_cast<T>(far_counts(r)[e]);
    }
  }
  template <class T>
  std::vector<T> whole() const {
    std::vector<T> all;
    put_whole(all);
    return all;
  }
};

// What a product knows about its inputs, and its matrix as CountKernels::sweep takes it, once it is
// worth the memory.
struct Sweep {
  std::int64_t tokens = 0;  // that came one at a time, up to those that the mean is over
  float share = 0.0f;       // of the inputs that fired in them, on average
  bool chosen = false;      // over rows of what fired
  bool refused = false;     // a weight is -128, or there is too much of it
  std::int8_t* packed = nullptr;
};

// Where such matrices lie: in pages of 2 MiB where the system gives them.
class SweepMemory {
 public:
  // Null where no `bytes` are left of the `most` that are ever taken.
  std::int8_t* take(std::int64_t bytes, std::int64_t most);

 private:
  struct Free {
    void operator()(std::int8_t* given) const;
  };
  std::unique_ptr<std::int8_t[], Free> first_;
  std::int64_t room_ = 0, taken_ = 0;
};

// Rows of reals, each in a unit of its own where `unit` is not null.
struct RealRows {
  const float* x;
  std::int64_t rows, width;
  const float* unit;
};

}  // namespace spikeformers
