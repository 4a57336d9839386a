// Products of reals: dense where nothing is zero, and reading only the rows of what is not.
#include "converted_kernels.hpp"
#include "steps.hpp"

namespace spikeformers {

void Program::product_real(const Linear& step, const RealRows& in, Buffer& out) {
  if (step.weights.grouped()) {
    product_grouped_real(step, in, out);
    return;
  }
  const Weights& w = step.weights;
  const MoreKernels& more = more_kernels(kernels);
  // A zero adds nothing, so its row is not read: sums of spikes, and pairs of neurons, have many.
  thread_local std::vector<std::int32_t> some_index;
  thread_local std::vector<float> some_coef;
  thread_local std::vector<std::int64_t> some_starts;
  std::vector<std::int32_t>& index = some_index;
  std::vector<float>& coef = some_coef;
  std::vector<std::int64_t>& starts = some_starts;
  index.clear();
  coef.clear();
  starts.assign(1, 0);
  for (std::int64_t r = 0; r < in.rows; ++r) {
    const float* x = in.x + r * in.width;
    for (std::int64_t i = 0; i < in.width; ++i)
      if (x[i] != 0.0f) {
        index.push_back(static_cast<std::int32_t>(i));
        coef.push_back(x[i]);
      }
    starts.push_back(static_cast<std::int64_t>(index.size()));
  }
  counters.weight_bytes += starts.back() * w.row_bytes();
  // Rows of which most inputs are not zero go four at a time, which reads each weight once for all.
  // An added zero changes no sum, so both ways give the same bits.
  const auto dense = [&](std::int64_t r) {
    return w.i4 == nullptr && r + 4 <= in.rows && 2 * (starts[static_cast<std::size_t>(r + 4)] -
                                    starts[static_cast<std::size_t>(r)]) > 4 * in.width;
  };
  const auto finish = [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
    float* to = out.real.data() + r * w.outputs;
    if (w.f32 == nullptr)
      for (std::int64_t o = begin; o < end; ++o) to[o] *= w.scale[o];
    if (in.unit != nullptr)
      for (std::int64_t o = begin; o < end; ++o) to[o] *= in.unit[r];
    if (step.bias.data != nullptr)
      for (std::int64_t o = begin; o < end; ++o) to[o] += step.bias.data[o];
  };
  const std::int64_t columns = in.rows == 1 ? columns_of_a_piece(w.outputs, pool.threads()) : 128;
  pool.run(pieces_of(w.outputs, columns), [&](std::int64_t piece) {
    const std::int64_t begin = piece * columns, end = std::min(w.outputs, begin + columns);
    for (std::int64_t r = 0; r < in.rows; ++r) {
      if (dense(r)) {
        const void* matrix = w.f32 != nullptr ? static_cast<const void*>(w.f32) : w.i8;
        more.block(w.f32 != nullptr ? Number::f32 : Number::i8, matrix, w.outputs, in.width,
                   in.x + r * in.width, in.width, begin, end,
                   out.real.data() + r * w.outputs, w.outputs);
        for (int k = 0; k < 4; ++k) finish(r + k, begin, end);
        r += 3;
        continue;
      }
      const std::int64_t from = starts[static_cast<std::size_t>(r)];
      const Events events{index.data() + from, starts[static_cast<std::size_t>(r + 1)] - from};
      float* to = out.real.data() + r * w.outputs;
      if (w.f32 != nullptr)
        kernels.rows_f32(w.f32, w.outputs, events, coef.data() + from, begin, end, to);
      else if (w.i4 != nullptr)
        kernels.rows_i4_real(w.i4, w.row_bytes(), events, coef.data() + from, begin, end, to);
      else
        more.rows_i8_coef(w.i8, w.outputs, events, coef.data() + from, begin, end, to);
      finish(r, begin, end);
    }
  });
}

}  // namespace spikeformers
