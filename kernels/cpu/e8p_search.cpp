// The nearest codewords of E8P and E81B, a vector a lane, without a look at most of their entries.
//
// E8P without its shift of +-1/4 is all sign patterns of even or odd number of the entries' magnitudes: which of both
// follows from the sum. 227 of the entries are all arrangements of seven sets of magnitudes: of each the best has the
// larger magnitudes at the larger coordinates, with the signs of the vector, but for that of the least coordinate where
// the number of signs is wrong. The other 29, of five times 3/2, are looked at one by one. E81B is alike.
#include <array>
#include <memory>
#include <vector>

#include "core/types.h"
#include "kernels/e8p.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/e8p_search.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::e8p_search {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, static_cast<std::size_t>(kE8pLanes)>;
using IntTag = hn::RebindToSigned<Tag>;
using Vector = hn::Vec<Tag>;
using IntVector = hn::Vec<IntTag>;
using Mask = hn::Mask<Tag>;
using IntMask = hn::Mask<IntTag>;

constexpr int kDim = e8p::kDim;
constexpr std::int32_t kNone = 0x7FFFFFFF;  // no key is above it

HWY_INLINE Vector set(float value) { return hn::Set(Tag(), value); }
HWY_INLINE IntVector int_set(std::int32_t value) { return hn::Set(IntTag(), value); }
HWY_INLINE Vector value_of(IntVector bits) { return hn::BitCast(Tag(), bits); }
/// What a key and the larger ones are above.
HWY_INLINE IntVector below(IntVector key) { return hn::Sub(key, int_set(1)); }
HWY_INLINE IntMask to_int(Mask mask) { return hn::RebindMask(IntTag(), mask); }

/// Eight coordinates, one a lane's vector.
struct Point {
  IntVector bits[kDim];
  /// Magnitudes whose three lowest bits are the coordinate's number: no two are equal.
  HWY_INLINE IntVector key(int i) const { return hn::Or(hn::And(bits[i], int_set(0x7FFFFFF8)), int_set(i)); }
  HWY_INLINE IntMask is_negative(int i) const { return hn::Lt(bits[i], hn::Zero(IntTag())); }
};

HWY_INLINE Point load_point(const float* x, std::int64_t stride, Vector shift) {
  Point point;
#pragma GCC unroll 8
  for (int i = 0; i < kDim; ++i)
    point.bits[i] = hn::BitCast(IntTag(), hn::Sub(hn::LoadU(Tag(), x + i * stride), shift));
  return point;
}

/// What is asked of a point before candidates are compared.
struct Order {
  IntVector sorted[kDim];  ///< keys, falling
  Vector sum;              ///< of the magnitudes
  Mask is_odd;             ///< whether the number of negative coordinates is
};

HWY_INLINE void exchange(IntVector& a, IntVector& b) {
  const IntVector high = hn::Max(a, b);
  b = hn::Min(a, b);
  a = high;
}

HWY_INLINE Order order_of(const Point& point) {
  Order order;
  IntVector* s = order.sorted;
  IntVector signs = point.bits[0];
#pragma GCC unroll 8
  for (int i = 0; i < kDim; ++i) {
    s[i] = point.key(i);
    if (i > 0) signs = hn::Xor(signs, point.bits[i]);
  }
  order.sum = value_of(s[0]);
#pragma GCC unroll 8
  for (int i = 1; i < kDim; ++i) order.sum = hn::Add(order.sum, value_of(s[i]));
  order.is_odd = hn::RebindMask(Tag(), hn::Lt(signs, hn::Zero(IntTag())));
  // Batcher's odd-even merge sort.
  exchange(s[0], s[1]), exchange(s[2], s[3]), exchange(s[4], s[5]), exchange(s[6], s[7]);
  exchange(s[0], s[2]), exchange(s[1], s[3]), exchange(s[4], s[6]), exchange(s[5], s[7]);
  exchange(s[1], s[2]), exchange(s[5], s[6]);
  exchange(s[0], s[4]), exchange(s[1], s[5]), exchange(s[2], s[6]), exchange(s[3], s[7]);
  exchange(s[2], s[4]), exchange(s[3], s[5]);
  exchange(s[1], s[2]), exchange(s[3], s[4]), exchange(s[5], s[6]);
  return order;
}

