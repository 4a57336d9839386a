// Counts of one token: taken from the buffers after each step, so that no step knows of them and all
// instruction sets give the same. The sums over tokens are those of Program::counters.
#include <algorithm>
#include <type_traits>

#include "steps.hpp"

namespace spikeformers {
namespace {

// Heads times simulation steps of an attention that has winners; 0 of any other step.
std::int64_t winner_lists(const Step& step, int steps) {
  const auto wins = [](Rule rule) { return rule == Rule::winners || rule == Rule::powers; };
  if (const auto* attend = std::get_if<Attend>(&step))
    return wins(attend->rule) ? std::int64_t{attend->heads} * steps : 0;
  if (const auto* mix = std::get_if<Mix>(&step)) return wins(mix->rule) ? mix->heads : 0;
  return 0;
}

int heads_of(const Step& step) {
  const auto* attend = std::get_if<Attend>(&step);
  return attend != nullptr ? attend->heads : std::get<Mix>(step).heads;
}

int slot_of(const Step& step) {
  const auto* attend = std::get_if<Attend>(&step);
  return attend != nullptr ? attend->slot : std::get<Mix>(step).slot;
}

// Entries of a row that are not zero.
std::int64_t active(const Buffer& buffer, std::int64_t row) {
  if (buffer.holds == Holds::spikes) return buffer.fired[static_cast<std::size_t>(row)];
  if (buffer.holds == Holds::counts)
    return buffer.fired[static_cast<std::size_t>(row)] + buffer.far[static_cast<std::size_t>(row)];
  const float* x = buffer.real.data() + row * buffer.width;
  return buffer.width - std::count(x, x + buffer.width, 0.0f);
}

}  // namespace

void Program::layer(int number) {
  require(!finished(), "layer: the program is finished");
  require(number >= -1 && number <= layers_, "layer: layers are numbered from 0 as they come; -1 is none");
  layers_ = std::max(layers_, number + 1);
  layer_marks_.emplace_back(steps_.size(), number);
}

int Program::layer_of(std::size_t step) const {
  const auto after = std::upper_bound(layer_marks_.begin(), layer_marks_.end(), step,
                                      [](std::size_t at, const auto& mark) { return at < mark.first; });
  return after == layer_marks_.begin() ? -1 : std::prev(after)->second;
}

void Program::keep_details(Sequence& sequence) const {
  require(sequence.program_ == this, "a sequence of another program");
  auto details = std::make_unique<Details>();
  details->layers.resize(static_cast<std::size_t>(layers_));
  details->winners.resize(static_cast<std::size_t>(slots_));
  for (const Step& step : steps_)
    if (const std::int64_t lists = winner_lists(step, steps); lists > 0)
      details->winners[static_cast<std::size_t>(slot_of(step))].resize(static_cast<std::size_t>(lists));
  sequence.details_ = std::move(details);
}

DetailsRead Program::details(const Sequence& sequence) const {
  require(sequence.program_ == this, "a sequence of another program");
  require(sequence.details_ != nullptr, "a sequence that keeps no details: keep_details() makes it");
  require(!sequence.broken_, "a sequence whose last call failed half-way: begin a new one");
  DetailsRead read{*sequence.details_, {}};
  read.winners.resize(static_cast<std::size_t>(layers_));
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const int layer = layer_of(i);
    if (layer < 0 || winner_lists(steps_[i], steps) == 0) continue;
    const auto& lists = read.details.winners[static_cast<std::size_t>(slot_of(steps_[i]))];
    const auto heads = static_cast<std::size_t>(heads_of(steps_[i]));
    std::vector<Winners> merged(heads);
    for (std::size_t list = 0; list < lists.size(); ++list)
      for (const std::int64_t token : lists[list])
        if (Winners& head = merged[list % heads]; std::find(head.begin(), head.end(), token) == head.end())
          head.push_back(token);
    auto& of_layer = read.winners[static_cast<std::size_t>(layer)];
    if (!of_layer) of_layer.emplace();
    of_layer->insert(of_layer->end(), merged.begin(), merged.end());
  }
  return read;
}

void Program::begin_details(const Frame& frame) {
  for (Sequence* one : frame.sequence) {
    if (one->details_ == nullptr) continue;
    one->details_->outside = {};
    std::fill(one->details_->layers.begin(), one->details_->layers.end(), Cost{});
  }
  for (Sequence* one : frame.sequence)
    if (one->details_ != nullptr) ++one->details_->tokens;
}

void Program::count_details(std::size_t i, const Frame& frame) {
  const int layer = layer_of(i);
  const auto tokens = static_cast<std::int64_t>(frame.token.size());
  // cost(row) for each row of a buffer, to the sequence of its token.
  const auto each = [&](const Buffer& buffer, const auto& cost) {
    for (std::int64_t row = 0; row < buffer.rows; ++row) {
      const std::int64_t token =
          buffer.selected ? frame.wanted[static_cast<std::size_t>(row)] : row % tokens;
      const Sequence& sequence = *frame.sequence[static_cast<std::size_t>(token)];
      if (sequence.details_ == nullptr) continue;
      const Cost added = cost(row);
      Details& to = *sequence.details_;
      to.total += added;
      if (frame.position[static_cast<std::size_t>(token)] != sequence.tokens_ - 1) continue;
      (layer < 0 ? to.outside : to.layers[static_cast<std::size_t>(layer)]) += added;
    }
  };
  std::visit(
      [&](const auto& step) {
        using T = std::decay_t<decltype(step)>;
        if constexpr (std::is_same_v<T, Fire> || std::is_same_v<T, Rate> || std::is_same_v<T, Encode> ||
                      std::is_same_v<T, Pair>) {
          const Buffer& out = at(step.out, "details");
          each(out, [&](std::int64_t row) { return Cost{out.width, active(out, row), 0}; });
        } else if constexpr (std::is_same_v<T, Linear>) {
          const Buffer& in = at(step.in, "details");
          const bool every = in.holds == Holds::reals && step.weights.grouped();  // zeros are not left out
          each(in, [&](std::int64_t row) {
            return Cost{0, 0, (every ? in.width : active(in, row)) * step.weights.row_bytes()};
          });
        }
      },
      steps_[i]);
}

}  // namespace spikeformers
