// Viterbi's algorithm over the states of a trellis code, a vector of states at a time.
//
// All states that share their upper bits but for the first `bits` have one best predecessor, so that costs are kept of
// 2^(state_bits - bits) edges, the bits that two neighbouring states share. With x the upper bits of an edge and c its
// lowest, edge (x, c) behind a weight is reached from edges (j, x) before it, through state (j, x, c), for all j. A
// vector has neighbouring x; the vectors of the 2^bits c are interleaved as they are stored. Which j it was is kept as
// the outcomes of the tournament between them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "core/error.h"
#include "core/types.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/trellis_values.h"
#include "kernels/kernels.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/trellis_search.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace voronoi::kernels::trellis {
namespace HWY_NAMESPACE {
#if HWY_TARGET != HWY_SCALAR
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<std::uint16_t, 32>;
using SignedTag = hn::RebindToSigned<Tag>;

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(Tag())); }

/// v[c] [lanes] for all c become [lanes][c].
template <int kFan>
HWY_INLINE void store_interleaved(const hn::Vec<Tag>* HWY_RESTRICT v, std::uint16_t* HWY_RESTRICT to) {
  const Tag tag;
  if constexpr (kFan == 2) {
    hn::StoreInterleaved2(v[0], v[1], tag, to);
  } else if constexpr (kFan == 4) {
    hn::StoreInterleaved4(v[0], v[1], v[2], v[3], tag, to);
  } else {
    // Pairs of c, then eight of them: in whole pieces of 16 bytes, which only have to find their place.
    using PairTag = hn::RepartitionToWide<Tag>;
    const PairTag pairs;
    alignas(64) std::uint32_t pieces[16 * 4];
    const std::int64_t half = lanes() / 2;
#pragma GCC unroll 4
    for (int group = 0; group < kFan / 8; ++group)
#pragma GCC unroll 2
      for (int upper = 0; upper < 2; ++upper) {
        const auto pair = [&](int i) HWY_ATTR {
          const auto a = v[8 * group + 2 * i], b = v[8 * group + 2 * i + 1];
          return hn::BitCast(pairs, upper == 0 ? hn::InterleaveLower(tag, a, b) : hn::InterleaveUpper(tag, a, b));
        };
        hn::StoreInterleaved4(pair(0), pair(1), pair(2), pair(3), pairs, pieces);
        for (std::int64_t i = 0; i < half; ++i) {
          const std::int64_t x = i / 4 * 8 + upper * 4 + i % 4;
          std::memcpy(to + x * kFan + 8 * group, pieces + 4 * i, 16);
        }
      }
  }
}

/// Costs [2^(state_bits - bits)] behind a weight of those before it. levels: as levels_of has them; n: numbers of x.
template <int kBits>
void advance(std::int64_t n, const std::int16_t* HWY_RESTRICT levels, std::int16_t weight,
             const std::uint16_t* HWY_RESTRICT before, std::uint16_t* HWY_RESTRICT behind,
             std::uint8_t* HWY_RESTRICT marks) {
  constexpr int kFan = 1 << kBits;
  const Tag tag;
  const SignedTag signed_tag;
  const std::int64_t n_lanes = lanes(), mark_bytes = n_lanes / 8;
  const auto target = hn::Set(signed_tag, weight);
  for (std::int64_t x = 0; x < n; x += n_lanes) {
    hn::Vec<Tag> old[std::size_t{kFan}], best[std::size_t{kFan}];
#pragma GCC unroll 32
    for (int j = 0; j < kFan; ++j) old[j] = hn::Load(tag, before + j * n + x);
    for (int c = 0; c < kFan; ++c) {
      hn::Vec<Tag> cost[std::size_t{kFan}];
#pragma GCC unroll 32
      for (int j = 0; j < kFan; ++j) {
        auto gap = hn::SaturatedSub(hn::Load(signed_tag, levels + j * n_lanes), target);
#pragma GCC unroll 2
        for (int shift = 0; shift < level_shift(kBits); ++shift) gap = hn::SaturatedAdd(gap, gap);
        cost[j] = hn::SaturatedAdd(old[j], hn::BitCast(tag, hn::MulFixedPoint15(gap, gap)));
      }
      levels += kFan * n_lanes;
#pragma GCC unroll 5
      for (int width = kFan / 2; width > 0; width /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) {
          hn::StoreMaskBits(tag, hn::Lt(cost[2 * i + 1], cost[2 * i]), marks);
          marks += mark_bytes;
          cost[i] = hn::Min(cost[2 * i], cost[2 * i + 1]);
        }
      best[c] = cost[0];
    }
    store_interleaved<kFan>(best, behind + x * kFan);
  }
}

