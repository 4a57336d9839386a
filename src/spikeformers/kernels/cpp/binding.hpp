// What the files of the Python face share: arrays as views, names as values, and the program with
// the arrays that it points into.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <mutex>
#include <optional>

#include "limits.hpp"
#include "paths.hpp"
#include "program.hpp"

namespace spikeformers {

namespace nb = nanobind;

using Reals = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
// Of any type, which is checked: a type given here would turn an array of others into it, and wrap.
using Matrix = nb::ndarray<nb::ndim<2>, nb::ro, nb::c_contig, nb::device::cpu>;
using Counts = Matrix;
using Halves = nb::ndarray<const std::uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T> owned(std::vector<T>&& values, std::vector<std::size_t> shape) {
  auto* held = new std::vector<T>(std::move(values));
  nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(held->data(), shape.size(), shape.data(), owner);
}

inline std::vector<float> reals_of(const Program& program, int id) {
  const Buffer& buffer = program.buffer(id);
  return {buffer.real.begin(), buffer.real.begin() + static_cast<std::ptrdiff_t>(buffer.rows * buffer.width)};
}

// Counts from `least` to `most`, the range of a neuron.
inline const std::int8_t* counts_of(const Counts& array, int least, int most, const std::string& what) {
  require(array.dtype() == nb::dtype<std::int8_t>(), what + ": counts must be int8");
  const auto* count = static_cast<const std::int8_t*>(array.data());
  for (std::size_t i = 0; i < array.size(); ++i)
    if (count[i] < least || count[i] > most)
      throw std::invalid_argument(what + ": a count of " + std::to_string(count[i]) + " is not within " +
                                  std::to_string(least) + " to " + std::to_string(most));
  return count;
}

// What `work` returns, with nobody else inside the program meanwhile, and without Python's lock.
template <class Work>
auto alone(const Program& program, const Work& work) {
  nb::gil_scoped_release free;
  const std::lock_guard<std::mutex> lock(program.busy());
  return work();
}

inline void require_aligned(const void* data) {
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(float) != 0)
    throw std::invalid_argument("an array of floats is not aligned to them");
}

inline Vector vector_of(const std::optional<Reals>& array) {
  if (!array) return {};
  require_aligned(array->data());
  return {array->data(), static_cast<std::int64_t>(array->size())};
}

inline Weights weights_of(const Matrix& matrix, const std::optional<Reals>& scale, bool by_column_scale) {
  Weights w;
  w.inputs = static_cast<std::int64_t>(matrix.shape(0));
  w.outputs = static_cast<std::int64_t>(matrix.shape(1));
  if (matrix.dtype() == nb::dtype<float>()) {
    require_aligned(matrix.data());
    w.f32 = static_cast<const float*>(matrix.data());
    if (scale) throw std::invalid_argument("fp32 weights take no scale");
    return w;
  }
  const bool four = matrix.dtype() == nb::dtype<std::uint8_t>();
  if (!four && matrix.dtype() != nb::dtype<std::int8_t>())
    throw std::invalid_argument("weights must be float32, int8, or int4 in uint8");
  if (!scale)
    throw std::invalid_argument(std::string(four ? "int4" : "int8") + " weights need a scale");
  const auto scales = static_cast<std::int64_t>(scale->size());
  const auto* data = static_cast<const std::int8_t*>(matrix.data());
  if (four) {
    if (!by_column_scale || w.outputs != (scales + 63) / 64 * 32)
      throw std::invalid_argument("int4 weights have 32 bytes a row for each 64 scales");
    w.i4 = data;
    w.outputs = scales;
  } else {
    w.i8 = data;
    const std::int64_t wanted = by_column_scale ? w.outputs : w.inputs;
    if (scales != wanted)
      throw std::invalid_argument("the scale of int8 weights has " + std::to_string(scales) +
                                  " entries, not " + std::to_string(wanted));
  }
  require_aligned(scale->data());
  w.scale = scale->data();
  return w;
}

