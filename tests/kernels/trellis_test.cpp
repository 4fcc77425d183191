#include "kernels/trellis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace voronoi::kernels {
namespace {

TEST(Trellis, StatesStandForWhatIsPublished) {
  struct Golden {
    TrellisCode code;
    std::vector<double> first;
    double at_12345, at_65535, rms;
  };
  for (const Golden& golden :
       {Golden{TrellisCode::three_inst, {.768066, -.919434, .931641, .294434}, 1.086914, -.158203, 1.243711},
        Golden{TrellisCode::mcg, {1.84375, .134521, -.759277, .839844}, -.406738, .850098, 1.244112},
        Golden{TrellisCode::mul1, {-3.453125, .641113, -.448486, .194458}, -1.409180, -.651367, 1.000312}}) {
    const auto value = [&](std::uint32_t state) { return static_cast<double>(trellis_value(golden.code, state)); };
    for (std::uint32_t state = 0; state < 4; ++state) EXPECT_NEAR(value(state), golden.first[state], 6e-7);
    EXPECT_NEAR(value(12345), golden.at_12345, 6e-7);
    EXPECT_NEAR(value(65535), golden.at_65535, 6e-7);
    double sum = 0, squares = 0;
    std::set<double> distinct;
    for (std::uint32_t state = 0; state < 65536; ++state) {
      sum += value(state);
      squares += value(state) * value(state);
      distinct.insert(value(state));
    }
    EXPECT_NEAR(std::sqrt(squares / 65536), golden.rms, 6e-7);
    EXPECT_NEAR(static_cast<double>(trellis_rms(golden.code)), golden.rms, 5e-4);
    if (golden.code != TrellisCode::mul1) continue;
    EXPECT_NEAR(sum / 65536, -.0019, 5e-5);
    EXPECT_EQ(distinct.size(), 913U);
  }
}

TEST(Trellis, TilesShareTheRowsEvenly) {
  EXPECT_EQ(trellis_tiles(trellis_units(192)), 1);
  EXPECT_EQ(trellis_tiles(trellis_units(576)), 4);
  EXPECT_EQ(trellis_tiles(trellis_units(1536)), 6);
  EXPECT_EQ(trellis_tiles(1), 1);
  for (std::int64_t units = 1; units < 300; ++units) {
    const std::int64_t tiles = trellis_tiles(units);
    EXPECT_EQ(first_unit(units, tiles), units);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t first = first_unit(units, tile), end = first_unit(units, tile + 1);
      EXPECT_GE(end - first, units > 8 ? units / tiles : 1);
      EXPECT_LE(kTrellisUnit * (end - first), kTrellisTile);
      for (std::int64_t unit = first; unit < end; ++unit) EXPECT_EQ(tile_of(units, unit), tile) << units;
    }
  }
}

/// What a circular string of symbols says, by its bits.
std::vector<float> values_by_bits(const TrellisSearch& search, const std::vector<std::uint8_t>& symbols) {
  std::string bits;
  for (const std::uint8_t symbol : symbols)
    for (int bit = search.bits - 1; bit >= 0; --bit) bits += (symbol >> bit & 1) != 0 ? '1' : '0';
  std::vector<float> values;
  for (std::size_t t = 0; t < symbols.size(); ++t) {
    std::uint32_t state = 0;
    for (int i = search.state_bits; i > 0; --i)
      state = 2 * state +
              (bits[((t + 1) * static_cast<std::size_t>(search.bits) + 16 * bits.size() - static_cast<std::size_t>(i)) %
                    bits.size()] == '1'
                   ? 1
                   : 0);
    values.push_back(trellis_value(search.code, state));
  }
  return values;
}

double error_of(const std::vector<float>& target, const std::vector<float>& value) {
  double sum = 0;
  for (std::size_t i = 0; i < target.size(); ++i)
    sum += static_cast<double>(target[i] - value[i]) * static_cast<double>(target[i] - value[i]);
  return sum;
}