/// The best candidate of a point so far.
struct Choice {
  Vector gain;       ///< by how much half the squared distance falls, from that of the all-halves
  IntVector one;     ///< keys above have 3/2
  IntVector two;     ///< and above this one 5/2
  IntVector flip;    ///< the key whose sign is turned; -1: none
  IntVector halves;  ///< of the 29: bits of the coordinates that have 1/2, all others 3/2; 0: it is none of them
};

HWY_INLINE void choose(Mask better, Vector gain, IntVector one, IntVector two, IntVector flip, Choice& best) {
  const IntMask ints = to_int(better);
  best.gain = hn::IfThenElse(better, gain, best.gain);
  best.one = hn::IfThenElse(ints, one, best.one);
  best.two = hn::IfThenElse(ints, two, best.two);
  best.flip = hn::IfThenElse(ints, flip, best.flip);
}

/// The 29 by their bits, made from the table.
struct Halves {
  int coordinate[29][3];
  std::int32_t bits[29];
};
constexpr Halves make_halves() {
  Halves halves{};
  for (int k = 0; k < 29; ++k) {
    int n = 0;
    for (int i = 0; i < kDim; ++i) {
      const int doubled = e8p::doubled_of(e8p::kE8p.at[227 + k], i);
      if (doubled != 1 && doubled != -1) continue;
      halves.coordinate[k][n++] = i;
      halves.bits[k] |= 1 << i;
    }
  }
  return halves;
}
constexpr Halves kHalves = make_halves();

/// Of the codewords with one of the two shifts, which is taken off already. Candidates are compared by y.c - |c|^2 / 2,
/// less what it is for c of eight halves: (sum of y) / 2 - 1.
HWY_INLINE Choice choose_entry(const Point& point) {
  const Order order = order_of(point);
  const IntVector none = int_set(kNone), keep = int_set(-1), least = order.sorted[kDim - 1];
  const Vector low = value_of(least);
  // The price of a wrong number of signs, for even and odd sets.
  const Vector even = hn::IfThenElseZero(order.is_odd, low), odd = hn::IfThenZeroElse(order.is_odd, low);
  const IntVector even_flip = hn::IfThenElse(to_int(order.is_odd), least, keep),
                  odd_flip = hn::IfThenElse(to_int(order.is_odd), keep, least);
  Choice best{hn::Neg(even), none, none, even_flip, hn::Zero(IntTag())};
  Vector top = hn::Zero(Tag());
#pragma GCC unroll 4
  for (int k = 1; k <= 4; ++k) {  // k times 3/2
    top = hn::Add(top, value_of(order.sorted[k - 1]));
    const bool is_odd = k % 2 != 0;
    const Vector gain = hn::Sub(hn::Sub(top, set(static_cast<float>(k))), is_odd ? odd : even);
    choose(hn::Gt(gain, best.gain), gain, below(order.sorted[k - 1]), none, is_odd ? odd_flip : even_flip, best);
  }
  const Vector first = value_of(order.sorted[0]), twice = hn::Add(first, first);
  Vector gain = hn::Sub(hn::Sub(twice, set(3.0F)), even);  // 5/2
  choose(hn::Gt(gain, best.gain), gain, below(order.sorted[0]), below(order.sorted[0]), even_flip, best);
  gain = hn::Sub(hn::Sub(hn::Add(twice, value_of(order.sorted[1])), set(4.0F)), odd);  // 5/2 and 3/2
  choose(hn::Gt(gain, best.gain), gain, below(order.sorted[1]), below(order.sorted[0]), odd_flip, best);

  // Five times 3/2: what is lost is the sum of the three others and, where a sign must turn, the least of them or three
  // times the least of all.
  Vector magnitude[kDim];
#pragma GCC unroll 8
  for (int i = 0; i < kDim; ++i) magnitude[i] = value_of(point.key(i));
  const Vector thrice = hn::Mul(low, set(3.0F));
  Vector loss = set(1e30F);
  IntVector halves = hn::Zero(IntTag()), flip = keep;
#pragma GCC unroll 29
  for (int k = 0; k < 29; ++k) {
    const Vector a = magnitude[kHalves.coordinate[k][0]], b = magnitude[kHalves.coordinate[k][1]],
                 c = magnitude[kHalves.coordinate[k][2]], inner = hn::Min(hn::Min(a, b), c);
    const Vector now = hn::Add(hn::Add(hn::Add(a, b), c), hn::IfThenZeroElse(order.is_odd, hn::Min(inner, thrice)));
    const Mask better = hn::Lt(now, loss);
    loss = hn::IfThenElse(better, now, loss);
    halves = hn::IfThenElse(to_int(better), int_set(kHalves.bits[k]), halves);
    flip = hn::IfThenElse(to_int(better),
                          hn::IfThenElse(to_int(hn::Le(inner, thrice)), hn::BitCast(IntTag(), inner), least), flip);
  }
  flip = hn::IfThenElse(to_int(order.is_odd), keep, flip);
  gain = hn::Sub(hn::Sub(order.sum, set(5.0F)), loss);
  const Mask better = hn::Gt(gain, best.gain);
  choose(better, gain, none, none, flip, best);
  best.halves = hn::IfThenElseZero(to_int(better), halves);
  // Half the squared distance, less half of y.y.
  best.gain = hn::Add(best.gain, hn::Sub(hn::Mul(order.sum, set(0.5F)), set(1.0F)));
  return best;
}

