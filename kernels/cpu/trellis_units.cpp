// A state is looked up where its value is: a table of 256 KiB stays in the second cache. Rows side by side in lanes
// move their windows out of one number of 64 bits, which holds the windows of eight.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/trellis_units.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include "kernels/cpu/trellis_units.h"
#include "kernels/cpu/trellis_values.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::trellis::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr std::int64_t kHalf = kTrellisUnit / 2;

/// trellis_value of TrellisCode::mul1.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToFloat<D>> mul1_values(D d, hn::Vec<D> states) {
  const hn::RebindToFloat<D> d_value;
  const auto value = [&](float x) HWY_ATTR { return hn::Set(d_value, x); };
  const auto x = hn::Mul(states, hn::Set(d, kMul1Factor)), every_other = hn::Set(d, 0x00FF00FFU);
  const auto pairs = hn::Add(hn::And(x, every_other), hn::And(hn::ShiftRight<8>(x), every_other));
  const auto sum = hn::And(hn::Add(pairs, hn::ShiftRight<16>(pairs)), hn::Set(d, 0xFFFFU));
  const auto whole =
      hn::ConvertTo(d_value, hn::BitCast(hn::RebindToSigned<D>(), hn::Add(sum, hn::Set(d, kMul1Offset))));
  const auto wide = hn::Add(hn::Mul(whole, value(kMul1Scale)), value(kMul1Shift));
  // Rounded to the 11 digits of 16 bits by T. J. Dekker's splitting (1971), exact where it has fewer.
  const auto far = hn::Mul(wide, value(8193.0F));
  return hn::Sub(far, hn::Sub(far, wide));
}

/// Rows of half a unit; their windows end at the lowest bit of `window`, bits apart, the last row's last.
template <int kBits, bool kMul1>
HWY_INLINE void decode_half(const float* table, std::uint32_t mask, std::uint64_t window, float* values) {
  HWY_ALIGN static constexpr std::uint64_t kShifts[kHalf] = {7 * kBits, 6 * kBits, 5 * kBits, 4 * kBits,
                                                             3 * kBits, 2 * kBits, kBits,     0};
  const hn::CappedTag<std::uint64_t, kHalf> d;
  const hn::Rebind<std::uint32_t, decltype(d)> d_narrow;
  const hn::RebindToSigned<decltype(d_narrow)> d_place;
  const hn::RebindToFloat<decltype(d_narrow)> d_value;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const auto bits = hn::Set(d, mask), all = hn::Set(d, window);
  for (std::int64_t first = 0; first < kHalf; first += kLanes) {
    const auto states = hn::TruncateTo(d_narrow, hn::And(hn::Shr(all, hn::Load(d, kShifts + first)), bits));
    if constexpr (kMul1)
      hn::StoreU(mul1_values(d_narrow, states), d_value, values + first);
    else
      hn::StoreU(hn::GatherIndex(d_value, table, hn::BitCast(d_place, states)), d_value, values + first);
  }
}

template <int kBits, bool kMul1>
void columns_of_bits(const UnitCodes& codes, std::int64_t first, std::int64_t count, float* HWY_RESTRICT values) {
  static_assert(kBits * kHalf + kMostStateBits <= 64);
  constexpr int kMiddle = (kBits * static_cast<int>(kHalf) + 15) / 16;  // words to the end of the first half
  constexpr int kBeyond = 16 * kMiddle - kBits * static_cast<int>(kHalf);
  const std::uint16_t* word = codes.words + first * kBits;
  const std::uint16_t* before = codes.words_before + first * kBits;
  for (std::int64_t c = 0; c < count; ++c, word += kBits, before += kBits, values += kTrellisUnit) {
    std::uint64_t window = *before;
    for (int i = 0; i < kMiddle; ++i) window = window << 16 | word[i];
    decode_half<kBits, kMul1>(codes.table, codes.mask, window >> kBeyond, values);
    for (int i = kMiddle; i < kBits; ++i) window = window << 16 | word[i];
    decode_half<kBits, kMul1>(codes.table, codes.mask, window, values + kHalf);
  }
}

using Columns = void (*)(const UnitCodes&, std::int64_t, std::int64_t, float*);

template <bool kMul1>
constexpr Columns kColumnsOfBits[kMostTrellisBits]{columns_of_bits<1, kMul1>, columns_of_bits<2, kMul1>,
                                                   columns_of_bits<3, kMul1>, columns_of_bits<4, kMul1>,
                                                   columns_of_bits<5, kMul1>};

