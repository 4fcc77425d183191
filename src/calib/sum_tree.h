// Sums of vectors over numbered chunks, combined in a tree that depends on the chunk numbers alone: any division of the
// chunks over ranks gives the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "backend/tensor.h"

namespace voronoi::calib {

/// Two numbers that are summed beside the values, for the owner of a tree to name.
using SumCounts = std::array<std::int64_t, 2>;

/// Sum over chunks [first_chunk, first_chunk + 2^level).
struct SumNode {
  std::int64_t first_chunk = 0, level = 0;
  SumCounts counts{};
  backend::Array<double> values;  ///< empty: all of these chunks were skipped
};

/// Nodes of a binary tree over chunks 0, 1, 2, ...: node (level, index) is the sum of chunks [index * 2^level, (index +
/// 1) * 2^level). Two neighbours are merged as soon as both are there, so a run of chunks needs only a logarithmic
/// number of vectors. Chunks that are no part of the sum are skipped by name, which holds no vector: a rank's chunks
/// are one run in every tree over them. All in device memory.
class SumTree {
 public:
  /// n: values of a vector.
  SumTree(backend::Context& context, std::int64_t n);

  std::int64_t n_values() const { return n_; }
  /// Room for a chunk's values, content undefined. Takes over the memory of nodes that were merged away, which is given
  /// back by the first call other than this and add(): as many vectors as there are nodes at most at a time are
  /// allocated, and no holes are left between those of several trees.
  backend::Array<double> room();
  /// values: of n_values(), best from room().
  void add(std::int64_t chunk, backend::Array<double> values, SumCounts counts = {});
  /// The same of fp32 values [n_values()] in device memory, widened.
  void add(std::int64_t chunk, const float* values, SumCounts counts = {});

  /// The chunk adds nothing.
  void skip(std::int64_t chunk);

  std::int64_t n_nodes() const { return static_cast<std::int64_t>(nodes_.size()); }
  /// Takes the node of the lowest chunks out. There must be one.
  SumNode pop_node();
  /// Adds a node of another tree of the same n over other chunks. Throws InternalError on one that is none.
  void absorb(SumNode node);

  SumCounts counts() const;
  /// The sum over all nodes, from the lowest chunk on.
  backend::Array<double> total();

 protected:
  backend::Context& context() const { return *context_; }

 private:
  struct Node {
    SumCounts counts{};
    backend::Array<double> values;
  };
  using Key = std::pair<std::int64_t, std::int64_t>;  // first chunk, level
  /// spares: where the memory of merged nodes goes; null: back.
  void insert(std::int64_t level, std::int64_t index, Node node, std::vector<backend::Array<double>>* spares);

  backend::Context* context_;
  std::int64_t n_;
  std::map<Key, Node> nodes_;
  std::vector<backend::Array<double>> spares_;
};

}  // namespace voronoi::calib