/// Takes the least off all costs. n_edges is a multiple of the lanes.
void rebase(std::int64_t n_edges, std::uint16_t* costs) {
  const Tag tag;
  auto least = hn::Load(tag, costs);
  for (std::int64_t i = lanes(); i < n_edges; i += lanes()) least = hn::Min(least, hn::Load(tag, costs + i));
  alignas(64) std::uint16_t values[32];
  hn::Store(least, tag, values);
  const auto base = hn::Set(tag, *std::min_element(values, values + lanes()));
  for (std::int64_t i = 0; i < n_edges; i += lanes())
    hn::Store(hn::SaturatedSub(hn::Load(tag, costs + i), base), tag, costs + i);
}
#else   // HWY_TARGET != HWY_SCALAR
/// As marks and levels are laid out.
constexpr std::int64_t lanes() { return 8; }

template <int kBits>
void advance(std::int64_t n, const std::int16_t* levels, std::int16_t weight, const std::uint16_t* before,
             std::uint16_t* behind, std::uint8_t* marks) {
  constexpr std::int64_t kFan = 1 << kBits;
  std::fill_n(marks, n / 8 * kFan * (kFan - 1), std::uint8_t{0});
  for (std::int64_t x = 0; x < n; x += lanes())
    for (std::int64_t c = 0; c < kFan; ++c, levels += kFan * lanes(), marks += kFan - 1)
      for (std::int64_t lane = 0; lane < lanes(); ++lane) {
        std::array<int, std::size_t{kFan}> cost;
        for (std::int64_t j = 0; j < kFan; ++j) {
          const auto saturated = [](int value) { return std::clamp(value, -32768, 32767); };
          int gap = saturated(levels[j * lanes() + lane] - weight);
          for (int shift = 0; shift < level_shift(kBits); ++shift) gap = saturated(2 * gap);
          cost[static_cast<std::size_t>(j)] =
              std::min(before[j * n + x + lane] + ((gap * gap + (1 << 14)) >> 15), int{UINT16_MAX});
        }
        std::uint8_t* mark = marks;
        for (std::size_t width = kFan / 2; width > 0; width /= 2)
          for (std::size_t i = 0; i < width; ++i, ++mark) {
            if (cost[2 * i + 1] < cost[2 * i]) *mark = static_cast<std::uint8_t>(*mark | 1 << lane);
            cost[i] = std::min(cost[2 * i], cost[2 * i + 1]);
          }
        behind[(x + lane) * kFan + c] = static_cast<std::uint16_t>(cost[0]);
      }
}

void rebase(std::int64_t n_edges, std::uint16_t* costs) {
  const std::uint16_t base = *std::min_element(costs, costs + n_edges);
  for (std::int64_t i = 0; i < n_edges; ++i) costs[i] = static_cast<std::uint16_t>(costs[i] - base);
}
#endif  // HWY_TARGET != HWY_SCALAR

