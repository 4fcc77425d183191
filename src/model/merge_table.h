// Byte-pair merging: pairs of neighbouring ids joined in the order of their ranks.
#pragma once

#include <cstdint>
#include <vector>

namespace voronoi::model {

/// Which pairs merge, in which order, into what.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank = kNone;
    std::int32_t id = 0;  ///< of the joined token
  };
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  explicit MergeTable(std::size_t n_pairs);
  /// Replaces an earlier merge of the same pair.
  void set(std::int32_t left, std::int32_t right, Merge merge);
  Merge find(std::int32_t left, std::int32_t right) const;

  /// Memory that apply() reuses from word to word.
  struct Scratch {
    std::vector<Merge> merges;
    std::vector<std::uint32_t> previous, next;
    std::vector<std::uint64_t> heap;
  };
  /// Merges in place: always the pair of least rank, the leftmost of equals. Negative ids merge with nothing.
  /// n ids take O(n log n).
  void apply(std::vector<std::int32_t>& ids, Scratch& scratch) const;

 private:
  struct Slot {
    std::uint64_t key;
    Merge merge;
  };
  std::size_t slot_of(std::uint64_t key) const;
  void apply_short(std::vector<std::int32_t>& ids, Scratch& scratch) const;
  void apply_long(std::vector<std::int32_t>& ids, Scratch& scratch) const;
  std::vector<Slot> slots_;  ///< open addressing, power of two, at most half full
  int shift_ = 0;
};

}  // namespace voronoi::model