void columns_of_unit(const UnitCodes& codes, std::int64_t first, std::int64_t count, float* values) {
  (codes.mul1 ? kColumnsOfBits<true> : kColumnsOfBits<false>)[codes.bits - 1](codes, first, count, values);
}

constexpr std::int64_t kChains = 4;
using Lanes = hn::CappedTag<float, kTrellisUnit>;
constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(Lanes()));
constexpr std::int64_t kVectors = kTrellisUnit / kLanes;

/// sums [kChains, kTrellisUnit] += the products of `count` columns, kChains at a time.
void add_columns(std::int64_t count, const float* values, const float* token, float* sums) {
  const Lanes d;
  for (std::int64_t vector = 0; vector < kVectors; ++vector) {
    hn::Vec<Lanes> chains[kChains];
    for (std::int64_t chain = 0; chain < kChains; ++chain)
      chains[chain] = hn::LoadU(d, sums + chain * kTrellisUnit + vector * kLanes);
    const auto add = [&](std::int64_t column, std::int64_t chain) HWY_ATTR {
      const auto here = hn::LoadU(d, values + column * kTrellisUnit + vector * kLanes);
      chains[chain] = hn::Add(chains[chain], hn::Mul(here, hn::Set(d, token[column])));
    };
    std::int64_t column = 0;
    for (; column + kChains <= count; column += kChains)
      for (std::int64_t chain = 0; chain < kChains; ++chain) add(column + chain, chain);
    for (std::int64_t chain = 0; column < count; ++column, ++chain) add(column, chain);
    for (std::int64_t chain = 0; chain < kChains; ++chain)
      hn::StoreU(chains[chain], d, sums + chain * kTrellisUnit + vector * kLanes);
  }
}

void product_of_unit(const UnitCodes& codes, std::int64_t n_tokens, const float* tokens, float* sums) {
  constexpr std::int64_t kColumns = 64;  // whose values stay in the first cache
  static_assert(kColumns % kChains == 0);
  HWY_ALIGN float values[kColumns * kTrellisUnit];
  HWY_ALIGN float chains[kMaxTrellisTokens * kChains * kTrellisUnit] = {};
  for (std::int64_t first = 0; first < codes.n_columns; first += kColumns) {
    const std::int64_t count = HWY_MIN(kColumns, codes.n_columns - first);
    columns_of_unit(codes, first, count, values);
    for (std::int64_t token = 0; token < n_tokens; ++token)
      add_columns(count, values, tokens + token * codes.n_columns + first, chains + token * kChains * kTrellisUnit);
  }
  for (std::int64_t token = 0; token < n_tokens; ++token)
    for (std::int64_t row = 0; row < kTrellisUnit; ++row) {
      const float* of_row = chains + token * kChains * kTrellisUnit + row;
      sums[token * kTrellisUnit + row] =
          (of_row[0] + of_row[kTrellisUnit]) + (of_row[2 * kTrellisUnit] + of_row[3 * kTrellisUnit]);
    }
}

}  // namespace
}  // namespace voronoi::kernels::trellis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels::trellis {

HWY_EXPORT(columns_of_unit);
HWY_EXPORT(product_of_unit);

UnitCodes::UnitCodes(const PackedTrellis& packed, std::int64_t unit)
    : table(values_of(packed.code)),
      mul1(packed.code == TrellisCode::mul1),
      bits(packed.bits),
      mask((1U << packed.state_bits) - 1U),
      n_columns(packed.in_features) {
  const std::int64_t units = trellis_units(packed.out_features), tile = tile_of(units, unit);
  const std::int64_t before = unit == first_unit(units, tile) ? first_unit(units, tile + 1) - 1 : unit - 1;
  words = packed.codes + unit * n_columns * bits;
  words_before = packed.codes + before * n_columns * bits + bits - 1;
}

void decode_columns(const UnitCodes& codes, std::int64_t first, std::int64_t count, float* values) {
  HWY_DYNAMIC_DISPATCH(columns_of_unit)(codes, first, count, values);
}

void multiply_unit(const UnitCodes& codes, std::int64_t n_tokens, const float* tokens, float* sums) {
  HWY_DYNAMIC_DISPATCH(product_of_unit)(codes, n_tokens, tokens, sums);
}

}  // namespace voronoi::kernels::trellis
#endif
