// Products with weights of 4 bits in groups of 32 inputs (counts.hpp): of counts, whose sums over a
// group are whole numbers, and of reals. Groups come in ascending order, so that one token and many
// give the same bits.
#include <cstdlib>

#include "counts.hpp"
#include "steps.hpp"

namespace spikeformers {
namespace {

// The unit of a row, and the bias; each operation is rounded by itself.
void finish_row(const Linear& step, float unit, std::int64_t begin, std::int64_t end, float* to) {
  for (std::int64_t o = 0; o < end - begin; ++o) to[o] *= unit;
  if (step.bias.data != nullptr)
    for (std::int64_t o = 0; o < end - begin; ++o) to[o] += step.bias.data[begin + o];
}

RowCounts counts_of_row(const Buffer& in, std::int64_t r) {
  return {in.events(r), in.count.data() + r * in.width, in.far_events(r), in.far_counts(r)};
}

}  // namespace

void Program::product_grouped(const Linear& step, const Buffer& in, Buffer& out) {
  if (in.rows >= kPackGroupsFrom) {
    product_grouped_batch(step, in, out);
    return;
  }
  const Weights& w = step.weights;
  const CountKernels& count = count_kernels(kernels);
  const std::int64_t columns = columns_of_a_piece(w.outputs, pool.threads());
  pool.run(pieces_of(w.outputs, columns), [&](std::int64_t piece) {
    const std::int64_t begin = piece * columns, end = std::min(w.outputs, begin + columns);
    for (std::int64_t r = 0; r < in.rows; ++r) {
      float* to = out.real.data() + r * w.outputs + begin;
      count.grouped(w.in_groups(), counts_of_row(in, r), begin, end, to);
      finish_row(step, in.unit[static_cast<std::size_t>(r)], begin, end, to);
    }
  });
}

// Many tokens: the weights of a group and 64 outputs are read once for all of them.
void Program::product_grouped_batch(const Linear& step, const Buffer& in, Buffer& out) {
  const Weights& w = step.weights;
  const CountKernels& count = count_kernels(kernels);
  const std::int64_t rows = in.rows, width = in.width, groups = pieces_of(width, kGroup);
  std::vector<std::int8_t> near(static_cast<std::size_t>(rows * groups * kGroup));
  std::vector<GroupCounts> counts(static_cast<std::size_t>(groups * rows));  // [groups, rows]
  for (std::int64_t r = 0; r < rows; ++r) {
    const RowCounts row = counts_of_row(in, r);
    std::int8_t* dense = near.data() + r * groups * kGroup;
    std::int64_t e = 0, f = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t first = f;
      GroupCounts to{dense + g * kGroup, {}, row.far_count + first, 0, 0};
      for (; e < row.near.n && row.near.index[e] / kGroup == g; ++e) {
        dense[row.near.index[e]] = row.count[e];
        to.total += row.count[e];
        to.size += std::abs(row.count[e]);
      }
      for (; f < row.far.n && row.far.index[f] / kGroup == g; ++f) to.total += row.far_count[f];
      to.far = {row.far.index + first, f - first};
      counts[static_cast<std::size_t>(g * rows + r)] = to;
    }
  }
  const GroupedWeights weights = w.in_groups();
  pool.run(pieces_of(w.outputs, kCountColumns), [&](std::int64_t piece) {
    thread_local std::vector<float> all;
    all.assign(static_cast<std::size_t>(rows * kCountColumns), 0.0f);
    float* sum = all.data();
    const std::int64_t begin = piece * kCountColumns, end = std::min(w.outputs, begin + kCountColumns);
    for (std::int64_t g = 0; g < groups; ++g)
      count.grouped_block(weights, g, std::min(kGroup, width - g * kGroup), begin, counts.data() + g * rows, rows, sum);
    for (std::int64_t r = 0; r < rows; ++r, sum += kCountColumns) {
      float* to = out.real.data() + r * w.outputs + begin;
      std::copy_n(sum, end - begin, to);
      finish_row(step, in.unit[static_cast<std::size_t>(r)], begin, end, to);
    }
  });
}

// Real inputs: weights of a group become reals once for all tokens.
void Program::product_grouped_real(const Linear& step, const RealRows& in, Buffer& out) {
  const Weights& w = step.weights;
  const CountKernels& count = count_kernels(kernels);
  const GroupedWeights weights = w.in_groups();
  counters.weight_bytes += in.width * w.row_bytes();
  pool.run(pieces_of(w.outputs, kCountColumns), [&](std::int64_t piece) {
    alignas(64) float weight[kGroup * kCountColumns];
    const std::int64_t begin = piece * kCountColumns, n = std::min(w.outputs - begin, kCountColumns);
    for (std::int64_t r = 0; r < in.rows; ++r) std::fill_n(out.real.data() + r * w.outputs + begin, n, 0.0f);
    for (std::int64_t first = 0; first < in.width; first += kGroup) {
      const std::int64_t inputs = std::min(kGroup, in.width - first);
      count.grouped_reals(weights, first / kGroup, inputs, begin, weight);
      for (std::int64_t r = 0; r < in.rows; ++r) {
        const float* x = in.x + r * in.width + first;
        float* to = out.real.data() + r * w.outputs + begin;
        for (std::int64_t i = 0; i < inputs; ++i)
          if (x[i] != 0.0f)
            for (std::int64_t o = 0; o < n; ++o) to[o] += weight[i * kCountColumns + o] * x[i];
      }
    }
    for (std::int64_t r = 0; r < in.rows; ++r) {
      float* to = out.real.data() + r * w.outputs + begin;
      if (in.unit != nullptr)
        for (std::int64_t o = 0; o < n; ++o) to[o] *= in.unit[r];
      if (step.bias.data != nullptr)
        for (std::int64_t o = 0; o < n; ++o) to[o] += step.bias.data[begin + o];
    }
  });
}

}  // namespace spikeformers