// Weights of a linear step: as weights_of, or int4 with the scales and minima of its groups.
inline Weights linear_weights_of(const Matrix& matrix, const std::optional<Reals>& scale,
                                 const std::optional<Halves>& group_scale, const std::optional<Halves>& minimum) {
  if (!group_scale && !minimum) return weights_of(matrix, scale, true);
  require(group_scale && minimum && !scale && matrix.dtype() == nb::dtype<std::uint8_t>(),
          "int4 in groups has weights in uint8, scales and minima of its groups, and no other scale");
  Weights w;
  w.i4 = static_cast<const std::int8_t*>(matrix.data());
  w.inputs = static_cast<std::int64_t>(matrix.shape(0));
  w.outputs = static_cast<std::int64_t>(group_scale->shape(1));
  const auto groups = static_cast<std::size_t>((w.inputs + kGroup - 1) / kGroup);
  for (const Halves* each : {&*group_scale, &*minimum})
    require(each->shape(0) == groups && static_cast<std::int64_t>(each->shape(1)) == w.outputs,
            "int4 in groups has a scale and a minimum for each 32 inputs and each output");
  require(static_cast<std::int64_t>(matrix.shape(1)) == (w.outputs + 63) / 64 * 32,
          "int4 weights have 32 bytes a row for each 64 outputs");
  for (const Halves* each : {&*group_scale, &*minimum})
    if (reinterpret_cast<std::uintptr_t>(each->data()) % alignof(std::uint16_t) != 0)
      throw std::invalid_argument("an array of halves is not aligned to them");
  w.group_scale = group_scale->data();
  w.group_minimum = minimum->data();
  return w;
}

template <class E>
E named(const std::string& name, std::initializer_list<std::pair<const char*, E>> known) {
  for (const auto& [spelled, value] : known)
    if (name == spelled) return value;
  throw std::invalid_argument("'" + name + "' is unknown to the engine");
}

inline Neuron neuron_of(const std::string& type, int levels, float unit, float decay, float threshold,
                 float ratio, const std::string& reset, float step = 1.0f, float dead_zone = 0.0f,
                 float gain = 1.0f, bool sign = false) {
  Neuron neuron;
  neuron.type = named<SpikeType>(type, {{"binary", SpikeType::binary},
                                        {"integer", SpikeType::integer},
                                        {"ternary", SpikeType::ternary}});
  neuron.levels = levels;
  neuron.unit = unit;
  neuron.decay = decay;
  neuron.threshold = threshold;
  neuron.ratio = ratio;
  neuron.reset = named<Reset>(
      reset, {{"soft", Reset::soft}, {"hard", Reset::hard}, {"delayed", Reset::delayed}});
  neuron.step = step;
  neuron.dead_zone = dead_zone;
  neuron.gain = gain;
  neuron.sign = sign;
  check_neuron(neuron);
  return neuron;
}

inline NormKind norm_of(const std::string& name) {
  return named<NormKind>(
      name, {{"none", NormKind::none}, {"layer", NormKind::layer}, {"rms", NormKind::rms}});
}

inline Activation activation_of(const std::string& name) {
  return named<Activation>(name, {{"relu", Activation::relu},
                                  {"silu", Activation::silu},
                                  {"gelu_tanh", Activation::gelu_tanh},
                                  {"gelu_erf", Activation::gelu_erf},
                                  {"quick_gelu", Activation::quick_gelu}});
}

inline Rule rule_of(const std::string& name) {
  return named<Rule>(name, {{"winners", Rule::winners},
                            {"sparsemax", Rule::sparsemax},
                            {"softmax", Rule::softmax},
                            {"powers", Rule::powers},
                            {"ssa", Rule::ssa}});
}

// The mean of `repeats` runs, without Python's lock.
template <class Work>
double seconds_of(int repeats, const Work& work) {
  nb::gil_scoped_release free;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) work();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return took.count() / repeats;
}

// Keeps the arrays that its program points into.
struct Engine {
  Engine(const std::string& path, int threads, int steps, std::int64_t vocabulary)
      : program(*choose_path(path).kernels, threads, steps, vocabulary) {}

  template <class Array>
  void hold(const std::optional<Array>& array) {
    if (array) held.push_back(nb::cast(*array));
  }

  Program program;
  std::vector<nb::object> held;
};

// Steps that only some architectures take (module_steps.cpp).
void bind_steps(nb::class_<Engine>& program);
// Their kernels by themselves: what tests call (module_kernels.cpp).
void bind_kernels(nb::module_& m);

}  // namespace spikeformers