/// The edge before a weight on the best path to `edge` behind it.
template <int kBits>
std::int64_t edge_before(std::int64_t n, std::int64_t edge, const std::uint8_t* marks) {
  constexpr int kFan = 1 << kBits;
  const std::int64_t x = edge >> kBits, c = edge & (kFan - 1), n_lanes = lanes(), lane = x % n_lanes;
  marks += ((x / n_lanes * kFan + c) * (kFan - 1) * n_lanes + lane) / 8;
  std::int64_t winner = 0, first = kFan - 2;  // of the last round; before it stand two, four ...
  for (int width = 1; width < kFan; width *= 2) {
    const std::uint8_t outcome = marks[(first + winner) * n_lanes / 8];
    winner = 2 * winner + (outcome >> (lane % 8) & 1);
    first -= 2 * width;
  }
  return winner * n + x;
}

/// One pass over weights first, first + 1 .. of a circle of `length`, from one edge, or any (-1), to one, or any. Those
/// from n_valid on do not count. edges [count]: behind each weight.
template <int kBits>
void pass(const Pass& p, Workspace& work) {
  const std::int64_t n = p.n_edges >> kBits, mark_bytes = n * (1 << kBits) * ((1 << kBits) - 1) / 8;
  std::uint16_t* before = work.costs.data();
  std::uint16_t* behind = before + p.n_edges;
  std::fill_n(before, p.n_edges, p.from < 0 ? 0 : UINT16_MAX);
  if (p.from >= 0) before[p.from] = 0;
  for (std::int64_t step = 0; step < p.count; ++step) {
    if (step % kRebase == 0 && step >= kFirstRebase) rebase(p.n_edges, before);
    const std::int64_t place = (p.first + step) % p.length;
    const bool counts = place < p.n_valid;
    advance<kBits>(n, counts ? p.levels : p.zeros, counts ? p.targets[place] : std::int16_t{0}, before, behind,
                   work.marks.data() + step * mark_bytes);
    std::swap(before, behind);
  }
  std::int64_t edge = p.to >= 0 ? p.to : std::min_element(before, before + p.n_edges) - before;
  for (std::int64_t step = p.count - 1; step >= 0; --step) {
    work.edges.data()[step] = static_cast<std::int32_t>(edge);
    edge = edge_before<kBits>(n, edge, work.marks.data() + step * mark_bytes);
  }
}

void pass_of(const Pass& p, Workspace& work) {
  switch (p.bits) {
    case 1:
      return pass<1>(p, work);
    case 2:
      return pass<2>(p, work);
    case 3:
      return pass<3>(p, work);
    case 4:
      return pass<4>(p, work);
    default:
      return pass<5>(p, work);
  }
}

