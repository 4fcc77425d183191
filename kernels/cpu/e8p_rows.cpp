// A codeword is a row of a table with signs of another and a shift of a third.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/e8p_rows.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, which sets up the target.
#include "kernels/cpu/e8p_rows.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::e8p::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, kDim>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(Floats()));

/// Coordinates [i, i + kLanes).
HWY_INLINE hn::Vec<Floats> codeword(const Tables& t, std::uint16_t code, int i) {
  const Floats d;
  const hn::RebindToUnsigned<Floats> d_bits;
  const auto entry = hn::BitCast(d_bits, hn::Load(d, t.entries[code >> 8U].data() + i));
  const auto signs = hn::Load(d_bits, t.signs[code & 0xFFU].data() + i);
  return hn::Add(hn::BitCast(d, hn::Xor(entry, signs)), hn::Set(d, t.shift[code & 0xFFU]));
}

void places(const Tables& t, const PackedE8p& p, std::int64_t first, std::int64_t count, float* HWY_RESTRICT values) {
  const Floats d;
  for (std::int64_t at = first; at < first + count; ++at)
    for (int i = 0; i < kDim; i += kLanes, values += kLanes) {
      auto sum = codeword(t, p.codes[at], i);
      if (p.e8_residual != nullptr)
        sum = hn::Add(sum, hn::Mul(hn::Load(d, t.e8[p.e8_residual[at]].data() + i), hn::Set(d, kE8Step)));
      else if (p.e8p_residual != nullptr)
        sum = hn::Add(sum, hn::Mul(codeword(t, p.e8p_residual[at], i), hn::Set(d, kE8pStep)));
      hn::StoreU(sum, d, values);
    }
}

}  // namespace
}  // namespace voronoi::kernels::e8p::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels::e8p {

HWY_EXPORT(places);

void decode_places(const PackedE8p& packed, std::int64_t first, std::int64_t count, float* values) {
  HWY_DYNAMIC_DISPATCH(places)(tables(), packed, first, count, values);
}

}  // namespace voronoi::kernels::e8p
#endif
