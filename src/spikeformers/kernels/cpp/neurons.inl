// Norms and neurons of one row, for body.inl, which includes this once for each instruction set.

constexpr std::int64_t kTogether = 32;  // values of a row that go through a stage at a time

struct Moments {
  double mean, variance;
};

// Eight sums in double: the same bits on every path, and closer than any order in float.
SPIKEFORMERS_INLINE Moments moments_of(NormKind kind, const float* x, std::int64_t n) {
  double part[8] = {};
  double mean = 0.0;
  std::int64_t i = 0;
  if (kind == NormKind::layer) {
    for (; i + 8 <= n; i += 8)
      for (int k = 0; k < 8; ++k) part[k] += x[i + k];
    for (; i < n; ++i) part[0] += x[i];
    for (int k = 0; k < 8; ++k) mean += part[k];
    mean /= static_cast<double>(n);
  }
  for (int k = 0; k < 8; ++k) part[k] = 0.0;
  for (i = 0; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) part[k] += (x[i + k] - mean) * (x[i + k] - mean);
  for (; i < n; ++i) part[0] += (x[i] - mean) * (x[i] - mean);
  double variance = 0.0;
  for (int k = 0; k < 8; ++k) variance += part[k];
  return {mean, variance / static_cast<double>(n)};
}

// What a norm does to each value of a row.
struct Applied {
  NormKind kind;
  const float *gain, *shift;
  float centre, factor;
  bool finite;  // of a row without a norm not known yet
};

SPIKEFORMERS_INLINE Applied applied_to(const Normaliser& norm, const float* x, std::int64_t n) {
  Applied to{norm.kind, norm.gain, norm.shift, 0.0f, 1.0f, true};
  if (norm.kind == NormKind::none) return to;
  const Moments moments = moments_of(norm.kind, x, n);
  to.centre = static_cast<float>(moments.mean);
  to.factor = static_cast<float>(1.0 / __builtin_sqrt(moments.variance + norm.eps));
  // One value spoils the sum.
  to.finite = __builtin_isfinite(moments.variance) && __builtin_isfinite(to.factor);
  return to;
}

// out[0..n) of the values from `first` on.
SPIKEFORMERS_INLINE void apply(const Applied& norm, const float* x, std::int64_t first, std::int64_t n, float* out) {
  const float centre = norm.centre, factor = norm.factor;
  x += first;
  if (norm.kind == NormKind::none) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = x[i];
    return;
  }
  const float* gain = norm.gain + first;
  if (norm.kind == NormKind::rms) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * factor * gain[i];
    return;
  }
  const float* shift = norm.shift + first;
  for (std::int64_t i = 0; i < n; ++i) out[i] = (x[i] - centre) * factor * gain[i] + shift[i];
}

// Whether all values so far are finite: a value at a time to each of some lanes, which compilers make
// vectors of.
struct Finite {
  alignas(64) std::int32_t most[kTogether] = {};  // the largest, by its bits without the sign

  SPIKEFORMERS_MEMBER void add(const float* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      std::int32_t bits;
      __builtin_memcpy(&bits, x + i, sizeof bits);
      bits &= 0x7fffffff;
      most[i] = bits > most[i] ? bits : most[i];
    }
  }
  SPIKEFORMERS_MEMBER bool all() const {
    std::int32_t top = 0;
    for (const std::int32_t each : most) top = each > top ? each : top;
    return top < 0x7f800000;
  }
};

bool norm(NormKind kind, const float* x, std::int64_t n, const float* gain, const float* shift, float eps,
          float* out) {
  const Applied applied = applied_to({kind, gain, shift, eps}, x, n);
  apply(applied, x, 0, n, out);
  if (kind != NormKind::none) return applied.finite;
  Finite fine;
  std::int64_t i = 0;
  for (; i + kTogether <= n; i += kTogether) fine.add(x + i, kTogether);
  fine.add(x + i, n - i);
  return fine.all();
}

// ---- neurons -----------------------------------------------------------------------------------

// Nearest whole number, halves to even, of 0 <= u < 2^22.
SPIKEFORMERS_INLINE float nearest(float u) {
  constexpr float big = 12582912.0f;  // 1.5 * 2^23: its neighbours are whole numbers
  return (u + big) - big;
}

SPIKEFORMERS_INLINE bool is_power_of_two(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return (bits & 0x007fffffu) == 0;
}

