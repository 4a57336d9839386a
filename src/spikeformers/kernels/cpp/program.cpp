// How a program is put together and checked; run.cpp runs it.
#include "program.hpp"
#include "steps.hpp"

namespace spikeformers {
namespace {

void require_weights(const Weights& w, const std::string& what) {
  const int kinds = (w.f32 != nullptr) + (w.i8 != nullptr) + (w.i4 != nullptr);
  const bool scaled = w.f32 != nullptr ? w.scale == nullptr : (w.scale != nullptr) != w.grouped();
  require(kinds == 1 && scaled && (!w.grouped() || (w.i4 != nullptr && w.group_minimum != nullptr)),
          what + ": weights are fp32, or int8 or int4 with a scale, or int4 with scales and minima of groups");
  // 255 * 64 a product: 32-bit sums hold this many.
  require(w.inputs <= 131072 || w.f32 != nullptr, what + ": more inputs than a whole sum holds");
}

const char* name_of(Holds holds) {
  return holds == Holds::reals ? "reals" : holds == Holds::spikes ? "spikes" : "counts with a unit per token";
}

}  // namespace

std::vector<BiasLine> bias_lines(Vector bias, int heads, const std::string& what) {
  require(bias.data == nullptr || (bias.n > 0 && bias.n % heads == 0),
          what + ": the relative bias does not divide into heads");
  for (std::int64_t i = 0; i < bias.n; ++i)
    if (!between(bias.data[i], -kMaxBias, kMaxBias))
      throw std::invalid_argument(what + ": a relative bias is not finite, or beyond 2^100");
  std::vector<BiasLine> lines;
  for (int h = 0; h < heads; ++h)
    lines.emplace_back(bias.data == nullptr ? nullptr : bias.data + h * (bias.n / heads),
                       bias.n / heads);
  return lines;
}

void Buffer::resize(std::int64_t wanted) {
  const auto size = static_cast<std::size_t>(wanted * width);
  const auto grow = [](auto& values, std::size_t least) {
    if (values.size() < least) values.resize(least);
  };
  if (holds == Holds::reals) {
    grow(real, size);
  } else {
    grow(count, size);
    grow(fired, static_cast<std::size_t>(wanted));
    if (is_listed || holds == Holds::counts) grow(index, size);
    if (is_listed) grow(listed, size);
  }
  if (holds == Holds::counts) {
    for (auto* each : {&far_index, &far_count}) grow(*each, static_cast<std::size_t>(wanted * far_width));
    grow(far, static_cast<std::size_t>(wanted));
    grow(unit, static_cast<std::size_t>(wanted));
  }
  rows = wanted;  // last: where memory runs out, the old ones are still there
}

Sequence::Sequence(const Program& program)
    : program_(&program),
      bits_(static_cast<std::size_t>(program.slots_ * program.steps)),
      sums_(static_cast<std::size_t>(program.slots_ * program.steps)),
      rows_(static_cast<std::size_t>(program.slots_ * program.steps)),
      last_(static_cast<std::size_t>(program.shifts_ * program.steps)) {
  for (const Step& step : program.steps_) {
    if (const auto* edges = std::get_if<Edges>(&step)) {
      const Buffer& key = program.buffer(edges->key);
      for (int s = 0; s < program.steps; ++s)
        bits_[static_cast<std::size_t>(edges->slot * program.steps + s)] = std::make_unique<BitCache>(
            edges->heads, static_cast<int>(key.width / edges->heads), Planes::of(key.neuron),
            Planes::of(program.buffer(edges->value).neuron));
    }
    if (const auto* mix = std::get_if<Mix>(&step)) {
      const auto width = static_cast<int>(program.buffer(mix->key).width / mix->kv_heads);
      const auto slot = static_cast<std::size_t>(mix->slot * program.steps);
      if (mix->rule == Rule::ssa)
        sums_[slot] = std::make_unique<SumCache>(mix->kv_heads, width);
      else
        rows_[slot] = std::make_unique<RowCache>(mix->type, mix->kv_heads, width);
    }
    if (const auto* shift = std::get_if<Shift>(&step))
      for (int s = 0; s < program.steps; ++s)
        last_[static_cast<std::size_t>(shift->slot * program.steps + s)].resize(
            static_cast<std::size_t>(shift->moved));
    const auto* attend = std::get_if<Attend>(&step);
    if (attend == nullptr) continue;
    const Buffer& key = program.buffer(attend->key);
    const auto width = static_cast<int>(key.width / attend->heads);
    for (int s = 0; s < program.steps; ++s) {
      const auto slot = static_cast<std::size_t>(attend->slot * program.steps + s);
      if (attend->rule == Rule::ssa)
        sums_[slot] = std::make_unique<SumCache>(attend->heads, width);
      else
        bits_[slot] = std::make_unique<BitCache>(attend->heads, width, Planes::of(key.neuron),
                                                 Planes::of(program.buffer(attend->value).neuron));
    }
  }
}

std::unique_ptr<Sequence> Sequence::fork() const {
  require(!broken_, "a sequence whose last call failed half-way: begin a new one");
  auto twin = std::make_unique<Sequence>(*program_);
  const auto copy = [](const auto& from, auto& to) {
    for (std::size_t i = 0; i < from.size(); ++i)
      if (from[i]) *to[i] = *from[i];
  };
  copy(bits_, twin->bits_);
  copy(sums_, twin->sums_);
  copy(rows_, twin->rows_);
  twin->last_ = last_;
  twin->tokens_ = tokens_;
  return twin;
}

std::int64_t Sequence::bytes() const {
  std::int64_t total = 0;
  for (const auto& cache : bits_) total += cache ? cache->bytes() : 0;
  for (const auto& cache : rows_) total += cache ? cache->bytes() : 0;
  for (const auto& spikes : last_) total += static_cast<std::int64_t>(spikes.size());
  for (const auto& cache : sums_)
    total += cache ? static_cast<std::int64_t>(cache->sum.size() * sizeof(std::int64_t)) : 0;
  return total;
}

Program::Program(const Kernels& chosen, int threads, int simulation_steps, std::int64_t words)
    : kernels(chosen), pool(threads), steps(simulation_steps), vocabulary(words) {
  require(steps >= 1 && steps <= 1024, "simulation steps must be 1 to 1024");
  require(vocabulary >= 1 && vocabulary <= INT32_MAX, "the vocabulary must have 1 to 2^31 - 1 tokens");
}

int Program::real(std::int64_t width) {
  require(width >= 1 && width <= INT32_MAX, "a buffer's width must be 1 to 2^31 - 1");
  require(!finished(), "the program is finished: no buffer can be added");
  buffers_.push_back(std::make_unique<Buffer>());
  buffers_.back()->width = width;
  return static_cast<int>(buffers_.size()) - 1;
}

int Program::spikes(std::int64_t width, const Neuron& neuron) {
  check_neuron(neuron);
  const int id = real(width);
  buffers_.back()->holds = Holds::spikes;
  buffers_.back()->neuron = neuron;
  return id;
}

int Program::counts(std::int64_t width) {
  require(width <= kMaxTokenInputs, "counts: more inputs than a whole sum of token counts holds");
  const int id = real(width);
  buffers_.back()->holds = Holds::counts;
  return id;
}

const Buffer& Program::buffer(int id) const {
  require(id >= 0 && static_cast<std::size_t>(id) < buffers_.size(), "no such buffer");
  return *buffers_[static_cast<std::size_t>(id)];
}

Buffer& Program::at(int id, const char* what) {
  if (id < 0 || static_cast<std::size_t>(id) >= buffers_.size())
    throw std::invalid_argument(std::string(what) + ": no such buffer");
  return *buffers_[static_cast<std::size_t>(id)];
}

Buffer& Program::output(int id, Holds wanted, const char* what) {
  Buffer& given = at(id, what);
  require(!finished(), std::string(what) + ": the program is finished");
  require(given.holds == wanted, std::string(what) + ": gives " + name_of(wanted) + ", not " + name_of(given.holds));
  return given;
}

const Buffer& Program::input(int id, Holds wanted, const char* what) {
  const Buffer& given = at(id, what);
  require(!finished(), std::string(what) + ": the program is finished");
  require(given.holds == wanted, std::string(what) + ": takes " + name_of(wanted) + ", not " + name_of(given.holds));
  require(given.written, std::string(what) + ": reads a buffer that no step has written");
  return given;
}

void Program::check_norm(const char* what, NormKind kind, Vector gain, Vector shift, float eps,
                         std::int64_t width) const {
  const std::string name = what;
  require(between(eps, 0.0f, 1.0f), name + ": the norm's eps must be 0 to 1");
  if (kind != NormKind::none)
    require(gain.n == width, name + ": the norm's weight" + sizes(gain.n, width));
  if (kind == NormKind::layer)
    require(shift.n == width, name + ": the norm's bias" + sizes(shift.n, width));
  // A neuron after it would be silent about NaN.
  require(kind == NormKind::none || all_finite(gain.data, width), name + ": the norm's weight is not finite");
  require(kind != NormKind::layer || all_finite(shift.data, width), name + ": the norm's bias is not finite");
}

void Program::embed(int out, const Weights& table, bool by_column, Vector where) {
  Buffer& to = output(out, Holds::reals, "embed");
  require((by_column ? table.inputs : table.outputs) == to.width &&
              (by_column ? table.outputs : table.inputs) == vocabulary,
          "embed: the table is not vocabulary x width");
  require_weights(table, "embed");
  require(!table.grouped(), "embed: a table is not of int4 in groups");
  if (where.data != nullptr) {
    require(where.n > 0 && where.n % to.width == 0, "embed: positions are not a whole number of rows");
    const std::int64_t rows = where.n / to.width;
    positions = positions < 0 ? rows : std::min(positions, rows);
  }
  wrote(to, steps, false);
  steps_.emplace_back(Embed{out, table, by_column, where});
}

void Program::select(int in, int out) {
  const Buffer& from = input(in, Holds::reals, "select");
  Buffer& to = output(out, Holds::reals, "select");
  require(from.width == to.width, "select: widths differ");
  require(in != out && !from.selected, "select: it was selected before");
  wrote(to, 1, true);
  steps_.emplace_back(Select{in, out});
}

void Program::norm(int in, int out, std::int64_t offset, NormKind kind, Vector gain, Vector shift,
                   float eps) {
  const Buffer& from = input(in, Holds::reals, "norm");
  Buffer& to = output(out, Holds::reals, "norm");
  require(offset >= 0 && offset <= from.width - to.width, "norm: it reads past its input");
  check_norm("norm", kind, gain, shift, eps, to.width);
  wrote(to, from.steps, from.selected);
  steps_.emplace_back(Norm{in, out, offset, kind, gain, shift, eps});
}

void Program::fire(int in, int out, std::int64_t offset, NormKind kind, Vector gain, Vector shift,
                   float eps) {
  const Buffer& from = input(in, Holds::reals, "fire");
  Buffer& to = output(out, Holds::spikes, "fire");
  require(offset >= 0 && offset <= from.width - to.width, "fire: it reads past its input");
  check_norm("fire", kind, gain, shift, eps, to.width);
  wrote(to, from.steps, from.selected);
  steps_.emplace_back(Fire{in, out, offset, kind, gain, shift, eps});
}

void Program::linear(int in, int out, const Weights& weights, Vector bias) {
  const Buffer& from = input(in, at(in, "linear").holds, "linear");
  Buffer& to = output(out, Holds::reals, "linear");
  require(in != out, "linear: it cannot write what it reads");
  require(from.width == weights.inputs && to.width == weights.outputs,
          "linear: a matrix of " + std::to_string(weights.inputs) + " x " +
              std::to_string(weights.outputs) + " between widths " + std::to_string(from.width) +
              " and " + std::to_string(to.width));
  require_weights(weights, "linear");
  require(from.holds != Holds::counts || weights.i4 == nullptr || weights.grouped(),
          "linear: counts with a unit per token take weights of fp32, int8, or int4 in groups");
  require(from.holds != Holds::spikes || !weights.grouped(),
          "linear: spikes of one unit take weights of fp32, int8, or int4 with a scale per output");
  require(bias.data == nullptr || bias.n == to.width, "linear: the bias" + sizes(bias.n, to.width));
  wrote(to, from.steps, from.selected);
  if (from.holds == Holds::spikes) list(at(in, "linear"), weights.i8 != nullptr);
  steps_.emplace_back(Linear{in, out, weights, bias, sweeps_.size()});
  sweeps_.emplace_back();
}

// From now on the buffer lists what fired, as a product with these weights takes it.
void Program::list(Buffer& spikes, bool whole_bytes) {
  spikes.is_listed = true;
  spikes.below_first = spikes.below_first || (whole_bytes && has_sign(spikes.neuron));
  if (spikes.rows == 0) return;
  spikes.resize(spikes.rows);
  collect(spikes, false);  // it was filled before
}

void Program::add(int in, int to) {
  const Buffer &from = input(in, Holds::reals, "add"), &sum = input(to, Holds::reals, "add");
  require(from.width == sum.width, "add: widths differ");
  require(from.steps == sum.steps && from.selected == sum.selected, "add: rows differ");
  at(to, "add").counts = 0;
  steps_.emplace_back(Add{in, to});
}

void Program::finish(int logits) {
  const Buffer& last = input(logits, Holds::reals, "logits");
  require(last.width == vocabulary, "logits: their width is not the vocabulary's");
  require(last.selected, "logits: they come after select");
  require(logits_ < 0, "the program is finished");
  logits_ = logits;
}

void Program::fill(int id, const std::int8_t* count, std::int64_t rows, int over) {
  Buffer& to = output(id, Holds::spikes, "fill");
  wrote(to, over, false);
  to.resize(rows);
  std::copy_n(count, rows * to.width, to.count.data());
  collect(to, true);
}

void Program::fill(int id, const float* real, std::int64_t rows, std::int64_t counts) {
  Buffer& to = output(id, Holds::reals, "fill");
  wrote(to, 1, false);
  to.counts = counts;
  to.resize(rows);
  std::copy_n(real, rows * to.width, to.real.data());
}

}  // namespace spikeformers
