// Elementwise steps of a dense model, and the pairs of neurons that say its reals
// (spikeformers/neurons/qcfs.py, spikeformers/models/_converted.py).
#include <atomic>
#include <cmath>

#include "steps.hpp"

namespace spikeformers {

void Program::pair(int in, int out, std::int64_t offset, Vector value, int largest, bool sign, bool counts) {
  const Buffer& from = input(in, Holds::reals, "pair");
  Buffer& to = output(out, Holds::reals, "pair");
  require(offset >= 0 && offset <= from.width - to.width, "pair: it reads past its input");
  require(in != out, "pair: it cannot write what it reads");
  require(value.n == to.width || value.n == 2 * to.width,
          "pair: the value of a spike" + sizes(value.n, to.width) + " or twice as many");
  for (std::int64_t i = 0; i < value.n; ++i)
    require(between(value.data[i], kMinValue, kMaxValue), "pair: the value of a spike is not positive, or too large");
  require(largest >= 1 && largest < (1 << 23), "pair: counts are whole numbers below 2^23");
  const auto most = static_cast<float>(largest);
  wrote(to, from.steps, from.selected);
  to.counts = counts ? largest : 0;
  steps_.emplace_back(Pair{in, out, offset, value, sign ? -most : 0.0f, most, counts});
}

void Program::run(const Pair& step, const Frame&) {
  const Buffer& in = at(step.in, "pair");
  Buffer& out = at(step.out, "pair");
  out.resize(in.rows);
  const MoreKernels& more = more_kernels(kernels);
  const float* off = step.value.data + (step.value.n == out.width ? 0 : out.width);
  std::atomic<std::int64_t> events{0};
  for_rows(pool, in.rows, [&](std::int64_t r) {
    float* to = out.real.data() + r * out.width;
    more.pair(in.real.data() + r * in.width + step.offset, step.value.data, off, out.width, step.low,
              step.high, step.counts, to);
    expect_finite(all_finite(in.real.data() + r * in.width + step.offset, out.width));
    std::int64_t fired = 0;
    for (std::int64_t i = 0; i < out.width; ++i) fired += to[i] != 0.0f;
    events += fired;
  });
  counters.neurons += in.rows * out.width;
  counters.events += events;
}

void Program::activate(int to, Activation kind) {
  input(to, Holds::reals, "activate");
  at(to, "activate").counts = 0;
  steps_.emplace_back(Activate{to, kind});
}

void Program::run(const Activate& step, const Frame&) {
  Buffer& to = at(step.to, "activate");
  const MoreKernels& more = more_kernels(kernels);
  for_rows(pool, to.rows, [&](std::int64_t r) { more.activate(step.kind, to.real.data() + r * to.width, to.width); });
}

void Program::soft_cap(int to, float cap) {
  input(to, Holds::reals, "soft_cap");
  require(is_scale(cap), "soft_cap: its cap is not positive, or not within 2^-56 to 2^56");
  at(to, "soft_cap").counts = 0;
  steps_.emplace_back(SoftCap{to, cap});
}

void Program::run(const SoftCap& step, const Frame&) {
  Buffer& to = at(step.to, "soft_cap");
  const MoreKernels& more = more_kernels(kernels);
  for_rows(pool, to.rows, [&](std::int64_t r) {
    float* x = to.real.data() + r * to.width;
    expect_finite(all_finite(x, to.width));  // it would make a number of what is none
    more.soft_cap(x, to.width, step.cap);
  });
}

void Program::multiply(int in, int to) {
  const Buffer &from = input(in, Holds::reals, "multiply"), &product = input(to, Holds::reals, "multiply");
  require(from.width == product.width, "multiply: widths differ");
  require(from.steps == product.steps && from.selected == product.selected, "multiply: rows differ");
  at(to, "multiply").counts = 0;
  steps_.emplace_back(Multiply{in, to});
}

void Program::run(const Multiply& step, const Frame&) {
  const Buffer& in = at(step.in, "multiply");
  Buffer& to = at(step.to, "multiply");
  for_rows(pool, in.rows, [&](std::int64_t r) {
    const float* by = in.real.data() + r * in.width;
    float* x = to.real.data() + r * in.width;
    for (std::int64_t i = 0; i < in.width; ++i) x[i] *= by[i];
  });
}

void Program::scale(int to, Vector by) {
  const Buffer& scaled = input(to, Holds::reals, "scale");
  require(by.n == scaled.width, "scale: it" + sizes(by.n, scaled.width));
  at(to, "scale").counts = 0;
  steps_.emplace_back(Scale{to, by});
}

void Program::run(const Scale& step, const Frame&) {
  Buffer& to = at(step.to, "scale");
  for_rows(pool, to.rows, [&](std::int64_t r) {
    float* x = to.real.data() + r * to.width;
    for (std::int64_t i = 0; i < to.width; ++i) x[i] *= step.by.data[i];
  });
}

void Program::rotate(int to, std::int64_t offset, int heads, std::int64_t width, Vector frequency,
                     float factor) {
  const Buffer& turned = input(to, Holds::reals, "rotate");
  require(steps == 1 && !turned.selected, "rotate: it comes before select, in one simulation step");
  require(heads >= 1 && width >= 1 && heads <= turned.width && width <= turned.width && offset >= 0 &&
              offset <= turned.width - heads * width,
          "rotate: it reads past its input");
  require(frequency.n >= 1 && 2 * frequency.n <= width, "rotate: more frequencies than channels");
  for (std::int64_t i = 0; i < frequency.n; ++i)
    require(between(frequency.data[i], -kMaxFrequency, kMaxFrequency), "rotate: a frequency is not finite, or beyond 2^20");
  require(between(factor, -kMaxScale, kMaxScale), "rotate: its factor is not finite, or beyond 2^56");
  at(to, "rotate").counts = 0;
  steps_.emplace_back(Rotate{to, heads, offset, width, frequency, factor});
}

void Program::run(const Rotate& step, const Frame& frame) {
  Buffer& to = at(step.to, "rotate");
  const std::int64_t half = step.frequency.n;
  for_rows(pool, to.rows, [&](std::int64_t r) {
    thread_local std::vector<float> cosine, sine;
    cosine.resize(static_cast<std::size_t>(half));
    sine.resize(static_cast<std::size_t>(half));
    const auto position = static_cast<float>(frame.position[static_cast<std::size_t>(r)]);
    for (std::int64_t i = 0; i < half; ++i) {
      const float angle = position * step.frequency.data[i];
      cosine[static_cast<std::size_t>(i)] = std::cos(angle) * step.factor;
      sine[static_cast<std::size_t>(i)] = std::sin(angle) * step.factor;
    }
    float* x = to.real.data() + r * to.width + step.offset;
    for (int h = 0; h < step.heads; ++h, x += step.width)
      for (std::int64_t i = 0; i < half; ++i) {
        const float c = cosine[static_cast<std::size_t>(i)], s = sine[static_cast<std::size_t>(i)];
        const float one = x[i], other = x[i + half];
        x[i] = one * c + -other * s;
        x[i + half] = other * c + one * s;
      }
  });
}

void Program::group_norm(int in, int out, Vector gain, float eps) {
  const Buffer& from = input(in, Holds::reals, "group_norm");
  Buffer& to = output(out, Holds::reals, "group_norm");
  require(from.width == to.width, "group_norm: widths differ");
  require(gain.n >= 1 && from.width % gain.n == 0, "group_norm: its groups do not divide the width");
  require(between(eps, 0.0f, 1.0f), "group_norm: its eps must be 0 to 1");
  wrote(to, from.steps, from.selected);
  steps_.emplace_back(GroupNorm{in, out, gain, eps});
}

void Program::run(const GroupNorm& step, const Frame&) {
  const Buffer& in = at(step.in, "group_norm");
  Buffer& out = at(step.out, "group_norm");
  out.resize(in.rows);
  for_rows(pool, in.rows, [&](std::int64_t r) {
    for (std::int64_t i = r * in.width; i < (r + 1) * in.width; i += step.gain.n)
      expect_finite(kernels.norm(NormKind::rms, in.real.data() + i, step.gain.n, step.gain.data, nullptr,
                                 step.eps, out.real.data() + i));
  });
}

}  // namespace spikeformers
