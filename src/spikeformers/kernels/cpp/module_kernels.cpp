// Kernels of some architectures by themselves, as a program of one step or less.
#include <cmath>

#include "binding.hpp"

using namespace nanobind::literals;

namespace spikeformers {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Found = nb::ndarray<nb::numpy, float>;

// Binary q, k and v, [steps * T, width], the steps one after the other.
Found edges(const Counts& q, const Counts& k, const Counts& v, int steps, int heads, float decay,
            const Reals& scale, const Reals& threshold, const std::optional<Reals>& bias,
            const std::string& path, int threads) {
  const auto rows = static_cast<std::int64_t>(q.shape(0)), width = static_cast<std::int64_t>(q.shape(1));
  for (const Counts* one : {&q, &k, &v})
    if (static_cast<std::int64_t>(one->shape(0)) != rows || static_cast<std::int64_t>(one->shape(1)) != width)
      throw std::invalid_argument("edges: q, k and v differ in shape");
  if (steps < 1 || rows % steps != 0) throw std::invalid_argument("edges: steps do not divide the rows");
  Program program(*choose_path(path).kernels, threads, steps, 1);
  Neuron binary;
  binary.type = SpikeType::binary;
  int id[3];
  const Counts* given[3] = {&q, &k, &v};
  for (int i = 0; i < 3; ++i) {
    id[i] = program.spikes(width, binary);
    program.fill(id[i], counts_of(*given[i], 0, 1, "edges"), rows, steps);
  }
  const int out = program.real(width);
  program.edges(id[0], id[1], id[2], out, heads, decay, vector_of(scale), vector_of(threshold), vector_of(bias));
  Sequence sequence(program);
  {
    nb::gil_scoped_release free;
    program.run_alone(sequence, rows / steps);
  }
  return owned(reals_of(program, out), {q.shape(0), q.shape(1)});
}

Found pair(const Rows& x, const Reals& value, int largest, bool sign, bool counts, const std::string& path) {
  Program program(*choose_path(path).kernels, 1, 1, 1);
  const auto rows = static_cast<std::int64_t>(x.shape(0)), width = static_cast<std::int64_t>(x.shape(1));
  const int in = program.real(width), out = program.real(width);
  require_aligned(x.data());
  program.fill(in, x.data(), rows, 0);
  program.pair(in, out, 0, vector_of(value), largest, sign, counts);
  Sequence sequence(program);
  program.run_alone(sequence, rows);
  return owned(reals_of(program, out), {x.shape(0), x.shape(1)});
}

// x [T, in] as counts whose threshold follows their token: whole counts [T, in], units [T].
std::tuple<nb::ndarray<nb::numpy, std::int32_t>, Found> encode(const Rows& x, int steps, float reach, float dead_zone,
                                                               bool power_of_two, const std::string& path) {
  Program program(*choose_path(path).kernels, 1, 1, 1);
  const auto rows = static_cast<std::int64_t>(x.shape(0)), width = static_cast<std::int64_t>(x.shape(1));
  const int in = program.real(width), out = program.counts(width);
  require_aligned(x.data());
  program.fill(in, x.data(), rows, 0);
  program.encode(in, out, 0, NormKind::none, {}, {}, 0.0f, steps, reach, dead_zone, power_of_two);
  Sequence sequence(program);
  program.run_alone(sequence, rows);
  const Buffer& found = program.buffer(out);
  return {owned(found.whole<std::int32_t>(), {x.shape(0), x.shape(1)}),
          owned(std::vector<float>(found.unit.begin(), found.unit.begin() + rows), {x.shape(0)})};
}

// The same counts times a matrix [in, out]; `repeats` runs the product again, the seconds are the
// mean of a run.
std::tuple<Found, double> count_product(const Rows& x, const Matrix& matrix, const std::optional<Reals>& scale,
                                        const std::optional<Halves>& group_scale,
                                        const std::optional<Halves>& minimum,
                                        const std::optional<Reals>& bias, int steps, float reach, float dead_zone,
                                        bool power_of_two, const std::string& path, int threads, int repeats) {
  require(repeats >= 1, "count_product: it runs at least once");
  Program program(*choose_path(path).kernels, threads, 1, 1);
  const auto rows = static_cast<std::int64_t>(x.shape(0)), width = static_cast<std::int64_t>(x.shape(1));
  const int in = program.real(width), counts = program.counts(width);
  const Weights weights = linear_weights_of(matrix, scale, group_scale, minimum);
  const int out = program.real(weights.outputs);
  require_aligned(x.data());
  program.fill(in, x.data(), rows, 0);
  program.encode(in, counts, 0, NormKind::none, {}, {}, 0.0f, steps, reach, dead_zone, power_of_two);
  program.linear(counts, out, weights, vector_of(bias));
  Sequence sequence(program);
  const double seconds = seconds_of(repeats, [&] { program.run_alone(sequence, rows); });
  return {owned(reals_of(program, out), {x.shape(0), static_cast<std::size_t>(weights.outputs)}), seconds};
}

Found activate(const Rows& x, const std::string& kind, const std::string& path) {
  Program program(*choose_path(path).kernels, 1, 1, 1);
  const int id = program.real(static_cast<std::int64_t>(x.shape(1)));
  require_aligned(x.data());
  program.fill(id, x.data(), static_cast<std::int64_t>(x.shape(0)), 0);
  program.activate(id, activation_of(kind));
  Sequence sequence(program);
  program.run_alone(sequence, static_cast<std::int64_t>(x.shape(0)));
  return owned(reals_of(program, id), {x.shape(0), x.shape(1)});
}

Found soft_cap(const Rows& x, float cap, const std::string& path) {
  Program program(*choose_path(path).kernels, 1, 1, 1);
  const int id = program.real(static_cast<std::int64_t>(x.shape(1)));
  require_aligned(x.data());
  program.fill(id, x.data(), static_cast<std::int64_t>(x.shape(0)), 0);
  program.soft_cap(id, cap);
  Sequence sequence(program);
  program.run_alone(sequence, static_cast<std::int64_t>(x.shape(0)));
  return owned(reals_of(program, id), {x.shape(0), x.shape(1)});
}

// q [T, heads * K], k and v [T, kv_heads * K]: reals, or whole numbers up to `largest`.
Found mix(const Rows& q, const Rows& k, const Rows& v, int heads, int kv_heads,
          const std::string& rule, int winners, float weight, int digits, const Reals& scale, int largest,
          bool half, std::int64_t window, const std::string& path, int threads) {
  Program program(*choose_path(path).kernels, threads, 1, 1);
  const auto rows = static_cast<std::int64_t>(q.shape(0));
  int id[3];
  const Rows* given[3] = {&q, &k, &v};
  for (int i = 0; i < 3; ++i) {
    const Rows& one = *given[i];
    if (static_cast<std::int64_t>(one.shape(0)) != rows) throw std::invalid_argument("mix: as many keys as queries");
    require_aligned(one.data());
    for (std::size_t n = 0; largest > 0 && n < one.size(); ++n)
      require(between(one.data()[n], -static_cast<float>(largest), static_cast<float>(largest)) &&
                  std::trunc(one.data()[n]) == one.data()[n],
              "mix: not whole numbers up to the largest");
    id[i] = program.real(static_cast<std::int64_t>(one.shape(1)));
    program.fill(id[i], one.data(), rows, largest);
  }
  const int out = program.real(static_cast<std::int64_t>(q.shape(1)));
  program.mix(id[0], id[1], id[2], out, heads, kv_heads, rule_of(rule), winners, weight,
              digits, vector_of(scale), largest, half, window);
  Sequence sequence(program);
  {
    nb::gil_scoped_release free;
    program.run_alone(sequence, rows);
  }
  return owned(reals_of(program, out), {q.shape(0), q.shape(1)});
}

}  // namespace

