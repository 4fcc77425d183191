#include "calib/sum_tree.h"

#include "core/error.h"

namespace voronoi::calib {
namespace {

void add_to(SumCounts& sum, const SumCounts& counts) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += counts[i];
}

}  // namespace

SumTree::SumTree(backend::Context& context, std::int64_t n) : context_(&context), n_(n) {}

backend::Array<double> SumTree::room() {
  if (spares_.empty()) return backend::Array<double>(*context_, n_);
  backend::Array<double> values = std::move(spares_.back());
  spares_.pop_back();
  return values;
}

void SumTree::add(std::int64_t chunk, backend::Array<double> values, SumCounts counts) {
  VORONOI_REQUIRE(values.size() == n_, "a vector of the tree is wanted");
  insert(0, chunk, {counts, std::move(values)}, &spares_);
}

void SumTree::add(std::int64_t chunk, const float* values, SumCounts counts) {
  backend::Array<double> wide = room();
  context_->linalg().widen_f64(context_->exec(), n_, values, wide.data());
  add(chunk, std::move(wide), counts);
}

void SumTree::insert(std::int64_t level, std::int64_t index, Node node, std::vector<backend::Array<double>>* spares) {
  for (;;) {
    const std::int64_t sibling = index ^ 1;
    const auto found = nodes_.find({sibling << level, level});
    if (found == nodes_.end()) break;
    add_to(node.counts, found->second.counts);
    if (node.values.empty()) {
      node.values = std::move(found->second.values);
    } else if (!found->second.values.empty()) {
      // Addition commutes exactly, so left + right and right + left give the same bits.
      context_->linalg().add_f64(context_->exec(), n_, found->second.values.data(), node.values.data());
      if (spares != nullptr) spares->push_back(std::move(found->second.values));
    }
    nodes_.erase(found);
    index >>= 1;
    ++level;
  }
  const bool fresh = nodes_.emplace(Key{index << level, level}, std::move(node)).second;
  VORONOI_REQUIRE(fresh, "a chunk was added twice");
}

void SumTree::skip(std::int64_t chunk) { insert(0, chunk, {}, nullptr); }

SumNode SumTree::pop_node() {
  spares_.clear();
  VORONOI_REQUIRE(!nodes_.empty(), "no node is left");
  const auto lowest = nodes_.begin();
  SumNode node{lowest->first.first, lowest->first.second, lowest->second.counts, std::move(lowest->second.values)};
  nodes_.erase(lowest);
  return node;
}

void SumTree::absorb(SumNode node) {
  spares_.clear();
  VORONOI_REQUIRE(
      (node.values.size() == n_ || node.values.empty()) && node.level >= 0 && node.level < 62 && node.first_chunk >= 0,
      "a damaged tree node");
  insert(node.level, node.first_chunk >> node.level, {node.counts, std::move(node.values)}, nullptr);
}

SumCounts SumTree::counts() const {
  SumCounts total{};
  for (const auto& [key, node] : nodes_) add_to(total, node.counts);
  return total;
}

backend::Array<double> SumTree::total() {
  spares_.clear();
  backend::Array<double> total(*context_, n_);
  total.zero();
  for (const auto& [key, node] : nodes_)
    if (!node.values.empty()) context_->linalg().add_f64(context_->exec(), n_, node.values.data(), total.data());
  return total;
}

}  // namespace voronoi::calib
