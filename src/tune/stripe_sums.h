// Sums over the sequences of a step, in host memory, combined in a tree that depends on their stripes alone.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "comm/mpi.h"

namespace voronoi::tune {

/// As calib::SumTree, for vectors that are as large as a block's weights: fp32, and a rank that has k stripes holds
/// about log2(k) + 1 of them.
class StripeSums {
 public:
  /// Vectors have one size; an empty one stands for zeros.
  void add(std::int64_t stripe, std::vector<float> values) { insert(0, stripe, std::move(values)); }
  bool empty() const { return nodes_.empty(); }
  void clear() { nodes_.clear(); }

  /// Empties it; `to` calls receive at the same time.
  void send(const comm::Communicator& world, int to);
  void receive(const comm::Communicator& world, int from);
  /// The sum of all, which it loses; empty where there was none but zeros.
  std::vector<float> total();

 private:
  void insert(std::int64_t level, std::int64_t index, std::vector<float> values);

  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<float>> nodes_;  // by first stripe and level
};

}  // namespace voronoi::tune