std::int64_t lanes_of() { return lanes(); }

}  // namespace HWY_NAMESPACE
}  // namespace voronoi::kernels::trellis
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace voronoi::kernels {
namespace trellis {

HWY_EXPORT(pass_of);
HWY_EXPORT(lanes_of);

namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

/// Levels of all states where advance() reads them: by blocks of x, by c, by j, a vector of x.
std::unique_ptr<Scratch<std::int16_t>> make_levels(TrellisCode code, int bits, int state_bits, std::int64_t n_lanes) {
  const float* values = values_of(code);
  const float by_level = kLevel / trellis_rms(code);
  const std::int64_t n_states = std::int64_t{1} << state_bits, fan = std::int64_t{1} << bits, n = n_states / fan / fan;
  auto levels = std::make_unique<Scratch<std::int16_t>>(n_states);
  std::int16_t* to = levels->data();
  for (std::int64_t x = 0; x < n; x += n_lanes)
    for (std::int64_t c = 0; c < fan; ++c)
      for (std::int64_t j = 0; j < fan; ++j)
        for (std::int64_t lane = 0; lane < n_lanes; ++lane)
          *to++ = level_of(by_level, values[(j * n + x + lane) * fan + c]);
  return levels;
}

/// Made at the first use, one for each code that a program searches and each width of vectors.
const std::int16_t* levels_of(TrellisCode code, int bits, int state_bits) {
  static std::mutex mutex;
  static std::map<std::tuple<TrellisCode, int, int, std::int64_t>, std::unique_ptr<Scratch<std::int16_t>>> made;
  const std::int64_t n_lanes = HWY_DYNAMIC_DISPATCH(lanes_of)();
  const std::lock_guard lock(mutex);
  auto& levels = made[{code, bits, state_bits, n_lanes}];
  if (!levels) levels = make_levels(code, bits, state_bits, n_lanes);
  return levels->data();
}

/// Levels of weights that do not count.
alignas(64) constexpr std::array<std::int16_t, std::size_t{1} << kMostStateBits> kZeros{};

/// The lowest n_bits of the state of weight `place` of a circle.
std::uint32_t state_at(const TrellisSearch& search, std::int64_t length, std::int64_t place, int n_bits,
                       const std::uint8_t* symbols) {
  std::uint32_t state = 0;
  for (std::int64_t back = (n_bits - 1) / search.bits; back >= 0; --back)
    state = state << search.bits | symbols[(place - back + 16 * length) % length];
  return state & ((1U << n_bits) - 1U);
}

void search_tile(const TrellisSearch& search, std::int64_t length, std::int64_t n_valid, const float* target,
                 std::uint8_t* symbols, float* value) {
  const int seam_bits = search.state_bits - search.bits;
  const std::int64_t n_edges = std::int64_t{1} << seam_bits, first = search.from_middle ? length / 2 : 0;
  const std::uint32_t low = (1U << search.bits) - 1U;
  Workspace work(search.bits, n_edges, length);
  std::array<std::int16_t, kTrellisTile> targets;
  const float by_level = kLevel / trellis_rms(search.code);
  for (std::int64_t i = 0; i < n_valid; ++i) targets[index(i)] = level_of(by_level, target[i]);
  Pass pass{search.bits,
            n_edges,
            levels_of(search.code, search.bits, search.state_bits),
            kZeros.data(),
            targets.data(),
            length,
            n_valid,
            0,
            0,
            -1,
            -1};
  const auto run = HWY_DYNAMIC_DISPATCH(pass_of);
  if (search.keep_seam) {
    pass.from = state_at(search, length, (first + length - 1) % length, seam_bits, symbols);
  } else {
    const std::int64_t lead = std::min(kSeamLead, length / 2);
    pass.first = (first + length - lead) % length;
    pass.count = 2 * lead;
    run(pass, work);
    pass.from = work.edges.data()[lead - 1];
  }
  pass.to = pass.from;
  pass.first = first;
  pass.count = length;
  run(pass, work);
  for (std::int64_t step = 0; step < length; ++step)
    symbols[(first + step) % length] =
        static_cast<std::uint8_t>(static_cast<std::uint32_t>(work.edges.data()[step]) & low);
  // What the string says, whichever way it was found.
  const float* values = values_of(search.code);
  const std::uint32_t mask = (1U << search.state_bits) - 1U;
  std::uint32_t state = state_at(search, length, length - 1, search.state_bits, symbols);
  for (std::int64_t i = 0; i < length; ++i) {
    state = (state << search.bits | symbols[i]) & mask;
    value[i] = values[state];
  }
}

}  // namespace

void search(const Exec& exec, const TrellisSearch& search, std::int64_t n_tiles, const std::int32_t* begin,
            std::int64_t n_rows, const float* target, std::uint8_t* symbols, float* value) {
  VORONOI_REQUIRE(search.bits >= 1 && search.bits <= kMostTrellisBits &&
                      search.state_bits >= least_state_bits(search.bits) && search.state_bits <= kMostStateBits,
                  "a trellis of other bits than these");
  exec.pool->parallel_for(n_tiles, [&](std::int64_t tile) {
    const std::int64_t first = begin[tile], length = begin[tile + 1] - first;
    VORONOI_REQUIRE(length >= kTrellisUnit && length <= kTrellisTile && length % kTrellisUnit == 0,
                    "a tile of a column is of 16 to 256 rows");
    search_tile(search, length, std::clamp<std::int64_t>(n_rows - first, 0, length), target + first, symbols + first,
                value + first);
  });
}

}  // namespace trellis
}  // namespace voronoi::kernels
#endif  // HWY_ONCE
