// The Python face of the engine: arrays in, arrays out; nothing here computes.
#include <algorithm>
#include <functional>

#include "binding.hpp"

using namespace nanobind::literals;
using namespace spikeformers;

namespace {

// `held` keeps them alive while Python's lock is free, whatever becomes of the list.
std::vector<Sequence*> sequences_of(const nb::list& given, std::vector<nb::object>& held) {
  std::vector<Sequence*> found;
  for (const nb::handle item : given) {
    Sequence* sequence = nullptr;
    if (!nb::isinstance<Sequence>(item) || !nb::try_cast(item, sequence) || sequence == nullptr)
      throw std::invalid_argument("sequence " + std::to_string(found.size()) + " is of type " +
                                  std::string(nb::type_name(item.type()).c_str()) +
                                  "; it must be one that the engine's sequence() made");
    held.push_back(nb::borrow(item));
    found.push_back(sequence);
  }
  return found;
}

nb::ndarray<nb::numpy, float> forward(Engine& engine, const nb::list& sequences,
                                      const std::vector<std::int32_t>& tokens,
                                      const std::vector<std::int64_t>& wanted) {
  std::vector<nb::object> held;
  const std::vector<Sequence*> all = sequences_of(sequences, held);
  const std::size_t rows = wanted.size(), columns = static_cast<std::size_t>(engine.program.vocabulary);
  std::vector<float> logits = alone(engine.program, [&] {
    const float* found = engine.program.forward(all, tokens, wanted);
    return std::vector<float>(found, found + rows * columns);
  });
  return owned(std::move(logits), {rows, columns});
}

// The largest of finite numbers, the first on ties; the lanes are what compilers make vectors of.
std::int32_t place_of_largest(const float* x, std::int64_t n) {
  constexpr std::int64_t kLanes = 16;
  float lane[kLanes], top = x[0];
  std::fill_n(lane, kLanes, x[0]);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t k = 0; k < kLanes; ++k) lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
  for (; i < n; ++i) top = std::max(top, x[i]);
  for (const float largest : lane) top = std::max(top, largest);
  return static_cast<std::int32_t>(std::find(x, x + n, top) - x);
}

// The likeliest token after `token`, the lowest id on ties: a whole step without logits leaving.
std::int32_t advance(Engine& engine, Sequence& sequence, std::int32_t token) {
  return alone(engine.program, [&] {
    Program& program = engine.program;
    Sequence* const only = &sequence;
    constexpr std::int64_t kFirst = 0;
    const float* logits = program.forward({&only, 1}, {&token, 1}, {&kFirst, 1});
    const auto start = program.timed() ? Clock::now() : Clock::time_point{};
    const std::int32_t likeliest = place_of_largest(logits, program.vocabulary);
    if (program.timed()) program.took(Part::sampling, start);
    return likeliest;
  });
}

template <class T>
nb::object copy_of(const Program& program, const Buffer& buffer, const std::vector<T> Buffer::* values) {
  std::size_t rows = 0;
  const auto width = static_cast<std::size_t>(buffer.width);
  std::vector<T> copy = alone(program, [&] {
    rows = static_cast<std::size_t>(buffer.rows);
    const auto first = (buffer.*values).begin();
    return std::vector<T>(first, first + static_cast<std::ptrdiff_t>(rows * width));
  });
  return nb::cast(owned(std::move(copy), {rows, width}));
}

nb::object values_of(const Engine& engine, int id) {
  const Buffer& buffer = alone(engine.program, [&] { return std::cref(engine.program.buffer(id)); });
  if (buffer.holds == Holds::spikes) return copy_of(engine.program, buffer, &Buffer::count);
  if (buffer.holds == Holds::counts) {
    std::vector<std::int32_t> whole = alone(engine.program, [&] { return buffer.whole<std::int32_t>(); });
    const auto width = static_cast<std::size_t>(buffer.width), rows = whole.size() / width;
    return nb::cast(owned(std::move(whole), {rows, width}));
  }
  return copy_of(engine.program, buffer, &Buffer::real);
}

nb::dict counters_of(const Engine& engine) {
  const Counters c = alone(engine.program, [&] { return engine.program.counters; });
  nb::dict found;
  found["tokens"] = c.rows;
  found["neurons"] = c.neurons;
  found["events"] = c.events;
  found["weight_bytes"] = c.weight_bytes;
  found["cache_bytes"] = c.cache_bytes;
  found["pages_read"] = c.pages_read;
  found["pages_skipped"] = c.pages_skipped;
  found["pairs"] = c.pairs;
  found["edges"] = c.edges;
  found["sweeps"] = c.sweeps;
  return found;
}

