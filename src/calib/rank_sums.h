// Sums of trees over all ranks. The values are cut into one slice a rank: each rank receives the nodes' slices that are
// its own, sums them in the order of the chunks, and hands on the mean alone. Whatever the number of ranks, a rank
// sends the nodes it has once, and receives its share of everybody's. From GPU to GPU where the build has a transport
// between devices (kernels/collective.h), else through the host over MPI: the same bits either way.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/device.h"
#include "calib/hessian_tree.h"
#include "calib/sum_tree.h"
#include "comm/mpi.h"

namespace voronoi::calib {

/// What the trees of all ranks come to.
struct TreeMean {
  SumCounts counts{};
  std::int64_t n_nodes = 0;   ///< of all ranks; 0: all chunks were skipped, and there are no values
  std::vector<float> values;  ///< divided by the tokens; at the root alone
  RowWeights weights;         ///< of a HessianTree; at the root alone
};

/// Bytes of tree values that went from rank to rank.
struct Traffic {
  std::int64_t sent = 0, received = 0;
};

/// All calls but traffic() are collective, with trees of one size, over different chunks; they leave the tree empty.
class RankSums {
 public:
  /// What a rank tells of each node before its values go.
  static constexpr std::int64_t kHeaderBytes = 40;

  /// Both must outlive it.
  RankSums(backend::Context& context, const comm::Communicator& communicator);
  ~RankSums();
  RankSums(const RankSums&) = delete;
  RankSums& operator=(const RankSums&) = delete;

  /// E[x x^T] as a packed lower triangle: the sum over all nodes divided by the tokens, at `root`.
  TreeMean mean(HessianTree& tree, int root);
  /// A whole matrix, divided by n_tokens.
  TreeMean mean(CrossTree& tree, std::int64_t n_tokens, int root);
  /// The sum, rounded to fp32, on every rank.
  std::vector<float> sum(SumTree& tree);

  /// Of this rank, by all calls so far.
  const Traffic& traffic() const { return traffic_; }

 private:
  struct Header {  // of a node
    std::int64_t first_chunk = 0, level = 0;
    SumCounts counts{};
    std::int64_t has_values = 0;
  };
  struct Nodes {
    std::vector<SumNode> mine;
    std::vector<std::vector<Header>> of_ranks;
    SumCounts counts{};  ///< of all ranks
    std::int64_t n = 0;  ///< with values, of all ranks
    /// With values, of a rank.
    std::int64_t n_of(int rank) const;
  };
  struct Range {
    std::int64_t begin = 0, end = 0;
    std::int64_t size() const { return end - begin; }
  };
  /// Of a tree's values: the first n_divided are a mean's, those behind them are sums that stay together.
  struct Extent {
    std::int64_t n_divided = 0, n_values = 0;
  };

  Nodes take(SumTree& tree) const;
  /// A rank's slice of the values; the last rank's has the sums behind them.
  Range range_of(int rank, const Extent& extent) const;
  /// This rank's slice of the sum over all ranks.
  backend::Array<double> slice(Nodes nodes, const Extent& extent);
  /// One round: what `to` needs of this rank's nodes goes there, what this rank needs of those of `from` enters `sum`.
  void exchange(const Nodes& nodes, const Extent& extent, int to, int from, SumTree& sum);
  void copy(const double* from, std::int64_t n, double* to) const;
  /// All slices, those of the mean divided, at the root; what is behind them is returned there.
  std::vector<double> gather(const backend::Array<double>& slice, const Extent& extent, std::int64_t n_tokens, int root,
                             std::vector<float>& mean);

  backend::Context& context_;
  const comm::Communicator& communicator_;
  void* group_ = nullptr;  // null: over MPI
  Traffic traffic_;
};

}  // namespace voronoi::calib