class TrellisSearchTest : public ::testing::Test {
 protected:
  static std::vector<float> normal(std::size_t n, std::uint32_t seed, float deviation = 1) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> distribution(0, deviation);
    std::vector<float> values(n);
    for (float& value : values) value = distribution(engine);
    return values;
  }
  static std::vector<std::uint8_t> random_symbols(std::size_t n, int bits, std::uint32_t seed) {
    std::mt19937 engine(seed);
    std::vector<std::uint8_t> symbols(n);
    for (auto& symbol : symbols) symbol = static_cast<std::uint8_t>(engine() >> (32 - bits));
    return symbols;
  }
  /// One tile; `value` is what comes back beside the symbols.
  void search(const TrellisSearch& search, const std::vector<float>& target, std::vector<std::uint8_t>& symbols) {
    value.assign(symbols.size(), 0);
    const std::int32_t begin[2] = {0, static_cast<std::int32_t>(symbols.size())};
    cpu().trellis.search(exec_, search, 1, begin, std::ssize(target), target.data(), symbols.data(), value.data());
    EXPECT_EQ(value, values_by_bits(search, symbols));
  }
  std::vector<float> value;

 private:
  core::ThreadPool pool_{1};
  Exec exec_{&pool_, nullptr};
};

TEST_F(TrellisSearchTest, FindsTheBestOfAllStringsWithTheSameSeam) {
  // 16 symbols of 1 bit with windows of 12: the last 11 pass the end, the first 5 are free.
  for (const bool from_middle : {false, true})
    for (std::uint32_t seed = 0; seed < 8; ++seed) {
      const TrellisSearch kept{1, 12, TrellisCode::mul1, from_middle, true};
      const std::vector<std::uint8_t> before = random_symbols(16, 1, seed + 100);
      std::vector<float> target = values_by_bits(kept, before);
      const std::vector<float> noise = normal(16, seed);
      for (std::size_t i = 0; i < 16; ++i) target[i] += noise[i];
      double least = std::numeric_limits<double>::infinity();
      for (unsigned free = 0; free < 32; ++free) {
        std::vector<std::uint8_t> tried = before;
        for (std::size_t i = 0; i < 5; ++i)
          tried[(i + (from_middle ? 8 : 0)) % 16] = static_cast<std::uint8_t>(free >> i & 1U);
        least = std::min(least, error_of(target, values_by_bits(kept, tried)));
      }
      std::vector<std::uint8_t> symbols = before;
      search(kept, target, symbols);
      for (std::size_t i = 5; i < 16; ++i) {
        const std::size_t place = (i + (from_middle ? 8 : 0)) % 16;
        EXPECT_EQ(symbols[place], before[place]);
      }
      EXPECT_NEAR(error_of(target, value), least, 0.002);
    }
}

/// The least error of a string whose seam is that of `symbols`, by a table of all states in double precision.
double least_error(const TrellisSearch& search, const std::vector<float>& target,
                   const std::vector<std::uint8_t>& symbols) {
  const auto at = [](std::uint32_t state) { return static_cast<std::size_t>(state); };
  const std::uint32_t n_states = 1U << search.state_bits, mask = n_states - 1;
  std::uint32_t last = 0;
  for (int round = 0; round < 2; ++round)
    for (const std::uint8_t symbol : symbols) last = (last << search.bits | symbol) & mask;
  const std::uint32_t seam = last & (mask >> search.bits);
  std::vector<double> costs(n_states, std::numeric_limits<double>::infinity());
  for (std::uint32_t state = 0; state < n_states; ++state)
    if ((state & (mask >> search.bits)) == seam) costs[at(state)] = 0;
  for (const float wanted : target) {
    std::vector<double> next(n_states, std::numeric_limits<double>::infinity());
    for (std::uint32_t state = 0; state < n_states; ++state)
      for (std::uint32_t symbol = 0; symbol < 1U << search.bits; ++symbol) {
        const std::uint32_t to = (state << search.bits | symbol) & mask;
        const double gap = static_cast<double>(wanted - trellis_value(search.code, to));
        next[at(to)] = std::min(next[at(to)], costs[at(state)] + gap * gap);
      }
    costs = next;
  }
  double least = std::numeric_limits<double>::infinity();
  for (std::uint32_t state = 0; state < n_states; ++state)
    if ((state & (mask >> search.bits)) == seam) least = std::min(least, costs[at(state)]);
  return least;
}