nb::dict seconds_by_part(const Engine& engine) {
  const auto nanoseconds = alone(engine.program, [&] { return engine.program.nanoseconds(); });
  nb::dict found;
  for (std::size_t i = 0; i < std::size(kParts); ++i)
    found[kParts[i]] = 1e-9 * static_cast<double>(nanoseconds[i]);
  return found;
}

// (tokens read, cost of all, of the last one by layer, of it outside of layers, winners by layer and head)
using CostTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t>;  // neurons, events, weight bytes
using DetailsTuple = std::tuple<std::int64_t, CostTuple, std::vector<CostTuple>, CostTuple,
                                std::vector<std::optional<std::vector<Winners>>>>;

DetailsTuple details_of(const Engine& engine, const Sequence& sequence) {
  DetailsRead read = alone(engine.program, [&] { return engine.program.details(sequence); });
  const auto as_tuple = [](const Cost& cost) { return CostTuple{cost.neurons, cost.events, cost.weight_bytes}; };
  std::vector<CostTuple> layers;
  for (const Cost& cost : read.details.layers) layers.push_back(as_tuple(cost));
  return {read.details.tokens, as_tuple(read.details.total), std::move(layers), as_tuple(read.details.outside),
          std::move(read.winners)};
}

// One kernel by itself, as a program of one step: what tests and benchmarks call. `repeats` runs it
// again; the seconds are the mean of a run.
using Timed = std::tuple<nb::ndarray<nb::numpy, float>, double>;

Timed product(const Counts& counts, const Matrix& matrix, const std::optional<Reals>& scale,
              const std::optional<Reals>& bias, float unit, const std::string& path, int threads,
              int repeats) {
  require(repeats >= 1, "product: it runs at least once");
  const std::int8_t* given = counts_of(counts, -kMaxLevels, kMaxLevels, "product");
  Program program(*choose_path(path).kernels, threads, 1, 1);
  const auto rows = static_cast<std::int64_t>(counts.shape(0));
  Neuron neuron;
  neuron.levels = kMaxLevels;
  neuron.unit = unit;
  neuron.sign = true;
  const int in = program.spikes(static_cast<std::int64_t>(counts.shape(1)), neuron);
  const Weights weights = weights_of(matrix, scale, true);
  const int out = program.real(weights.outputs);
  program.fill(in, given, rows);
  program.linear(in, out, weights, vector_of(bias));
  Sequence sequence(program);
  const double seconds = seconds_of(repeats, [&] { program.run_alone(sequence, rows); });
  return {owned(reals_of(program, out), {counts.shape(0), static_cast<std::size_t>(weights.outputs)}), seconds};
}

Timed attend(const Counts& q, const Counts& k, const Counts& v, const std::string& type, int levels,
             float unit, int heads, const std::string& rule, int winners, float weight, int digits,
             const Reals& scale, const std::optional<Reals>& bias, bool sign, const std::string& path,
             int threads) {
  if (q.shape(0) != k.shape(0) || q.shape(0) != v.shape(0) || q.shape(1) != k.shape(1) ||
      q.shape(1) != v.shape(1))
    throw std::invalid_argument("attend: q, k and v differ in shape");
  Program program(*choose_path(path).kernels, threads, 1, 1);
  const Neuron neuron = neuron_of(type, levels, unit, 0.0f, 1.0f, 0.5f, "soft", 1.0f, 0.0f, 1.0f, sign);
  const auto rows = static_cast<std::int64_t>(q.shape(0)), width = static_cast<std::int64_t>(q.shape(1));
  int id[3];
  const Counts* given[3] = {&q, &k, &v};
  for (int i = 0; i < 3; ++i) {
    id[i] = program.spikes(width, neuron);
    program.fill(id[i], counts_of(*given[i], least_count(neuron), most_count(neuron), "attend"), rows);
  }
  const int out = program.real(width);
  program.attend(id[0], id[1], id[2], out, heads, rule_of(rule), winners, weight, digits, vector_of(scale),
                 vector_of(bias));
  Sequence sequence(program);
  const double seconds = seconds_of(1, [&] { program.run_alone(sequence, rows); });
  return {owned(reals_of(program, out), {q.shape(0), q.shape(1)}), seconds};
}

nb::ndarray<nb::numpy, float> normalise(const Reals& x, const std::string& kind, const std::optional<Reals>& gain,
                                        const std::optional<Reals>& shift, float eps, const std::string& path) {
  require_aligned(x.data());
  const NormKind chosen = norm_of(kind);
  require(between(eps, 0.0f, 1.0f), "norm: eps must be 0 to 1");
  const std::size_t n = x.size();
  if (n == 0 || (chosen != NormKind::none && (!gain || gain->size() != n)) ||
      (chosen == NormKind::layer && (!shift || shift->size() != n)))
    throw std::invalid_argument("norm: its weight and bias need the width of x");
  std::vector<float> y(n);
  choose_path(path).kernels->norm(chosen, x.data(), static_cast<std::int64_t>(n), vector_of(gain).data,
                                  vector_of(shift).data, eps, y.data());
  return owned(std::move(y), {n});
}