// The count of an integer neuron at potential u; of NaN 0. A quotient by a power of two is a product.
template <bool kPowerOfTwo>
SPIKEFORMERS_INLINE float count_of(const Neuron& neuron, float u) {
  const float size_of_u = neuron.sign ? __builtin_fabsf(u) : u;
  const float beyond = size_of_u * neuron.gain - neuron.dead_zone;
  const float reached = beyond > 0.0f ? beyond : 0.0f;
  const float steps = kPowerOfTwo ? reached * (1.0f / neuron.step) : reached / neuron.step;
  const float top = static_cast<float>(neuron.levels);
  const float size = nearest(steps < top ? steps : top);
  return neuron.sign && u < 0.0f ? -size : size;
}

SPIKEFORMERS_INLINE bool binary_count(const Neuron& neuron, float u) { return u - neuron.threshold >= 0.0f; }

SPIKEFORMERS_INLINE int ternary_count(const Neuron& neuron, float u) {
  const float x = u / neuron.unit;
  return x >= neuron.ratio && x > 0.0f ? 1 : -x >= neuron.ratio && x < 0.0f ? -1 : 0;
}

// Without a step before this one: counts of n potentials.
SPIKEFORMERS_INLINE void counts_of(const Neuron& neuron, const float* u, std::int64_t n, std::int8_t* count) {
  if (neuron.type == SpikeType::integer && is_power_of_two(neuron.step))
    for (std::int64_t i = 0; i < n; ++i)
      count[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(count_of<true>(neuron, u[i])));
  else if (neuron.type == SpikeType::integer)
    for (std::int64_t i = 0; i < n; ++i)
      count[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(count_of<false>(neuron, u[i])));
  else if (neuron.type == SpikeType::binary)
    for (std::int64_t i = 0; i < n; ++i) count[i] = binary_count(neuron, u[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) count[i] = static_cast<std::int8_t>(ternary_count(neuron, u[i]));
}

void fire(const Neuron& given, const float* current, float* carry, bool first, std::int64_t n,
          std::int8_t* count) {
  const Neuron neuron = given;  // a copy, which bytes written to `count` cannot change
  const float decay = neuron.decay;
  if (carry == nullptr) {
    counts_of(neuron, current, n, count);
  } else if (neuron.type == SpikeType::integer) {
    for (std::int64_t i = 0; i < n; ++i) {
      const float u = first ? current[i] : carry[i] + current[i];
      const float c = count_of<false>(neuron, u);
      count[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(c));
      carry[i] = decay * (u - c * (neuron.step / neuron.gain));
    }
  } else if (neuron.type == SpikeType::binary) {
    for (std::int64_t i = 0; i < n; ++i) {
      const float u = first ? current[i] : carry[i] + current[i];
      const bool s = binary_count(neuron, u);
      count[i] = s;
      if (neuron.reset == Reset::soft)
        carry[i] = decay * (u - neuron.threshold * static_cast<float>(s));
      else if (neuron.reset == Reset::hard)
        carry[i] = s ? 0.0f : decay * u;
      else
        carry[i] = decay * u - neuron.threshold * static_cast<float>(s);
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      const float u = first ? current[i] : carry[i] + current[i];
      const int s = ternary_count(neuron, u);
      count[i] = static_cast<std::int8_t>(s);
      if (neuron.reset == Reset::hard)
        carry[i] = s != 0 ? 0.0f : decay * u;
      else
        carry[i] = decay * (u - neuron.unit * static_cast<float>(s));
    }
  }
}

// Values go from the row to lists of what fired without being written in between.
Fired fire_row(const Neuron& given, const Normaliser& norm, const float* x, std::int64_t n, std::int8_t* count,
               const Listing& listing) {
  const Neuron neuron = given;
  const Applied applied = applied_to(norm, x, n);
  Finite fine;
  Lists lists(listing, n);
  alignas(64) float u[kTogether];
  alignas(64) std::int8_t fired[kTogether];  // of the size that the lists load
  std::int64_t i = 0;
  for (; i + kTogether <= n; i += kTogether) {
    apply(applied, x, i, kTogether, u);
    if (norm.kind == NormKind::none) fine.add(u, kTogether);
    counts_of(neuron, u, kTogether, fired);
    lists.add(fired, i);
    __builtin_memcpy(count + i, fired, kTogether);
  }
  if (i < n) {
    apply(applied, x, i, n - i, u);
    if (norm.kind == NormKind::none) fine.add(u, n - i);
    counts_of(neuron, u, n - i, fired);
    for (std::int64_t k = 0; k < n - i; ++k) lists.add_one(count[i + k] = fired[k], i + k);
  }
  return {lists.close(), applied.finite && fine.all()};
}
