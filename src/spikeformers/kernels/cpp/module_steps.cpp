// The Python face of the steps that only some architectures take.
#include "binding.hpp"

using namespace nanobind::literals;

namespace spikeformers {

void bind_steps(nb::class_<Engine>& program) {
  program
      .def("join",
           [](Engine& e, int in, int to, const std::string& how) {
             const auto chosen = named<Joining>(
                 how, {{"set", Joining::set}, {"add", Joining::add}, {"or", Joining::either}});
             alone(e.program, [&] { e.program.join(in, to, chosen); });
           },
           "input"_a, "to"_a, "how"_a)
      .def("layer", [](Engine& e, int number) { alone(e.program, [&] { e.program.layer(number); }); }, "number"_a)
      .def("shift", [](Engine& e, int to, std::int64_t moved) { alone(e.program, [&] { e.program.shift(to, moved); }); },
           "to"_a, "moved"_a)
      .def("recount", [](Engine& e, int in, int out) { alone(e.program, [&] { e.program.recount(in, out); }); },
           "input"_a, "out"_a)
      .def("rate",
           [](Engine& e, int in, int out, int steps, const std::string& type, int levels, float unit,
              float decay, float threshold, float ratio, const std::string& reset, float step,
              float dead_zone, float gain, bool sign) {
             const Neuron neuron =
                 neuron_of(type, levels, unit, decay, threshold, ratio, reset, step, dead_zone, gain, sign);
             alone(e.program, [&] { e.program.rate(in, out, neuron, steps); });
           },
           "input"_a, "out"_a, "steps"_a, "type"_a, "levels"_a, "unit"_a, "decay"_a, "threshold"_a,
           "ratio"_a, "reset"_a, "step"_a = 1.0f, "dead_zone"_a = 0.0f, "gain"_a = 1.0f, "signed"_a = false)
      .def("edges",
           [](Engine& e, int query, int key, int value, int out, int heads, float decay,
              const Reals& scale, const Reals& threshold, const std::optional<Reals>& bias) {
             const Vector by = vector_of(scale), bar = vector_of(threshold), added = vector_of(bias);
             alone(e.program, [&] { e.program.edges(query, key, value, out, heads, decay, by, bar, added); });
             e.held.push_back(nb::cast(scale));
             e.held.push_back(nb::cast(threshold));
             e.hold(bias);
           },
           "query"_a, "key"_a, "value"_a, "out"_a, "heads"_a, "decay"_a, "scale"_a, "threshold"_a,
           "bias"_a.none())
      .def("pair",
           [](Engine& e, int in, int out, std::int64_t offset, const Reals& value, int largest,
              bool sign, bool counts) {
             const Vector spike = vector_of(value);
             alone(e.program, [&] { e.program.pair(in, out, offset, spike, largest, sign, counts); });
             e.held.push_back(nb::cast(value));
           },
           "input"_a, "out"_a, "offset"_a, "spike"_a, "largest"_a, "sign"_a, "counts"_a)
      .def("activate",
           [](Engine& e, int to, const std::string& kind) {
             const Activation chosen = activation_of(kind);
             alone(e.program, [&] { e.program.activate(to, chosen); });
           },
           "to"_a, "kind"_a)
      .def("soft_cap", [](Engine& e, int to, float cap) { alone(e.program, [&] { e.program.soft_cap(to, cap); }); },
           "to"_a, "cap"_a)
      .def("multiply", [](Engine& e, int in, int to) { alone(e.program, [&] { e.program.multiply(in, to); }); },
           "input"_a, "to"_a)
      .def("scale",
           [](Engine& e, int to, const Reals& scale) {
             const Vector by = vector_of(scale);
             alone(e.program, [&] { e.program.scale(to, by); });
             e.held.push_back(nb::cast(scale));
           },
           "to"_a, "scale"_a)
      .def("rotate",
           [](Engine& e, int to, std::int64_t offset, int heads, std::int64_t width,
              const Reals& frequency, float factor) {
             const Vector turns = vector_of(frequency);
             alone(e.program, [&] { e.program.rotate(to, offset, heads, width, turns, factor); });
             e.held.push_back(nb::cast(frequency));
           },
           "to"_a, "offset"_a, "heads"_a, "width"_a, "frequency"_a, "factor"_a)
      .def("group_norm",
           [](Engine& e, int in, int out, const Reals& gain, float eps) {
             const Vector by = vector_of(gain);
             alone(e.program, [&] { e.program.group_norm(in, out, by, eps); });
             e.held.push_back(nb::cast(gain));
           },
           "input"_a, "out"_a, "gain"_a, "eps"_a)
      .def("encode",
           [](Engine& e, int in, int out, std::int64_t offset, const std::string& kind,
              const std::optional<Reals>& gain, const std::optional<Reals>& shift, float eps, int steps,
              float reach, float dead_zone, bool power_of_two) {
             const NormKind chosen = norm_of(kind);
             const Vector by = vector_of(gain), moved = vector_of(shift);
             alone(e.program, [&] {
               e.program.encode(in, out, offset, chosen, by, moved, eps, steps, reach, dead_zone, power_of_two);
             });
             e.hold(gain);
             e.hold(shift);
           },
           "input"_a, "out"_a, "offset"_a, "kind"_a, "gain"_a.none(), "shift"_a.none(), "eps"_a, "steps"_a,
           "reach"_a, "dead_zone"_a, "power_of_two"_a)
      .def("mix",
           [](Engine& e, int query, int key, int value, int out, int heads, int kv_heads,
              const std::string& rule, int winners, float weight, const Reals& scale, int largest, bool half,
              std::int64_t window, int digits) {
             const Rule chosen = rule_of(rule);
             const Vector by = vector_of(scale);
             alone(e.program, [&] {
               e.program.mix(query, key, value, out, heads, kv_heads, chosen, winners, weight, digits, by, largest, half, window);
             });
             e.held.push_back(nb::cast(scale));
           },
           "query"_a, "key"_a, "value"_a, "out"_a, "heads"_a, "kv_heads"_a, "rule"_a, "winners"_a,
           "weight"_a, "scale"_a, "largest"_a, "half"_a, "window"_a = 0, "digits"_a = 1);
}

}  // namespace spikeformers
