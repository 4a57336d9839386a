// Products of counts of a path, against sums taken one weight at a time: also of one that this machine
// cannot run, with its instructions emulated, or cross-compiled (test_emulated.py, test_neon.py). Prints how many
// outputs were compared; returns 1 where one is wrong.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "counts.hpp"

#if defined(EMULATE_AVX512)
#include <immintrin.h>

#include "emulated.hpp"
#define SPIKEFORMERS_AVX512
#elif defined(EMULATE_NEON)
#include "emulated.hpp"
#define SPIKEFORMERS_NEON
#elif defined(CHECK_AVX2)
#include <immintrin.h>
#define SPIKEFORMERS_AVX2
#elif defined(CHECK_PORTABLE)
#else
#include <arm_neon.h>
#define SPIKEFORMERS_NEON
#endif

namespace spikeformers {
namespace checked {
#include "counts.inl"
}
}  // namespace spikeformers

using namespace spikeformers;

namespace {

std::mt19937 draw(1);
long wrong = 0, compared = 0;

int between(int least, int most) { return least + static_cast<int>(draw() % static_cast<unsigned>(most - least + 1)); }

float half_of(std::uint16_t half) {
  const std::uint32_t bits = std::uint32_t{half} << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <class T>
void compare(const std::vector<T>& got, const std::vector<T>& wanted) {
  compared += static_cast<long>(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) wrong += std::memcmp(&got[i], &wanted[i], sizeof(T)) != 0;
}

struct Row {
  std::vector<std::int32_t> index, far_index, far_count;
  std::vector<std::int8_t> count, dense;
  RowCounts counts() const {
    return {{index.data(), std::int64_t(index.size())}, count.data(),
            {far_index.data(), std::int64_t(far_index.size())}, far_count.data()};
  }
};

Row row_of(int inputs, int density, bool worst) {
  Row row;
  row.dense.assign(static_cast<std::size_t>(inputs), 0);
  for (int i = 0; i < inputs; ++i) {
    if (between(0, 99) >= density) continue;
    if (between(0, 40) == 0) {
      row.far_index.push_back(i);
      row.far_count.push_back(between(0, 1) ? between(128, 20000) : -between(128, 20000));
      continue;
    }
    const int c = worst ? (between(0, 1) ? 127 : -127) : between(-127, 127);
    if (c == 0) continue;
    row.index.push_back(i);
    row.count.push_back(static_cast<std::int8_t>(c));
    row.dense[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(c);
  }
  return row;
}

// A matrix from end to end, packed as counts.hpp says, against sums taken one weight at a time.
void check_sweep(std::vector<std::int8_t> eight, int inputs, int outputs, const std::vector<std::int8_t>& dense) {
  const auto n = static_cast<std::size_t>(outputs);
  for (auto& w : eight) w = std::max<std::int8_t>(w, -127);
  const int fours = (inputs + 3) / 4;
  std::vector<std::int8_t> count(static_cast<std::size_t>(4 * fours));
  std::copy_n(dense.begin(), inputs, count.begin());
  for (int begin = 0; begin < outputs; begin += 64) {
    const int columns = std::min(64, outputs - begin);
    std::vector<std::int8_t> block(static_cast<std::size_t>(256 * fours));
    std::vector<std::int32_t> wanted(64), got(64, 1 << 30);
    for (int i = 0; i < inputs; ++i)
      for (int o = 0; o < columns; ++o) {
        const std::int8_t w = eight[static_cast<std::size_t>(i) * n + static_cast<std::size_t>(begin + o)];
        block[static_cast<std::size_t>(256 * (i / 4) + 4 * o + i % 4)] = w;
        wanted[static_cast<std::size_t>(o)] += w * count[static_cast<std::size_t>(i)];
      }
    checked::table.sweep(block.data(), fours, count.data(), got.data());
    compare(got, wanted);
  }
}

void check(int trial) {
  const bool worst = trial % 5 == 0;
  const int inputs = between(1, 300), outputs = between(1, trial % 10 == 0 ? 5000 : 400), density = between(0, 100);
  const auto n = static_cast<std::size_t>(outputs);
  const std::int64_t stride = (outputs + 63) / 64 * 32, groups = (inputs + 31) / 32;
  std::vector<std::int8_t> eight(static_cast<std::size_t>(inputs) * n);
  for (auto& w : eight) w = static_cast<std::int8_t>(worst ? (between(0, 1) ? -128 : 127) : between(-128, 127));
  std::vector<std::uint8_t> four(static_cast<std::size_t>(inputs * stride));
  for (auto& w : four) w = static_cast<std::uint8_t>(worst ? 255 : between(0, 255));
  std::vector<std::uint16_t> scale(static_cast<std::size_t>(groups) * n), minimum(scale.size());
  for (auto& x : scale) x = static_cast<std::uint16_t>(between(0x3c00, 0x3f80));
  for (auto& x : minimum) x = static_cast<std::uint16_t>(between(0xbc00, 0xc000));
  const GroupedWeights grouped{four.data(), stride, scale.data(), minimum.data(), outputs};
  const auto nibble = [&](int i, int o) {
    const int two = four[static_cast<std::size_t>(i * stride + o / 64 * 32 + o % 32)];
    return o % 64 < 32 ? two & 15 : two >> 4;
  };

  std::vector<Row> rows;
  std::vector<std::int8_t> dense;
  for (int t = 0; t < 4; ++t) {
    rows.push_back(row_of(inputs, density, worst));
    dense.insert(dense.end(), rows.back().dense.begin(), rows.back().dense.end());
  }
  std::vector<std::vector<float>> scaled;
  for (const Row& row : rows) {
    const RowCounts counts = row.counts();
    std::vector<std::int32_t> near(n), all(n);
    std::vector<float> wanted(n);
    for (int o = 0; o < outputs; ++o) {
      const auto at = static_cast<std::size_t>(o);
      std::vector<std::int32_t> sum(static_cast<std::size_t>(groups)), total(sum.size());
      const auto add = [&](int i, int c, bool far) {
        const std::int32_t product = eight[static_cast<std::size_t>(i) * n + at] * c;
        near[at] += far ? 0 : product;
        all[at] += product;
        sum[static_cast<std::size_t>(i / 32)] += nibble(i, o) * c;
        total[static_cast<std::size_t>(i / 32)] += c;
      };
      for (std::size_t e = 0; e < row.index.size(); ++e) add(row.index[e], row.count[e], false);
      for (std::size_t f = 0; f < row.far_index.size(); ++f) add(row.far_index[f], row.far_count[f], true);
      for (std::size_t g = 0; g < sum.size(); ++g) {
        const float one = half_of(scale[g * n + at]) * static_cast<float>(sum[g]);
        const float other = half_of(minimum[g * n + at]) * static_cast<float>(total[g]);
        wanted[at] = wanted[at] + (one + other);
      }
    }
    std::vector<std::int32_t> sum(n, 1 << 30);
    checked::table.rows(eight.data(), outputs, counts.near, row.count.data(), 0, outputs, sum.data());
    compare(sum, near);
    checked::table.far_rows(eight.data(), outputs, counts.far, row.far_count.data(), 0, outputs, sum.data());
    compare(sum, all);
    std::vector<float> got(n, 1e30f);
    checked::table.grouped(grouped, counts, 0, outputs, got.data());
    compare(got, wanted);
    scaled.push_back(wanted);
  }

  check_sweep(eight, inputs, outputs, rows[0].dense);

  // Blocks of four tokens; far counts of `block` are added by far_rows, and left out here.
  for (int begin = 0; begin < outputs; begin += 64) {
    const int columns = std::min(64, outputs - begin);
    std::vector<std::int32_t> sums(4 * 64);
    std::vector<float> reals(4 * 64);
    for (int first = 0; first < inputs; first += int(kCountRows)) {
      std::vector<std::int16_t> panel(static_cast<std::size_t>(kCountRows * kCountColumns), 77);
      const int some = std::min(int(kCountRows), inputs - first);
      checked::table.pack(eight.data() + first * outputs + begin, outputs, some, columns, panel.data());
      checked::table.block(panel.data(), some, dense.data() + first, inputs, sums.data());
    }
    for (int g = 0; g < groups; ++g) {
      std::vector<GroupCounts> counts;
      std::vector<std::int8_t> near(4 * 32);
      for (int t = 0; t < 4; ++t) {
        const Row& row = rows[static_cast<std::size_t>(t)];
        const auto all = static_cast<std::int64_t>(row.far_index.size());
        std::int64_t f = 0, end = 0;
        while (f < all && row.far_index[static_cast<std::size_t>(f)] / 32 < g) ++f;
        for (end = f; end < all && row.far_index[static_cast<std::size_t>(end)] / 32 == g;) ++end;
        GroupCounts to{near.data() + 32 * t, {row.far_index.data() + f, end - f}, row.far_count.data() + f, 0, 0};
        for (int i = 32 * g; i < std::min(inputs, 32 * g + 32); ++i) {
          const int c = near[static_cast<std::size_t>(32 * t + i % 32)] = row.dense[static_cast<std::size_t>(i)];
          to.total += c;
          to.size += std::abs(c);
        }
        for (; f < end; ++f) to.total += row.far_count[static_cast<std::size_t>(f)];
        counts.push_back(to);
      }
      checked::table.grouped_block(grouped, g, std::min(32, inputs - 32 * g), begin, counts.data(), 4, reals.data());
    }
    for (int t = 0; t < 4; ++t) {
      std::vector<std::int32_t> got(sums.begin() + 64 * t, sums.begin() + 64 * t + columns), wanted(got.size());
      for (int o = 0; o < columns; ++o)
        for (int i = 0; i < inputs; ++i)
          wanted[static_cast<std::size_t>(o)] += eight[static_cast<std::size_t>(i) * n + static_cast<std::size_t>(begin + o)] *
                                                 rows[static_cast<std::size_t>(t)].dense[static_cast<std::size_t>(i)];
      compare(got, wanted);
      const auto& row = scaled[static_cast<std::size_t>(t)];
      compare(std::vector<float>(reals.begin() + 64 * t, reals.begin() + 64 * t + columns),
              std::vector<float>(row.begin() + begin, row.begin() + begin + columns));
    }
  }
}

}  // namespace

int main() {
  for (int trial = 0; trial < 60; ++trial) check(trial);
  std::printf("%ld outputs compared, %ld wrong\n", compared, wrong);
  return wrong != 0;
}
