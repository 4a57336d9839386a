// The Python face of the steps that only some architectures take.
#include "binding.hpp"

using namespace nanobind::literals;

namespace spikeformers {

void bind_steps(nb::class_<Engine>& program) {
  program
      .def("join",
           [](Engine& e, int in, int to, const std::string& how) {
             e.program.join(in, to, named<Joining>(how, {{"set", Joining::set},
                                                         {"add", Joining::add},
                                                         {"or", Joining::either}}));
           },
           "input"_a, "to"_a, "how"_a)
      .def("recount", [](Engine& e, int in, int out) { e.program.recount(in, out); }, "input"_a, "out"_a)
      .def("rate",
           [](Engine& e, int in, int out, int steps, const std::string& type, int levels, float unit,
              float decay, float threshold, float ratio, const std::string& reset) {
             e.program.rate(in, out, neuron_of(type, levels, unit, decay, threshold, ratio, reset), steps);
           },
           "input"_a, "out"_a, "steps"_a, "type"_a, "levels"_a, "unit"_a, "decay"_a, "threshold"_a,
           "ratio"_a, "reset"_a)
      .def("edges",
           [](Engine& e, int query, int key, int value, int out, int heads, float decay,
              const Reals& scale, const Reals& threshold, const std::optional<Reals>& bias) {
             e.program.edges(query, key, value, out, heads, decay, vector_of(scale),
                             vector_of(threshold), vector_of(bias));
             e.held.push_back(nb::cast(scale));
             e.held.push_back(nb::cast(threshold));
             e.hold(bias);
           },
           "query"_a, "key"_a, "value"_a, "out"_a, "heads"_a, "decay"_a, "scale"_a, "threshold"_a,
           "bias"_a.none());
}

}  // namespace spikeformers
