// Counts whose threshold follows their token (spikeformers/neurons/token_if.py), and what multiplies
// them: a row of whole weights is read once for each input that fired, whatever it counts.
#include <atomic>

#include "counts.hpp"
#include "converted_kernels.hpp"
#include "steps.hpp"
#include "sweep.hpp"

namespace spikeformers {

void Program::encode(int in, int out, std::int64_t offset, NormKind kind, Vector gain, Vector shift, float eps,
                     int token_steps, float reach, float dead_zone, bool power_of_two) {
  const Buffer& from = input(in, Holds::reals, "encode");
  Buffer& to = output(out, Holds::counts, "encode");
  require(offset >= 0 && offset <= from.width - to.width, "encode: it reads past its input");
  check_norm("encode", kind, gain, shift, eps, to.width);
  require(token_steps >= 2 && token_steps <= kMaxTokenSteps,
          "encode: a threshold per token has 2 to " + std::to_string(kMaxTokenSteps) + " steps in the engine");
  require(between(reach, kMinReach, kMaxReach), "encode: its reach must be 1 to 2^10 means");
  require(between(dead_zone, 0.0f, kMaxDeadZone), "encode: its dead zone must be 0 to 2^20 means");
  wrote(to, from.steps, from.selected);
  to.far_width = std::max(to.far_width, far_room(to.width, reach));
  const int largest = (1 << (token_steps - 1)) - 1;
  steps_.emplace_back(Encode{in, out, offset, kind, gain, shift, eps, {largest, reach, dead_zone, power_of_two}});
}

void Program::run(const Encode& step, const Frame&) {
  const Buffer& in = at(step.in, "encode");
  Buffer& out = at(step.out, "encode");
  out.resize(in.rows);
  const CountKernels& count = count_kernels(kernels);
  std::atomic<std::int64_t> events{0};
  for_rows(pool, in.rows, [&](std::int64_t r) {
    thread_local std::vector<float> normed;
    thread_local std::vector<std::int32_t> whole;
    whole.resize(static_cast<std::size_t>(out.width));
    const float* x = in.real.data() + r * in.width + step.offset;
    if (step.kind != NormKind::none) {
      normed.resize(static_cast<std::size_t>(out.width));
      expect_finite(kernels.norm(step.kind, x, out.width, step.gain.data, step.shift.data, step.eps, normed.data()));
      x = normed.data();
    }
    const std::int64_t at = r * out.width, far = r * out.far_width;
    const Encoded row = count.encode(step.code, x, out.width,
                                     {whole.data(), out.index.data() + at, out.count.data() + at,
                                      out.far_index.data() + far, out.far_count.data() + far});
    expect_finite(row.finite);
    out.unit[static_cast<std::size_t>(r)] = row.unit;
    out.fired[static_cast<std::size_t>(r)] = row.near;
    out.far[static_cast<std::size_t>(r)] = row.far;
    events += row.near + row.far;
  });
  counters.neurons += in.rows * out.width;
  counters.events += events;
}

namespace {

// From whole sums of one row to reals; each operation is rounded by itself.
void finish_row(const std::int32_t* sum, const Linear& step, float unit, std::int64_t begin, std::int64_t end, float* to) {
  const float* scale = step.weights.scale + begin;
  for (std::int64_t o = 0; o < end - begin; ++o) to[o] = static_cast<float>(sum[o]) * (scale[o] * unit);
  if (step.bias.data != nullptr)
    for (std::int64_t o = 0; o < end - begin; ++o) to[o] += step.bias.data[begin + o];
}

}  // namespace

void Program::product_counts(const Linear& step, const Buffer& in, Buffer& out) {
  const Weights& w = step.weights;
  if (w.f32 != nullptr) {
    thread_local std::vector<float> reals;
    in.put_whole(reals);
    product_real(step, {reals.data(), in.rows, in.width, in.unit.data()}, out);
    return;
  }
  for (std::int64_t r = 0; r < in.rows; ++r)
    counters.weight_bytes += (in.events(r).n + in.far_events(r).n) * w.row_bytes();
  if (w.grouped()) {
    product_grouped(step, in, out);
    return;
  }
  if (in.rows >= kPackFrom) {
    product_counts_batch(step, in, out);
    return;
  }
  const CountKernels& count = count_kernels(kernels);
  if (const std::int8_t* packed =
          in.rows == 1 ? swept(step, in.events(0).n, count.sweep_counts_from) : nullptr) {
    thread_local std::vector<std::int8_t> near;
    near.assign(static_cast<std::size_t>(pieces_of(in.width, 4) * 4), 0);
    const Events events = in.events(0);
    for (std::int64_t e = 0; e < events.n; ++e)
      near[static_cast<std::size_t>(events.index[e])] = in.count[static_cast<std::size_t>(e)];
    sweep_token(pool, count, w, packed, near, [&](std::int64_t begin, std::int64_t end, std::int32_t* sum) {
      count.far_rows(w.i8, w.outputs, in.far_events(0), in.far_counts(0), begin, end, sum);
      finish_row(sum, step, in.unit[0], begin, end, out.real.data() + begin);
    });
    return;
  }
  const std::int64_t columns = columns_of_a_piece(w.outputs, pool.threads());
  pool.run(pieces_of(w.outputs, columns), [&](std::int64_t piece) {
    thread_local std::vector<std::int32_t> sums;
    const std::int64_t begin = piece * columns, end = std::min(w.outputs, begin + columns);
    sums.resize(static_cast<std::size_t>(end - begin));
    std::int32_t* sum = sums.data();
    for (std::int64_t r = 0; r < in.rows; ++r) {
      const std::int64_t at = r * in.width;
      count.rows(w.i8, w.outputs, in.events(r), in.count.data() + at, begin, end, sum);
      count.far_rows(w.i8, w.outputs, in.far_events(r), in.far_counts(r), begin, end, sum);
      finish_row(sum, step, in.unit[static_cast<std::size_t>(r)], begin, end, out.real.data() + r * w.outputs + begin);
    }
  });
}

// Many tokens: a panel of weights is packed once and serves all of them, four at a time.
void Program::product_counts_batch(const Linear& step, const Buffer& in, Buffer& out) {
  const Weights& w = step.weights;
  const CountKernels& count = count_kernels(kernels);
  const std::int64_t rows = pieces_of(in.rows, kCountTokens) * kCountTokens, width = in.width;
  thread_local std::vector<std::int8_t> all;
  all.assign(static_cast<std::size_t>(rows * width), 0);
  std::int8_t* near = all.data();  // of every input; far ones, and missing tokens, count 0
  for (std::int64_t r = 0; r < in.rows; ++r) {
    const Events events = in.events(r);
    for (std::int64_t e = 0; e < events.n; ++e)
      near[r * width + events.index[e]] = in.count[static_cast<std::size_t>(r * width + e)];
  }
  pool.run(pieces_of(w.outputs, kCountColumns), [&](std::int64_t piece) {
    alignas(64) std::int16_t panel[kCountRows * kCountColumns];
    thread_local std::vector<std::int32_t> sums;
    sums.assign(static_cast<std::size_t>(rows * kCountColumns), 0);
    std::int32_t* sum = sums.data();
    const std::int64_t begin = piece * kCountColumns, end = std::min(w.outputs, begin + kCountColumns);
    for (std::int64_t first = 0; first < width; first += kCountRows) {
      const std::int64_t inputs = std::min(kCountRows, width - first);
      count.pack(w.i8 + first * w.outputs + begin, w.outputs, inputs, end - begin, panel);
      for (std::int64_t r = 0; r < rows; r += kCountTokens)
        count.block(panel, inputs, near + r * width + first, width, sum + r * kCountColumns);
    }
    for (std::int64_t r = 0; r < in.rows; ++r, sum += kCountColumns) {
      count.far_rows(w.i8, w.outputs, in.far_events(r), in.far_counts(r), begin, end, sum);
      finish_row(sum, step, in.unit[static_cast<std::size_t>(r)], begin, end, out.real.data() + r * w.outputs + begin);
    }
  });
}

}  // namespace spikeformers