// Currents [steps, n] through one neuron layer.
nb::ndarray<nb::numpy, std::int8_t> fire(const Reals& current, const std::string& type, int levels,
                                         float unit, float decay, float threshold, float ratio,
                                         const std::string& reset, float step, float dead_zone,
                                         float gain, bool sign, const std::string& path) {
  require_aligned(current.data());
  if (current.ndim() != 2) throw std::invalid_argument("fire: currents are [steps, n]");
  const std::size_t steps = current.shape(0), n = current.shape(1);
  const Neuron neuron =
      neuron_of(type, levels, unit, decay, threshold, ratio, reset, step, dead_zone, gain, sign);
  require(all_finite(current.data(), static_cast<std::int64_t>(steps * n)), "fire: a current is not finite");
  std::vector<std::int8_t> count(steps * n);
  std::vector<float> carry(n);
  for (std::size_t s = 0; s < steps; ++s)
    choose_path(path).kernels->fire(neuron, current.data() + s * n, steps > 1 ? carry.data() : nullptr,
                                    s == 0, static_cast<std::int64_t>(n), count.data() + s * n);
  return owned(std::move(count), {steps, n});
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Event-driven kernels in C++; spikeformers.kernels explains them.";
  nb::set_leak_warnings(false);  // an interpreter that dies of an exception keeps engines alive

  m.def("paths", [] {
    std::vector<std::tuple<std::string, bool, std::string>> all;
    for (const Path& path : paths()) all.emplace_back(path.name, path.kernels != nullptr, path.reason);
    return all;
  });
  m.def("processors", &processors);
  m.attr("MAX_LEVELS") = kMaxLevels;
  m.def("product", &product, "counts"_a, "matrix"_a, "scale"_a.none(), "bias"_a.none(), "unit"_a,
        "path"_a, "threads"_a, "repeats"_a);
  m.def("attend", &attend, "q"_a, "k"_a, "v"_a, "type"_a, "levels"_a, "unit"_a, "heads"_a, "rule"_a,
        "winners"_a, "weight"_a, "digits"_a, "scale"_a, "bias"_a.none(), "signed"_a, "path"_a, "threads"_a);
  m.def("norm", &normalise, "x"_a, "kind"_a, "gain"_a.none(), "shift"_a.none(), "eps"_a, "path"_a);
  m.def("fire", &fire, "current"_a, "type"_a, "levels"_a, "unit"_a, "decay"_a, "threshold"_a,
        "ratio"_a, "reset"_a, "step"_a, "dead_zone"_a, "gain"_a, "signed"_a, "path"_a);

  nb::class_<Sequence>(m, "Sequence")
      .def_prop_ro("tokens", [](const Sequence& s) { return alone(s.program(), [&] { return s.tokens(); }); })
      .def_prop_ro("bytes", [](const Sequence& s) { return alone(s.program(), [&] { return s.bytes(); }); });

  nb::class_<Engine> program(m, "Program");
  program
      .def(nb::init<const std::string&, int, int, std::int64_t>(), "path"_a, "threads"_a, "steps"_a,
           "vocabulary"_a)
      .def_prop_ro("path", [](const Engine& e) { return std::string(e.program.kernels.name); })
      .def_prop_ro("threads", [](const Engine& e) { return e.program.pool.threads(); })
      .def_prop_ro("positions", [](const Engine& e) { return alone(e.program, [&] { return e.program.positions; }); })
      .def_prop_ro("finished", [](const Engine& e) { return alone(e.program, [&] { return e.program.finished(); }); })
      .def("real", [](Engine& e, std::int64_t width) { return alone(e.program, [&] { return e.program.real(width); }); },
           "width"_a)
      .def("spikes",
           [](Engine& e, std::int64_t width, const std::string& type, int levels, float unit,
              float decay, float threshold, float ratio, const std::string& reset, float step,
              float dead_zone, float gain, bool sign) {
             const Neuron neuron =
                 neuron_of(type, levels, unit, decay, threshold, ratio, reset, step, dead_zone, gain, sign);
             return alone(e.program, [&] { return e.program.spikes(width, neuron); });
           },
           "width"_a, "type"_a, "levels"_a, "unit"_a, "decay"_a, "threshold"_a, "ratio"_a, "reset"_a,
           "step"_a = 1.0f, "dead_zone"_a = 0.0f, "gain"_a = 1.0f, "signed"_a = false)
      .def("counts", [](Engine& e, std::int64_t width) { return alone(e.program, [&] { return e.program.counts(width); }); },
           "width"_a)
      .def("embed",
           [](Engine& e, int out, const Matrix& table, const std::optional<Reals>& scale,
              bool by_column, const std::optional<Reals>& positions) {
             const Weights weights = weights_of(table, scale, by_column);
             const Vector learned = vector_of(positions);
             alone(e.program, [&] { e.program.embed(out, weights, by_column, learned); });
             e.held.push_back(nb::cast(table));
             e.hold(scale);
             e.hold(positions);
           },
           "out"_a, "table"_a, "scale"_a.none(), "by_column"_a, "positions"_a.none())
      .def("select", [](Engine& e, int in, int out) { alone(e.program, [&] { e.program.select(in, out); }); }, "input"_a, "out"_a)
      .def("norm",
           [](Engine& e, int in, int out, std::int64_t offset, const std::string& kind,
              const std::optional<Reals>& gain, const std::optional<Reals>& shift, float eps) {
             const NormKind chosen = norm_of(kind);
             const Vector by = vector_of(gain), moved = vector_of(shift);
             alone(e.program, [&] { e.program.norm(in, out, offset, chosen, by, moved, eps); });
             e.hold(gain);
             e.hold(shift);
           },
           "input"_a, "out"_a, "offset"_a, "kind"_a, "gain"_a.none(), "shift"_a.none(), "eps"_a)
      .def("fire",
           [](Engine& e, int in, int out, std::int64_t offset, const std::string& kind,
              const std::optional<Reals>& gain, const std::optional<Reals>& shift, float eps) {
             const NormKind chosen = norm_of(kind);
             const Vector by = vector_of(gain), moved = vector_of(shift);
             alone(e.program, [&] { e.program.fire(in, out, offset, chosen, by, moved, eps); });
             e.hold(gain);
             e.hold(shift);
           },
           "input"_a, "out"_a, "offset"_a, "kind"_a, "gain"_a.none(), "shift"_a.none(), "eps"_a)
      .def("linear",
           [](Engine& e, int in, int out, const Matrix& weights, const std::optional<Reals>& scale,
              const std::optional<Halves>& group_scale, const std::optional<Halves>& minimum,
              const std::optional<Reals>& bias) {
             const Weights matrix = linear_weights_of(weights, scale, group_scale, minimum);
             const Vector added = vector_of(bias);
             alone(e.program, [&] { e.program.linear(in, out, matrix, added); });
             e.held.push_back(nb::cast(weights));
             e.hold(scale);
             e.hold(group_scale);
             e.hold(minimum);
             e.hold(bias);
           },
           "input"_a, "out"_a, "weights"_a, "scale"_a.none(), "group_scale"_a.none(), "minimum"_a.none(),
           "bias"_a.none())
      .def("attend",
           [](Engine& e, int query, int key, int value, int out, int heads, const std::string& rule,
              int winners, float weight, const Reals& scale, const std::optional<Reals>& bias, int digits) {
             const Rule chosen = rule_of(rule);
             const Vector by = vector_of(scale), added = vector_of(bias);
             alone(e.program, [&] {
               e.program.attend(query, key, value, out, heads, chosen, winners, weight, digits, by, added);
             });
             e.held.push_back(nb::cast(scale));
             e.hold(bias);
           },
           "query"_a, "key"_a, "value"_a, "out"_a, "heads"_a, "rule"_a, "winners"_a, "weight"_a,
           "scale"_a, "bias"_a.none(), "digits"_a = 1)
      .def("add", [](Engine& e, int in, int to) { alone(e.program, [&] { e.program.add(in, to); }); }, "input"_a, "to"_a)
      .def("finish", [](Engine& e, int logits) { alone(e.program, [&] { e.program.finish(logits); }); }, "logits"_a)
      .def("sequence",
           [](const Engine& e) {
             return alone(e.program, [&] {
               require(e.program.finished(), "a program without finish() has no sequences");
               return new Sequence(e.program);
             });
           },
           nb::rv_policy::take_ownership, nb::keep_alive<0, 1>())
      .def("fork",
           [](const Engine& e, const Sequence& sequence) {
             return alone(e.program, [&] {
               require(&sequence.program() == &e.program, "a sequence of another program");
               return sequence.fork().release();
             });
           },
           "sequence"_a, nb::rv_policy::take_ownership, nb::keep_alive<0, 1>())
      .def("keep_details",
           [](const Engine& e, Sequence& s) { alone(e.program, [&] { e.program.keep_details(s); }); },
           "sequence"_a)
      .def("details", &details_of, "sequence"_a)
      .def("forward", &forward, "sequences"_a, "tokens"_a, "wanted"_a)
      .def("advance", &advance, "sequence"_a, "token"_a)
      .def("time", [](Engine& e, bool timed) { alone(e.program, [&] { e.program.time(timed); }); }, "timed"_a)
      .def("seconds", &seconds_by_part)
      .def("values", &values_of, "buffer"_a)
      .def("counters", &counters_of);
  bind_steps(program);
  bind_kernels(m);
}
