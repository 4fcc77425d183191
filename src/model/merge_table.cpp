#include "model/merge_table.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "core/error.h"

namespace voronoi::model {
namespace {

constexpr std::uint64_t kFree = ~std::uint64_t{0};
// Below this many ids a scan for the least rank beats a heap.
constexpr std::size_t kShort = 24;

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(std::size_t n_pairs) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(16, 2 * n_pairs));
  slots_.assign(size, Slot{kFree, {}});
  shift_ = 64 - std::countr_zero(size);
}

std::size_t MergeTable::slot_of(std::uint64_t key) const {
  std::size_t slot = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ULL) >> shift_);
  while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

void MergeTable::set(std::int32_t left, std::int32_t right, Merge merge) {
  VORONOI_REQUIRE(left >= 0 && right >= 0, "ids of a merge");
  const std::uint64_t key = key_of(left, right);
  slots_[slot_of(key)] = {key, merge};
}

MergeTable::Merge MergeTable::find(std::int32_t left, std::int32_t right) const {
  if ((left | right) < 0) return {};
  const Slot& slot = slots_[slot_of(key_of(left, right))];
  return slot.key == kFree ? Merge{} : slot.merge;
}

void MergeTable::apply(std::vector<std::int32_t>& ids, Scratch& scratch) const {
  if (ids.size() < 2) return;
  if (ids.size() <= kShort)
    apply_short(ids, scratch);
  else
    apply_long(ids, scratch);
}

void MergeTable::apply_short(std::vector<std::int32_t>& ids, Scratch& scratch) const {
  auto& merges = scratch.merges;  // merges[i]: of the pair (i, i + 1)
  std::size_t n = ids.size();
  merges.resize(n);
  for (std::size_t i = 0; i + 1 < n; ++i) merges[i] = find(ids[i], ids[i + 1]);
  for (;;) {
    std::size_t best = 0;
    std::uint32_t rank = kNone;
    for (std::size_t i = 0; i + 1 < n; ++i)
      if (merges[i].rank < rank) {
        rank = merges[i].rank;
        best = i;
      }
    if (rank == kNone) break;
    ids[best] = merges[best].id;
    for (std::size_t i = best + 1; i + 1 < n; ++i) {
      ids[i] = ids[i + 1];
      merges[i] = merges[i + 1];
    }
    --n;
    if (best > 0) merges[best - 1] = find(ids[best - 1], ids[best]);
    merges[best] = best + 1 < n ? find(ids[best], ids[best + 1]) : Merge{};
  }
  ids.resize(n);
}

void MergeTable::apply_long(std::vector<std::int32_t>& ids, Scratch& scratch) const {
  VORONOI_REQUIRE(ids.size() < kNone, "a word of 2^32 symbols");
  const auto n = static_cast<std::uint32_t>(ids.size());
  auto& merges = scratch.merges;
  auto &previous = scratch.previous, &next = scratch.next;
  auto& heap = scratch.heap;
  merges.assign(n, {});
  previous.resize(n);
  next.resize(n);
  heap.clear();
  // A heap entry is (rank, position); it is stale when the pair at that position has another rank by now.
  const auto entry = [](std::uint32_t rank, std::uint32_t at) { return (static_cast<std::uint64_t>(rank) << 32) | at; };
  for (std::uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? kNone : i - 1;
    next[i] = i + 1 == n ? kNone : i + 1;
    if (i + 1 == n) break;
    merges[i] = find(ids[i], ids[i + 1]);
    if (merges[i].rank != kNone) heap.push_back(entry(merges[i].rank, i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto renew = [&](std::uint32_t at) {
    merges[at] = next[at] == kNone ? Merge{} : find(ids[at], ids[next[at]]);
    if (merges[at].rank == kNone) return;
    heap.push_back(entry(merges[at].rank, at));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const std::uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<std::uint32_t>(top);
    if (merges[at].rank != static_cast<std::uint32_t>(top >> 32)) continue;
    const std::uint32_t gone = next[at];
    ids[at] = merges[at].id;
    merges[gone] = {};
    next[at] = next[gone];
    if (next[at] != kNone) previous[next[at]] = at;
    if (previous[at] != kNone) renew(previous[at]);
    renew(at);
  }
  std::size_t kept = 0;
  for (std::uint32_t i = 0; i != kNone; i = next[i]) ids[kept++] = ids[i];
  ids.resize(kept);
}

}  // namespace voronoi::model
