// Products of the aarch64 paths against sums taken one weight at a time; test_neon.py runs it under
// an emulator. Prints how many outputs were compared; returns 1 where one is wrong.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels.hpp"

using namespace spikeformers;

int main() {
  std::mt19937 draw(1);
  long wrong = 0, compared = 0;
  for (const Kernels* kernels : {neon_kernels(), portable_kernels()})
    for (int trial = 0; trial < 120; ++trial) {
      const int inputs = 1 + draw() % 300, outputs = 1 + draw() % 400, density = 1 + draw() % 100;
      const int levels[] = {1, 4, 16, 64}, most = levels[draw() % 4];
      const bool is_signed = draw() % 2, worst = trial % 5 == 0;
      const int row = (outputs + 63) / 64 * 32;  // bytes of a row of 4 bits
      std::vector<std::int8_t> eight(inputs * outputs), four(inputs * row, std::int8_t(0x88));
      std::vector<float> real(inputs * outputs);
      std::vector<int> small(inputs * outputs);
      for (int i = 0; i < inputs; ++i)
        for (int o = 0; o < outputs; ++o) {
          eight[i * outputs + o] = worst ? -127 : int(draw() % 255) - 127;
          real[i * outputs + o] = float(draw()) / 4e9f - 0.5f;
          const int value = worst ? -8 : int(draw() % 16) - 8;
          small[i * outputs + o] = value;
          std::int8_t& two = four[i * row + o / 64 * 32 + o % 32];
          two = o % 64 < 32 ? (two & 0xf0) | (value + 8) : (two & 0x0f) | (value + 8) << 4;
        }
      std::vector<std::int32_t> index;
      std::vector<std::int8_t> count;
      std::vector<float> coef;
      for (int i = 0; i < inputs; ++i) {
        if (int(draw() % 100) >= density) continue;
        const int size = worst ? most : 1 + draw() % most;
        index.push_back(i);
        const bool below = is_signed && draw() % 2;  // which come first
        index.insert(below ? index.begin() : index.end(), i);
        count.insert(below ? count.begin() : count.end(), below ? -size : size);
      }
      for (const std::int8_t c : count) coef.push_back(c * 0.25f);
      const Events events{index.data(), std::int64_t(index.size())};
      const std::vector<float> scale(outputs, 1.0f), bias(outputs, 0.5f);
      const Finish finish{scale.data(), 1.0f, bias.data()};
      std::vector<float> found(outputs), other(outputs);
      const auto compare = [&](const auto& weight) {
        for (int o = 0; o < outputs; ++o) {
          long sum = 0;
          for (std::size_t k = 0; k < index.size(); ++k)
            sum += long(weight[index[k] * outputs + o]) * count[k];
          ++compared;
          wrong += found[o] != float(sum) + 0.5f;
        }
      };
      kernels->rows_i8(eight.data(), outputs, events, count.data(), 0, outputs, finish, found.data());
      compare(eight);
      kernels->rows_i4(four.data(), row, events, count.data(), 0, outputs, finish, found.data());
      compare(small);
      kernels->rows_f32(real.data(), outputs, events, coef.data(), 0, outputs, found.data());
      portable_kernels()->rows_f32(real.data(), outputs, events, coef.data(), 0, outputs, other.data());
      wrong += std::memcmp(found.data(), other.data(), outputs * sizeof(float)) != 0;
    }
  std::printf("%ld outputs compared, %ld wrong\n", compared, wrong);
  return wrong != 0;
}