HWY_INLINE Vector half_norm2(const Point& point) {
  Vector sum = hn::Zero(Tag());
#pragma GCC unroll 8
  for (int i = 0; i < kDim; ++i) {
    const Vector y = value_of(point.bits[i]);
    sum = hn::Add(sum, hn::Mul(y, y));
  }
  return hn::Mul(sum, set(0.5F));
}

/// For each of n vectors the magnitudes' pattern, two bits a coordinate, and the low byte of the code.
void search_e8p(std::int64_t n, std::int64_t stride, const float* x, float* values, std::int32_t* patterns,
                std::int32_t* low_bytes) {
  const IntTag int_tag;
  const std::int64_t n_lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
  for (std::int64_t v = 0; v < n; v += n_lanes) {
    const Vector quarter = set(0.25F);
    const Point up = load_point(x + v, stride, quarter), down = load_point(x + v, stride, hn::Neg(quarter));
    const Choice of_up = choose_entry(up), of_down = choose_entry(down);
    const Mask is_down = hn::Lt(hn::Sub(half_norm2(down), of_down.gain), hn::Sub(half_norm2(up), of_up.gain));
    const IntMask ints = to_int(is_down);
    const auto of_chosen = [ints](IntVector a, IntVector b) { return hn::IfThenElse(ints, b, a); };
    const Vector shift = hn::IfThenElse(is_down, hn::Neg(quarter), quarter);
    const IntVector one = of_chosen(of_up.one, of_down.one), two = of_chosen(of_up.two, of_down.two),
                    flip = of_chosen(of_up.flip, of_down.flip), halves = of_chosen(of_up.halves, of_down.halves);
    const IntMask is_listed = hn::Ne(halves, hn::Zero(int_tag));
    IntVector pattern = hn::Zero(int_tag), signs = hn::Zero(int_tag), levels = hn::Zero(int_tag);
#pragma GCC unroll 8
    for (int i = 0; i < kDim; ++i) {
      const IntVector bits = of_chosen(up.bits[i], down.bits[i]);
      const IntVector key = hn::Or(hn::And(bits, int_set(0x7FFFFFF8)), int_set(i));
      // The 29 have 3/2 where their bit is not set.
      const IntVector listed = hn::AndNot(halves, int_set(1 << i));
      const IntVector ranked = hn::IfThenElseZero(hn::Gt(key, one), int_set(1 << i));
      const IntMask is_one = hn::Ne(hn::IfThenElse(is_listed, listed, ranked), hn::Zero(int_tag)),
                    is_two = hn::Gt(key, two);
      const IntVector level = hn::IfThenElse(is_two, int_set(2), hn::IfThenElseZero(is_one, int_set(1)));
      const IntVector turned = hn::IfThenElseZero(hn::Eq(key, flip), int_set(INT32_MIN));
      const IntVector sign = hn::And(hn::Xor(bits, turned), int_set(INT32_MIN));
      levels = hn::Add(levels, level);
      pattern = hn::Or(
          pattern, hn::IfThenElse(is_two, int_set(2 << (2 * i)), hn::IfThenElseZero(is_one, int_set(1 << (2 * i)))));
      signs = hn::Or(signs, hn::IfThenElseZero(hn::Lt(sign, hn::Zero(int_tag)), int_set(1 << e8p::nibble_of(i))));
      const Vector magnitude = hn::Add(hn::ConvertTo(Tag(), level), set(0.5F));
      hn::StoreU(hn::Add(hn::BitCast(Tag(), hn::Or(hn::BitCast(int_tag, magnitude), sign)), shift), Tag(),
                 values + i * stride + v);
    }
    // An entry of odd sum has its last coordinate negated; bit 0 tells the shift.
    signs = hn::Xor(signs, hn::ShiftLeft<7>(hn::And(levels, int_set(1))));
    signs = hn::Xor(signs, hn::IfThenElseZero(ints, int_set(1)));
    hn::StoreU(pattern, int_tag, patterns + v);
    hn::StoreU(signs, int_tag, low_bytes + v);
  }
}

