// Sum of x x^T over numbered chunks of the calibration set, combined in a tree that depends on the chunk numbers alone:
// any division of the chunks over ranks gives the same bits.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "backend/tensor.h"

namespace voronoi::calib {

/// Sum over chunks [first_chunk, first_chunk + 2^level).
struct HessianNode {
  std::int64_t first_chunk = 0, level = 0, n_tokens = 0, n_left_out = 0;
  backend::Array<double> lower;
};

/// Nodes of a binary tree over chunks 0, 1, 2, ...: node (level, index) is the sum of chunks [index * 2^level, (index +
/// 1) * 2^level). Two neighbours are merged as soon as both are there, so a run of chunks needs only a logarithmic
/// number of matrices.
class HessianTree {
 public:
  /// n: inputs of the site. A node holds the packed lower triangle, n(n+1)/2 values, row by row, in device memory.
  HessianTree(backend::Context& context, std::int64_t n);

  /// Values of a packed triangle of order n.
  static std::int64_t packed_size(std::int64_t n) { return n * (n + 1) / 2; }

  std::int64_t n() const { return n_; }
  /// `sum`: lower triangle of sum x x^T over the chunk in a full [n, n] matrix; n_tokens: rows it summed; n_left_out:
  /// rows of the chunk besides. Takes over the memory of nodes that were merged away, which is given back by the first
  /// of the calls below: as many matrices as there are nodes at most at a time are allocated, and no holes are left
  /// between those of several trees.
  void add_chunk(std::int64_t chunk, const backend::Array<double>& sum, std::int64_t n_tokens,
                 std::int64_t n_left_out = 0);

  std::int64_t n_nodes() const { return static_cast<std::int64_t>(nodes_.size()); }
  /// Takes the node of the lowest chunks out. There must be one.
  HessianNode pop_node();
  /// Adds a node of another tree of the same order over other chunks. Throws InternalError on one that is none.
  void absorb(HessianNode node);

  std::int64_t n_tokens() const;
  std::int64_t n_left_out() const;
  /// E[x x^T]: packed lower triangle of the sum over all nodes, from the lowest chunk on, divided by the tokens, as
  /// float.
  std::vector<float> mean();

 private:
  struct Node {
    std::int64_t n_tokens = 0, n_left_out = 0;
    backend::Array<double> lower;
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