TEST_F(TrellisSearchTest, ComesWithinItsRoundingOfTheBestPath) {
  for (const auto& [bits, state_bits, code] : {std::tuple{1, 12, TrellisCode::mcg},
                                               {2, 12, TrellisCode::mul1},
                                               {3, 12, TrellisCode::three_inst},
                                               {4, 13, TrellisCode::mul1},
                                               {5, 15, TrellisCode::mul1}}) {
    const TrellisSearch kept{bits, state_bits, code, false, true};
    const std::vector<float> target = normal(48, 3, trellis_rms(code));
    std::vector<std::uint8_t> symbols = random_symbols(48, bits, 4);
    const double least = least_error(kept, target, symbols);
    search(kept, target, symbols);
    const double error = error_of(target, value);
    EXPECT_GE(error, least * (1 - 1e-9)) << bits;
    EXPECT_LE(error, least * 1.01) << bits;
    // Free ends do better than any seam by chance, and a search from the middle keeps what it has.
    TrellisSearch free = kept;
    free.keep_seam = false;
    search(free, target, symbols);
    const double freed = error_of(target, value);
    EXPECT_LT(freed, 0.9 * error) << bits;
    TrellisSearch again = kept;
    again.from_middle = true;
    search(again, target, symbols);
    EXPECT_LE(error_of(target, value), 1.005 * freed) << bits;
  }
}

TEST_F(TrellisSearchTest, NormalWeightsHaveTheErrorOfTheCode) {
  // Of random codes of 12 state bits: .2803, .0733, .0198 (QTIP); 6 dB a bit is the bound.
  const double expected[] = {.2803, .0733, .0198}, scale[] = {1.05, 0.98, 0.92};
  for (int bits = 1; bits <= 3; ++bits) {
    const TrellisSearch free{bits, 12, TrellisCode::mul1, false, false};
    const auto unit = static_cast<float>(scale[bits - 1]);
    double error = 0;
    for (std::uint32_t seed = 0; seed < 8; ++seed) {
      const std::vector<float> target = normal(256, 10 + seed, unit);
      std::vector<std::uint8_t> symbols(256);
      search(free, target, symbols);
      error += error_of(target, value) / (8 * 256) / static_cast<double>(unit * unit);
    }
    EXPECT_NEAR(error, expected[bits - 1], 0.08 * expected[bits - 1]) << bits;
    EXPECT_GT(error, std::pow(4, -bits));
  }
}

TEST_F(TrellisSearchTest, RowsPastTheLastDoNotCount) {
  const TrellisSearch free{2, 12, TrellisCode::mul1, false, false};
  const std::vector<float> target = normal(20, 5);
  std::vector<std::uint8_t> symbols(32);
  search(free, target, symbols);
  std::vector<float> counted(value.begin(), value.begin() + 20), zeros(32, 0.0F);
  std::copy(target.begin(), target.end(), zeros.begin());
  const double alone = error_of(target, counted);
  search(free, zeros, symbols);
  EXPECT_LT(alone, error_of(target, {value.begin(), value.begin() + 20}) * 1.001);
}

TEST(TrellisPacking, WordsHoldTheBitsOfTheRowsInTheirOrder) {
  // Two units of two columns, 3 bits a row.
  const std::int64_t units = 2, n = 2;
  std::vector<std::uint8_t> symbols;
  for (int i = 0; i < 32 * 2; ++i) symbols.push_back(static_cast<std::uint8_t>(i * 5 % 8));
  std::vector<std::uint16_t> codes(static_cast<std::size_t>(units * n * 3));
  pack_trellis(3, units, n, symbols.data(), codes.data());
  for (std::size_t unit = 0; unit < 2; ++unit)
    for (std::size_t column = 0; column < 2; ++column) {
      std::string bits;
      for (std::size_t row = 0; row < 16; ++row)
        for (int bit = 2; bit >= 0; --bit)
          bits += (symbols[(unit * 16 + row) * 2 + column] >> bit & 1) != 0 ? '1' : '0';
      for (std::size_t word = 0; word < 3; ++word)
        EXPECT_EQ(codes[(unit * 2 + column) * 3 + word], std::stoul(bits.substr(16 * word, 16), nullptr, 2));
    }
  // By hand: symbols 7, 0, 0 ... of one column: 1110 0000 0000 0000.
  std::vector<std::uint8_t> one(16);
  one[0] = 7;
  one[5] = 1;  // bits 15 .. 17 are 001
  std::vector<std::uint16_t> words(3);
  pack_trellis(3, 1, 1, one.data(), words.data());
  EXPECT_EQ(words, (std::vector<std::uint16_t>{0xE000, 0x4000, 0}));
}

}  // namespace
}  // namespace voronoi::kernels