/// For each of n vectors bits of the coordinates that are not 0, and bits of the negative ones.
void search_e8(std::int64_t n, std::int64_t stride, const float* x, float* values, std::int32_t* places,
               std::int32_t* negatives) {
  const IntTag int_tag;
  const std::int64_t n_lanes = static_cast<std::int64_t>(hn::Lanes(Tag()));
  for (std::int64_t v = 0; v < n; v += n_lanes) {
    const Point point = load_point(x + v, stride, hn::Zero(Tag()));
    const Order order = order_of(point);
    const IntVector none = int_set(kNone), keep = int_set(-1), least = order.sorted[kDim - 1];
    const Vector first = value_of(order.sorted[0]), second = value_of(order.sorted[1]);
    // Keys above `from` are not 0, at this magnitude.
    Vector best = hn::Zero(Tag()), magnitude = hn::Zero(Tag());
    IntVector from = none, flip = keep;
    const auto offer = [&](Vector gain, Vector size, IntVector cut, IntVector turned) {
      const Mask better = hn::Gt(gain, best);
      best = hn::IfThenElse(better, gain, best);
      magnitude = hn::IfThenElse(better, size, magnitude);
      from = hn::IfThenElse(to_int(better), cut, from);
      flip = hn::IfThenElse(to_int(better), turned, flip);
    };
    offer(hn::Sub(hn::Add(first, second), set(1.0F)), set(1.0F), below(order.sorted[1]), keep);
    offer(hn::Sub(hn::Sub(hn::Mul(order.sum, set(0.5F)), set(1.0F)), hn::IfThenElseZero(order.is_odd, value_of(least))),
          set(0.5F), keep, hn::IfThenElse(to_int(order.is_odd), least, keep));
    // -2 in the last coordinate is no entry.
    const IntMask is_lacking = hn::And(hn::Eq(order.sorted[0], point.key(kDim - 1)), point.is_negative(kDim - 1));
    const Vector twice = hn::Sub(hn::Add(first, first), set(2.0F));
    offer(hn::IfThenElse(hn::RebindMask(Tag(), is_lacking), set(-1.0F), twice), set(2.0F), below(order.sorted[0]),
          keep);
    IntVector place = hn::Zero(int_tag), negative = hn::Zero(int_tag);
#pragma GCC unroll 8
    for (int i = 0; i < kDim; ++i) {
      const IntVector key = point.key(i);
      const IntMask is_there = hn::Gt(key, from);
      const IntVector turned = hn::IfThenElseZero(hn::Eq(key, flip), int_set(INT32_MIN));
      const IntVector sign = hn::And(hn::Xor(point.bits[i], turned), int_set(INT32_MIN));
      const IntVector bit = hn::IfThenElseZero(is_there, int_set(1 << i));
      place = hn::Or(place, bit);
      negative = hn::Or(negative, hn::IfThenElseZero(hn::Lt(sign, hn::Zero(int_tag)), bit));
      const IntVector value = hn::IfThenElseZero(is_there, hn::Or(hn::BitCast(int_tag, magnitude), sign));
      hn::StoreU(value_of(value), Tag(), values + i * stride + v);
    }
    hn::StoreU(place, int_tag, places + v);
    hn::StoreU(negative, int_tag, negatives + v);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::e8p_search
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {
namespace e8p_search {

HWY_EXPORT(search_e8p);
HWY_EXPORT(search_e8);

namespace {

constexpr std::size_t kPatterns = std::size_t{1} << 16;
constexpr std::int64_t kBatch = 64 * kE8pLanes;

/// Entries by what the searches tell of them.
struct Places {
  std::array<std::uint8_t, kPatterns> e8p, e8;
};

const Places& places() {
  static const std::unique_ptr<const Places> made = [] {
    auto p = std::make_unique<Places>();
    p->e8p.fill(0);
    p->e8.fill(0);
    for (std::size_t k = 0; k < e8p::kEntries; ++k) {
      std::size_t pattern = 0, place = 0, negative = 0;
      for (int i = 0; i < e8p::kDim; ++i) {
        const int doubled = e8p::doubled_of(e8p::kE8p.at[k], i), of_e8 = e8p::doubled_of(e8p::kE8.at[k], i);
        pattern |= static_cast<std::size_t>((doubled < 0 ? -doubled : doubled) / 2) << (2 * i);
        if (of_e8 != 0) place |= std::size_t{1} << i;
        if (of_e8 < 0) negative |= std::size_t{1} << i;
      }
      p->e8p[pattern] = static_cast<std::uint8_t>(k);
      p->e8[place << 8 | negative] = static_cast<std::uint8_t>(k);
    }
    return p;
  }();
  return *made;
}

/// make(a, b): the code of what a search tells of a vector.
template <class Search, class Make>
void for_batches(std::int64_t n, std::int64_t stride, const float* x, float* values, std::uint16_t* codes,
                 const Search& search, const Make& make) {
  alignas(64) std::array<std::int32_t, kBatch> a, b;
  for (std::int64_t first = 0; first < n; first += kBatch) {
    const std::int64_t count = first + kBatch < n ? kBatch : n - first;
    search(count, stride, x + first, values + first, a.data(), b.data());
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
      codes[first + static_cast<std::int64_t>(i)] =
          make(static_cast<std::size_t>(a[i]), static_cast<std::size_t>(b[i]));
  }
}

}  // namespace
}  // namespace e8p_search

void nearest_e8p(std::int64_t n, std::int64_t stride, const float* x, float* values, std::uint16_t* codes) {
  const auto& entries = e8p_search::places().e8p;
  e8p_search::for_batches(n, stride, x, values, codes, HWY_DYNAMIC_DISPATCH(e8p_search::search_e8p),
                          [&](std::size_t pattern, std::size_t low_byte) {
                            return static_cast<std::uint16_t>(std::size_t{entries[pattern]} << 8 | low_byte);
                          });
}

void nearest_e8(std::int64_t n, std::int64_t stride, const float* x, float* values, std::uint16_t* codes) {
  const auto& entries = e8p_search::places().e8;
  e8p_search::for_batches(n, stride, x, values, codes, HWY_DYNAMIC_DISPATCH(e8p_search::search_e8),
                          [&](std::size_t place, std::size_t negative) {
                            return static_cast<std::uint16_t>(entries[place << 8 | negative]);
                          });
}

}  // namespace voronoi::kernels
#endif  // HWY_ONCE
