// Eight values of b bits are b bytes: a load from anywhere in the stream holds them, and each lane moves its own into
// place. Products are not contracted (-ffp-contract=off), so that vectors change no bit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/packed_rows.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include <bit>
#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "core/packing.h"
#include "kernels/cpu/packed_rows.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::packed::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr std::int64_t kRun = 8;  // values that begin at a byte

template <int kBits>
void unpack_row(const std::uint32_t* words, std::int64_t n, std::int32_t* HWY_RESTRICT codes) {
  static_assert(std::endian::native == std::endian::little, "bytes of the stream are read as one number");
  std::int64_t i = 0;
  if constexpr (kBits <= 8) {
    // As many lanes as 32 bits hold values.
    const hn::CappedTag<std::uint32_t, kBits <= 4 ? 8 : 4> d;
    constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
    using Window = std::conditional_t<(kBits <= 4), std::uint32_t, std::uint64_t>;
    const auto shifts = hn::Mul(hn::Iota(d, 0), hn::Set(d, kBits));
    const auto mask = hn::Set(d, (1U << kBits) - 1U);
    const auto* bytes = reinterpret_cast<const unsigned char*>(words);
    const std::int64_t readable = core::packed_words(n, kBits) * 4 - static_cast<std::int64_t>(sizeof(Window));
    for (std::int64_t byte = 0; i + kRun <= n && byte <= readable; i += kRun, byte += kBits) {
      Window window = 0;
      std::memcpy(&window, bytes + byte, sizeof window);
      for (std::int64_t first = 0; first < kRun; first += kLanes) {
        const auto here = hn::Set(d, static_cast<std::uint32_t>(window >> (first * kBits)));
        hn::StoreU(hn::BitCast(hn::RebindToSigned<decltype(d)>(), hn::And(hn::Shr(here, shifts), mask)),
                   hn::RebindToSigned<decltype(d)>(), codes + i + first);
      }
    }
  }
  for (; i < n; ++i) codes[i] = static_cast<std::int32_t>(value_at(words, i, kBits));
}

using UnpackRow = decltype(&unpack_row<1>);

void unpack(const std::uint32_t* words, int bits, std::int64_t n, std::int32_t* codes) {
  static constexpr UnpackRow kOfBits[] = {unpack_row<1>,  unpack_row<2>,  unpack_row<3>,  unpack_row<4>,
                                          unpack_row<5>,  unpack_row<6>,  unpack_row<7>,  unpack_row<8>,
                                          unpack_row<9>,  unpack_row<10>, unpack_row<11>, unpack_row<12>,
                                          unpack_row<13>, unpack_row<14>, unpack_row<15>, unpack_row<16>};
  kOfBits[bits - 1](words, n, codes);
}

void uniform_row(std::int64_t n, std::int64_t group_size, const std::int32_t* HWY_RESTRICT codes,
                 const std::int32_t* zeros, const float* scales, float* HWY_RESTRICT values) {
  for (std::int64_t first = 0; first < n; first += group_size, ++zeros, ++scales) {
    const std::int64_t end = HWY_MIN(n, first + group_size);
    const std::int32_t zero = *zeros;
    const float scale = *scales;
    for (std::int64_t c = first; c < end; ++c) values[c] = scale * static_cast<float>(codes[c] - zero);
  }
}

void signed_levels_row(std::int64_t n, std::int64_t group_size, const std::int32_t* HWY_RESTRICT codes,
                       const float* HWY_RESTRICT levels, const float* scales, float* HWY_RESTRICT values) {
  for (std::int64_t first = 0; first < n; first += group_size, scales += 2) {
    const std::int64_t end = HWY_MIN(n, first + group_size);
    const float above = scales[0], below = scales[1];
    for (std::int64_t c = first; c < end; ++c) {
      const float step = levels[codes[c]];
      values[c] = (step < 0 ? below : above) * step;
    }
  }
}

float dot(std::int64_t n, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b) {
  constexpr std::int64_t kSums = 16;
  const hn::CappedTag<float, kSums> d;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  hn::Vec<decltype(d)> running[kSums / kLanes];
  for (auto& sum : running) sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (std::int64_t part = 0; part < kSums / kLanes; ++part) {
      const std::int64_t at = i + part * kLanes;
      running[part] = hn::Add(running[part], hn::Mul(hn::LoadU(d, a + at), hn::LoadU(d, b + at)));
    }
  HWY_ALIGN float sums[kSums];
  for (std::int64_t part = 0; part < kSums / kLanes; ++part) hn::Store(running[part], d, sums + part * kLanes);
  for (; i < n; ++i) sums[i % kSums] += a[i] * b[i];
  for (std::int64_t half = kSums / 2; half > 0; half /= 2)
    for (std::int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

}  // namespace
}  // namespace voronoi::kernels::packed::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels::packed {

HWY_EXPORT(unpack);
HWY_EXPORT(uniform_row);
HWY_EXPORT(signed_levels_row);
HWY_EXPORT(dot);

void unpack(const std::uint32_t* words, int bits, std::int64_t n, std::int32_t* codes) {
  VORONOI_REQUIRE(bits >= 1 && bits <= 16, "a code has 1 to 16 bits");
  HWY_DYNAMIC_DISPATCH(unpack)(words, bits, n, codes);
}

void uniform_row(std::int64_t n, std::int64_t group_size, const std::int32_t* codes, const std::int32_t* zeros,
                 const float* scales, float* values) {
  HWY_DYNAMIC_DISPATCH(uniform_row)(n, group_size, codes, zeros, scales, values);
}

void signed_levels_row(std::int64_t n, std::int64_t group_size, const std::int32_t* codes, const float* levels,
                       const float* scales, float* values) {
  HWY_DYNAMIC_DISPATCH(signed_levels_row)(n, group_size, codes, levels, scales, values);
}

float dot(std::int64_t n, const float* a, const float* b) { return HWY_DYNAMIC_DISPATCH(dot)(n, a, b); }

}  // namespace voronoi::kernels::packed
#endif
