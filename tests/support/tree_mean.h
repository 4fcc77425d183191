// Means of trees of one rank.
#pragma once

#include "calib/rank_sums.h"

namespace voronoi::test {

/// Empties the tree.
inline calib::TreeMean mean_of(backend::Context& context, calib::HessianTree& tree) {
  const comm::Communicator alone = comm::Communicator::alone();
  return calib::RankSums(context, alone).mean(tree, 0);
}
inline std::vector<float> mean_of(backend::Context& context, calib::CrossTree& tree, std::int64_t n_tokens) {
  const comm::Communicator alone = comm::Communicator::alone();
  return calib::RankSums(context, alone).mean(tree, n_tokens, 0).values;
}

inline std::int64_t tokens_of(const calib::SumTree& tree) { return calib::HessianTree::n_tokens(tree.counts()); }
inline std::int64_t left_out_of(const calib::SumTree& tree) { return calib::HessianTree::n_left_out(tree.counts()); }

}  // namespace voronoi::test