void bind_kernels(nb::module_& m) {
  m.def("edges", &edges, "q"_a, "k"_a, "v"_a, "steps"_a, "heads"_a, "decay"_a, "scale"_a, "threshold"_a,
        "bias"_a.none(), "path"_a, "threads"_a);
  m.def("pair", &pair, "x"_a, "value"_a, "largest"_a, "sign"_a, "counts"_a, "path"_a);
  m.def("encode", &encode, "x"_a, "steps"_a, "reach"_a, "dead_zone"_a, "power_of_two"_a, "path"_a);
  m.def("count_product", &count_product, "x"_a, "matrix"_a, "scale"_a.none(), "group_scale"_a.none(),
        "minimum"_a.none(), "bias"_a.none(), "steps"_a, "reach"_a,
        "dead_zone"_a, "power_of_two"_a, "path"_a, "threads"_a, "repeats"_a);
  m.def("activate", &activate, "x"_a, "kind"_a, "path"_a);
  m.def("soft_cap", &soft_cap, "x"_a, "cap"_a, "path"_a);
  m.def("mix", &mix, "q"_a, "k"_a, "v"_a, "heads"_a, "kv_heads"_a, "rule"_a, "winners"_a,
        "weight"_a, "digits"_a, "scale"_a, "largest"_a, "half"_a, "window"_a, "path"_a, "threads"_a);
}

}  // namespace spikeformers
